"""What a missed budget says would help: only what the report shows."""

from __future__ import annotations

import copy
import re
from typing import Any

from nnbuild import config
from nnbuild.report import hints, regional
from nnbuild.report.accuracy import Accuracy, LayerAccuracy
from nnbuild.report.linkerscript import Region
from tests import reports


def document() -> dict[str, Any]:
    made: dict[str, Any] = copy.deepcopy(reports.full())
    return made


def test_the_largest_layers_and_what_is_not_the_model() -> None:
    parts = hints.flash(document(), 9_000).split("; ")
    assert parts[:3] == [
        "layer kws_l00_conv2d (conv2d 8x8x4 -> 8x8x4) holds 30 % of it: weights 2,000, code 700",
        "layer kws_l02_softmax (softmax 8x8x4 -> 8x8x4) holds 12 % of it: weights 900, code 200",
        "layer kws_l01_add (add 8x8x4 -> 8x8x4) holds 3 % of it: code 300",
    ]
    smaller = "optimize='size' would save 2,000 bytes and take 1.48 times the cycles in kws"
    assert parts[3:] == [smaller, "selftest=0 leaves out 80 bytes of self-test"]
    assert hints.flash(document(), 4_420, "kws").split("; ") == [
        part.replace("30 %", "61 %").replace("12 %", "25 %").replace("3 %", "7 %") for part in parts[:4]
    ]
    other = document()
    other["flash"]["rest"] = 8_000
    assert "the rest of the firmware, without its models, holds 8,000 bytes" in hints.flash(other, 12_000)


def test_layers_without_symbols_hold_nothing_that_can_be_told() -> None:
    made = document()
    for layer in made["models"][0]["layers"]:
        layer.update(weights=None, code=None)
    assert "layer" not in hints.flash(made, 9_000)


def test_cmsis_nn_and_its_multipliers() -> None:
    made = document()
    made["licences"][1]["bytes"] = 4_000
    row = made["models"][0]["layers"][0]
    row.update(op="fully_connected", kernel="cmsis_nn", inputs=[[64]], output=[10], weights=64 * 10 + 12 * 10)
    text = hints.flash(made, 9_000)
    assert "fully_connected='per_tensor' saves 80 bytes of multipliers in kws" in text
    assert "CMSIS-NN's functions take 4,000 bytes, and backend='direct' links none of them" in text
    row["weights"] = 64 * 10 + 4 * 10  # one multiplier for all, already
    assert "per_tensor" not in hints.flash(made, 9_000)
    row.update(weights=64 * 10 + 12 * 10, kernel="horner")  # which reads one for each output in any case
    assert "per_tensor" not in hints.flash(made, 9_000)


def test_where_the_arena_is_fullest() -> None:
    first = hints.ram(document(), 1_200).split("; ")[0]
    assert first.startswith("the arena of kws, 640 bytes, is fullest at layer kws_l01_add (add 8x8x4 -> 8x8x4): ")
    assert first.endswith("activation l00_conv2d 256, activation l01_add 256, scratch l01_add 64")
    assert hints.ram(document(), 100_000) == ""  # next to nothing of it


def test_arenas_that_could_be_one() -> None:
    made = document()
    second = copy.deepcopy(made["models"][0])
    second.update(name="ic", ram={**second["ram"], "arena": 400})
    made["models"].append(second)
    assert "arena='shared' saves 400 bytes where kws, ic never run at once" in hints.ram(made, 1_700)
    assert "shared" not in hints.ram(made, 100_000)


def test_copies_and_tables() -> None:
    made = document()
    layers = made["models"][0]["layers"]
    layers[0].update(op="transpose", output=[10, 49])
    layers[1].update(op="lookup", node="/act/HardSwish")
    text = hints.ram(made, 1_200)
    assert "layer kws_l00_conv2d copies the input, 490 bytes: input_layout='NHWC' takes it as it lies" in text
    assert "'/act/HardSwish' keeps its input and output at once" in text


def test_the_stack() -> None:
    model = document()["models"][0]
    assert "500 bytes are kept for stack and heap, and the deepest inference needs 312" in hints.ram(document(), 1_200)
    assert hints.stack(model["stack"], model["layers"]) == "deepest: kws_run -> kws_l00_conv2d"
    called = {"bytes": 600, "path": ["kws_run", "kws_l00_conv2d.constprop.0", "arm_convolve_s8"], "note": ""}
    model["layers"][0].update(kernel="cmsis_nn", reasons={"direct": "cmsis_nn comes first"})
    assert hints.stack(called, model["layers"]).split("; ") == [
        "deepest: kws_run -> kws_l00_conv2d.constprop.0 -> arm_convolve_s8",
        "pins={'kws_l00_conv2d': 'direct'} calls none of CMSIS-NN's functions there",
    ]
    unknown = {"bytes": None, "path": ["kws_run"], "note": "recursion: f -> f"}
    assert hints.stack(unknown, model["layers"]) == "recursion: f -> f"
    assert hints.stack(None, model["layers"]) == "it is known when the model is linked"


def test_hints_of_a_region_name_only_what_lies_in_it() -> None:
    """Code in FLASH, weights in QSPI, the arena in DTCM, the firmware's variables in RAM."""
    places = {name: Region(name, at << 24, 1 << 20) for at, name in enumerate(("FLASH", "QSPI", "DTCM", "RAM"))}
    values = {"kws_run": 0x40, "kws_l00_conv2d": 0x80, "kws_arena": places["DTCM"].origin}
    values |= {"kws_l00_conv2d_bias": places["QSPI"].origin, "kws_l02_softmax_table": places["QSPI"].origin + 8}
    parts = {name: regional.part(document(), region, values, name == "RAM") for name, region in places.items()}
    assert "(conv2d 8x8x4 -> 8x8x4) holds 8 % of it: code 700" in hints.flash(parts["FLASH"], 9_000)
    assert "selftest=0" in hints.flash(parts["FLASH"], 9_000)
    weights = hints.flash(parts["QSPI"], 9_000)
    assert "holds 22 % of it: weights 2,000; " in weights
    assert "code" not in weights
    assert "selftest" not in weights
    arena = hints.ram(parts["DTCM"], 700)
    assert arena.startswith("the arena of kws")
    assert "kept for" not in arena
    assert hints.ram(parts["RAM"], 700).startswith("500 bytes are kept for stack")
    del values["kws_arena"]  # the caller's, under a name of its own
    assert hints.ram(regional.part(document(), places["RAM"], values, True), 700).startswith("the arena of kws")


# --- accuracy ----------------------------------------------------------------------------------------------------


def level(index: int, added: float | None, alone: float | None, saturation: float | None, **more: Any) -> LayerAccuracy:
    row = {"op": "conv2d", "weight_scales": 4, **more}
    name = f"kws_l{index:02}_{row['op']}"
    return LayerAccuracy(index, name, "", row["op"], 30.0, added, alone, saturation, row["weight_scales"])


def lost(*layers: LayerAccuracy) -> list[str]:
    """The parts of the hint."""
    found = Accuracy("kws", "0x1", "reference", 9, 90.0, 20.0, None, None, None, 9, layers, (), ())
    return hints.accuracy(found).split("; ")


MORE_SAMPLES = "try more, or more typical, calibration samples, or method='mse'"


def test_where_accuracy_is_lost() -> None:
    """What adds most on the way is not what loses most by itself."""
    assert lost(level(0, 35.0, 40.0, 10.0), level(1, 31.0, 44.0, 80.0), level(2, None, 50.0, 0.0)) == [
        "most noise is added by kws_l01_conv2d (31.0 dB), kws_l00_conv2d (35.0 dB)",
        "alone, kws_l00_conv2d loses most: 40.0 dB, 10 % of that noise by saturation",
        MORE_SAMPLES,
    ]


def test_saturation_needs_other_ranges() -> None:
    assert lost(level(0, 30.0, 25.0, 50.0))[-2:] == [
        "try calibration samples whose values reach as far",
        "method='mse' weighs saturation against rounding, method='minmax' saturates no calibration sample",
    ]
    assert lost(level(0, 30.0, 25.0, 49.0))[-1] == MORE_SAMPLES
    assert lost(level(0, 30.0, 25.0, 0.0))[1] == "alone, kws_l00_conv2d loses most: 25.0 dB"


def test_one_scale_for_all_outputs_is_named_where_it_loses() -> None:
    shared = {"op": "fully_connected", "weight_scales": 1}
    own = "fully_connected='per_channel' gives each output its own scale"
    assert lost(level(0, 30.0, 25.0, 0.0, **shared))[-1] == own
    assert lost(level(0, None, 25.0, 0.0, **shared))[-1] == own  # alone it loses most
    many = [level(index, 30.0 + index, 25.0 + index, 0.0) for index in range(3)]
    assert lost(*many, level(3, 40.0, 35.0, 0.0, **shared))[-1] == MORE_SAMPLES


def test_nothing_is_lost() -> None:
    assert lost(level(0, None, 200.0, 0.0), level(1, None, None, None)) == [MORE_SAMPLES]


def test_options_that_accuracy_names_exist() -> None:
    """A hint must not send anybody to an option that is refused."""
    layers = [level(0, 30.0, 25.0, share, op="fully_connected", weight_scales=1) for share in (0.0, 90.0)]
    for name, value in re.findall(r"(\w+)='(\w+)'", " ".join(part for layer in layers for part in lost(layer))):
        assert config.parse_options({name: value}, "") == {name: value}
