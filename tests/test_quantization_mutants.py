"""The tests of quantization catch faults: each mutant of what measures, chooses and corrects fails one of them."""

from __future__ import annotations

import importlib
import inspect
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import test_accuracy, test_calibrate, test_corrections, test_precision, test_range_choice, test_remarks

A, C, K = test_accuracy, test_calibrate, test_corrections
M, P, R = test_remarks, test_precision, test_range_choice

# (module, function, text in it, what it becomes, a test that must fail, arguments of it)
MUTANTS: list[tuple[str, str, str, str, Callable[..., None], tuple[Any, ...]]] = [
    ("calibrate", "ranges", "statistics[name].add(sample[name])", "pass", C.test_inputs_are_never_clipped, ()),
    ("calibrate", "ranges", '"minmax" if name in inputs else single', "single", C.test_inputs_are_never_clipped, ()),
    ("calibrate", "ranges", "not np.isfinite(found[name]).all()", "False", C.test_values_that_overflow_are_told, ()),
    ("calibrate", "ranges", "if method == AUTO:\n", "if False:\n",
     R.test_a_range_is_as_narrow_as_the_outputs_allow, ()),
    ("calibrate", "digest_of", '"<f4"', '"<f8"', C.test_json_comes_back, ()),
    ("histogram", "Histogram.add", "np.floor", "np.ceil", C.test_a_value_is_half_a_bin_from_its_centre, ()),
    ("histogram", "Histogram.add", "max(self.high, high)", "high", C.test_a_value_is_half_a_bin_from_its_centre, ()),
    ("histogram", "Histogram._widen", "self.width *= 2", "self.width *= 4",
     C.test_a_value_is_half_a_bin_from_its_centre, ()),
    ("histogram", "_percentile", "allowed = counts.sum() *", "allowed = 0 *",
     C.test_percentile_leaves_out_single_values_only_among_many, ()),
    ("histogram", "_least", "error(values, counts, candidate)", "least",
     C.test_mse_shrinks_a_range_with_a_tail_and_keeps_a_uniform_one, ()),
    ("histogram", "_divergence", "& (steps != 0)", "", R.test_entropy_does_not_see_the_zeros_of_a_relu, ()),
    ("ranges", "outward", "rounding=ROUND_FLOOR", "rounding=ROUND_CEILING", C.test_rounded_outward_to_six_digits, ()),
    ("ranges", "Ranges.to_json", "sorted(self.tensors)", "self.tensors", C.test_json_comes_back, ()),
    ("ranges", "Ranges.from_json", "low <= high", "True", C.test_json_with_impossible_ranges, ("[2, 1]",)),
    ("range_choice", "_best", "index: sums[index]", "index: -sums[index]",
     R.test_a_range_is_as_narrow_as_the_outputs_allow, ()),
    ("range_choice", "_best", "if float(gain.mean())", "if -float(gain.mean())",
     R.test_a_range_is_as_narrow_as_the_outputs_allow, ()),
    ("range_choice", "_Trial.errors", "quant.dequantize(quant.quantize(known[self.value]))", "known[self.value]",
     R.test_a_range_is_as_narrow_as_the_outputs_allow, ()),
    ("corrections", "corrected", "_gain(best, found) > _WORTH else", "True else",
     K.test_what_does_not_help_is_not_kept, ()),
    ("corrections", "corrected", "if not held or", "if", K.test_few_samples_correct_nothing, ()),
    ("corrections", "corrected", "_EQUALIZED_BY else ()", "0 else ()",
     K.test_channels_are_equalized_where_enough_samples_show_them, (40, False)),
    ("corrections.bias", "_shift", "stored + np.rint", "stored - np.rint", K.test_rounding_and_bias_help, ()),
    ("corrections.bias", "_shift", "/ len(errors)", "", K.test_rounding_and_bias_help, ()),
    ("corrections.equalize", "_scale", "bias * factors", "bias",
     K.test_equalizing_leaves_the_float_model_what_it_computes, ()),
    ("corrections.equalize", "_for_reader", "if groups == 1", "if True",
     K.test_equalizing_leaves_the_float_model_what_it_computes, ()),
    ("corrections.equalize", "correct", "** -strength", "** (-strength / 2)",
     K.test_equalizing_leaves_the_float_model_what_it_computes, ()),
    ("corrections.rounding", "_descend", "steps[:, index] - slope", "steps[:, index] + slope",
     K.test_rounding_and_bias_help, ()),
    ("corrections.rounding", "_round", "patches[group].T @ patches[group]", "np.eye(patches[group].shape[1])",
     K.test_rounding_and_bias_help, ()),
    ("corrections.layers", "walk", "correct(Layer(", "id(Layer(", K.test_rounding_and_bias_help, ()),
    ("remarks", "remarked", "== remark.value", "!= remark.value", M.test_a_remark_is_noted_once, ()),
    ("remarks", "note", "if entry.key != key", "if True", M.test_a_remark_is_noted_once, ()),
    ("remarks", "remarks", "if entry in known or entry[0] == STREAM", "", M.test_a_remark_is_noted_once, ()),
    ("layer_accuracy", "Power.add", "real - ours", "real + ours", A.test_by_hand, ()),
    ("layer_accuracy", "Power.join", "self.noise += other.noise", "pass", A.test_sums_run_over_all_samples, ()),
    ("layer_accuracy", "LayerComparison._add_alone", "probe.quantized(own, computed)", "computed",
     A.test_alone_by_hand, ()),
    ("layer_accuracy", "Power.saturation", "self.outside / self.noise", "0.0",
     A.test_saturation_is_the_share_of_values_out_of_range, ()),
    ("precision", "_left", "if name not in names", "if name in names", P.test_the_cheapest_set,
     ({"a": 1, "b": 1, "c": 1}, "", 9.0, 3.5, "a")),
    ("precision", "_cheapest", "costs.within([*taken, name])", "True", P.test_the_cheapest_set,
     ({"a": 9, "b": 1, "c": 1}, "", 2.0, 0.0, "bc")),
    ("precision", "_cheapest", "if enough:", "if False:", P.test_the_cheapest_set,
     ({"a": 4, "b": 1, "c": 0.6}, "", 9.0, 6.0, "c")),
    ("precision", "_best", "noise[name] / max(", "-noise[name] / max(", P.test_the_cheapest_set,
     ({"a": 9, "b": 1, "c": 1}, "", 99.0, 4.0, "bc")),
    ("precision_judge", "_own_and_others", "(rows[:1], rows[1:])", "(rows[1:],)",
     P.test_own_errors_and_those_of_others, ()),
    ("precision_judge", "_doubt", "/ math.sqrt(rows.shape[1])", "", P.test_agreement_and_drop, ()),
    ("precision_judge", "Judge.outlook", "(decided == self._labels)", "(real == self._labels)",
     P.test_agreement_and_drop, ()),
    ("precision_judge", "Judge.held", "fold(names), part", "form(names), part", P.test_held_out_samples_count, ()),
    ("precision_judge", "Judge.allowed", "(low * STEP_DB / 10)", "(low * STEP_DB / 20)",
     P.test_noise_may_grow_until_the_aim_is_missed, ()),
    ("precision_cost", "of", "if reads else", "if not reads else", P.test_the_cost_of_a_network, ()),
    ("precision_names", "layer_names", "layer.name for", "layer.op for", P.test_names_of_layers_come_back, ()),
    ("pipeline", "_judge", "len(labels) != count", "False", P.test_labels_of_other_samples_are_refused, ()),
]  # fmt: skip


def function_of(module: str, name: str) -> tuple[Any, Any]:
    """The module, and a function of it or of a class in it, without what decorates it."""
    home = importlib.import_module(f"nnbuild.{module}")
    found: Any = home
    for part in name.split("."):
        found = inspect.getattr_static(found, part)
    found = getattr(found, "fget", None) or getattr(found, "__func__", None) or found
    return home, found


def mutated(module: str, name: str, old: str, new: str) -> tuple[Any, Any]:
    """The function, and the code that it gets."""
    home, function = function_of(module, name)
    source = textwrap.dedent(inspect.getsource(function))
    assert old in source
    lines = source.replace(old, new).splitlines(keepends=True)
    start = next(index for index, line in enumerate(lines) if line.startswith("def "))
    names: dict[str, Any] = {}
    exec("from __future__ import annotations\n" + "".join(lines[start:]), home.__dict__, names)
    return function, names[function.__name__].__code__


@pytest.mark.parametrize(
    ("module", "name", "old", "new", "test", "given"),
    MUTANTS,
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_mutants_are_caught(
    module: str,
    name: str,
    old: str,
    new: str,
    test: Callable[..., None],
    given: tuple[Any, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    function, code = mutated(module, name, old, new)
    known: dict[str, Any] = {"tmp_path": tmp_path, "monkeypatch": monkeypatch}
    names = [parameter for parameter in inspect.signature(test).parameters if parameter not in known]
    values = dict(zip(names, given, strict=True))
    values |= {key: value for key, value in known.items() if key in inspect.signature(test).parameters}
    monkeypatch.setattr(function, "__code__", code)
    with pytest.raises((Exception, pytest.fail.Exception)) as caught:
        test(**values)
    assert not isinstance(caught.value, NameError | SyntaxError), "that is no mutant"
