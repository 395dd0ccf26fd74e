"""Every operator case: the generated C equals the integer reference, bit for bit, on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnbuild import interpret
from nnbuild.contract import Case, LayerView
from nnbuild.emit import EmitOptions, emit
from nnbuild.kernels import exact_requantize
from nnbuild.ops import ALL, BY_NAME, add
from nnbuild.target import TARGETS, Target

from . import host

CASES = [case for operator in ALL for case in operator.cases()]
TARGETS_HERE = {"portable": TARGETS["generic"]} | {
    name: replace(TARGETS[cpu], guard="")
    for name, cpu in (("armv6m", "cortex-m0"), ("armv7m", "cortex-m3"), ("dsp", "cortex-m4"))
}


def mismatches(case: Case, target: Target, folder: Path, pins: Mapping[str, str] | None = None) -> int:
    """Output bytes of all samples that differ between C and reference."""
    files = emit(case.network, EmitOptions("m", target, pins=pins or {}))
    library = host.shared_library(folder, files)
    sizes = [case.network.tensors[port.tensor].bytes for port in case.network.outputs]
    even = any(case.network.tensors[port.tensor].dtype != "int8" for port in case.network.outputs)
    wrong, states = 0, interpret.States()
    if hasattr(library, "m_reset"):
        library.m_reset()
    for sample in range(len(case.inputs[0])):
        inputs = [values[sample] for values in case.inputs]
        expected = interpret.run(case.network, inputs, states)
        outputs = host.call(library, "m_run", inputs, sizes, even)
        wrong += sum(int((a.ravel().view(np.int8) != b).sum()) for a, b in zip(expected, outputs, strict=True))
    return wrong


@pytest.mark.parametrize("target", TARGETS_HERE)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_c_equals_reference(case: Case, target: str, tmp_path: Path) -> None:
    assert mismatches(case, TARGETS_HERE[target], tmp_path) == 0


def other_kernels(case: Case) -> list[dict[str, str]]:
    """Pins that give the case's layers each of nnbuild's kernels but the first that serves."""
    found = []
    for layer in case.network.layers:
        view = LayerView.of(case.network, layer)
        kernels = [k for k in BY_NAME[layer.op].kernels if k.supports(view, TARGETS["generic"]) is None]
        found += [{layer.name: kernel.name} for kernel in kernels[1:]]
    return found


def test_kernels_that_are_not_the_first_choice(tmp_path: Path) -> None:
    pinned = [(case, pins) for case in CASES for pins in other_kernels(case)]
    assert {kernel for _, pins in pinned for kernel in pins.values()} == {"direct"}
    for number, (case, pins) in enumerate(pinned):
        assert mismatches(case, TARGETS["generic"], tmp_path / str(number), pins) == 0, f"{case.name} {pins}"


@pytest.mark.parametrize("target", TARGETS_HERE)
def test_single_rounding(target: str, tmp_path: Path) -> None:
    """With one rounding C equals the reference, too, and some bytes are others than with two."""
    changed = 0
    for case in CASES:
        single = replace(case, network=replace(case.network, single_rounding=True))
        assert mismatches(single, TARGETS_HERE[target], tmp_path / case.name) == 0, case.name
        inputs = [values[3] for values in case.inputs]
        outputs = [interpret.run(network, inputs)[0].tobytes() for network in (single.network, case.network)]
        changed += outputs[0] != outputs[1]
    assert changed > 0


def test_where_no_line_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On ARMv6-M, as with sums for which there is none."""
    monkeypatch.setattr(exact_requantize, "search", lambda channels, long=False: None)
    monkeypatch.setattr(add, "plane", lambda params: None)
    operators = {"add", "average_pool", "conv2d", "depthwise_conv2d", "fully_connected", "mul"}
    for case in CASES:
        if any(layer.op in operators for layer in case.network.layers):
            assert mismatches(case, TARGETS_HERE["armv6m"], tmp_path / case.name) == 0, case.name


def test_every_operator_with_kernels_has_cases() -> None:
    bare = [operator.name for operator in ALL if operator.kernels and not list(operator.cases())]
    assert bare == []
    assert len({case.name for case in CASES}) == len(CASES)


def test_cases_reach_both_ends_of_their_type() -> None:
    for case in CASES:
        limits = np.iinfo(case.inputs[0].dtype)
        assert {limits.min, limits.max} <= set(case.inputs[0].ravel().tolist())
