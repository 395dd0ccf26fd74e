"""The table of options: each parses what it promises, refuses the rest by name, and is documented."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nnbuild import cli, config, option_values
from nnbuild.errors import ConfigError

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64K", 65536),
        ("64k", 65536),
        (" 64 KB ", 65536),
        ("1M", 1 << 20),
        ("0x100", 256),
        ("15", 15),
        (240000, 240000),
        (0, 0),
    ],
)
def test_sizes(text: Any, size: int) -> None:
    assert option_values.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "64G", "1.5K", "-1", -1, None, True, 1.0, "64K 3", [], "１K2x"])
def test_no_sizes(text: Any) -> None:
    with pytest.raises(ConfigError, match="must"):
        option_values.parse_size(text)


GOOD: dict[str, list[tuple[Any, Any]]] = {
    "calibration": [("a.npz", "a.npz"), ("calib.py:samples", "calib.py:samples"), ("synthetic", "synthetic")],
    "input_shape": [({"x": [1, 2]}, (("x", "1,2"),)), ({"x": "1, 2", "a": (3,)}, (("a", "3"), ("x", "1,2")))],
    "ranges": [("m.ranges.json", "m.ranges.json")],
    "method": [("minmax", "minmax")],
    "corrections": [("none", "none"), ("bias,rounding", "rounding,bias"), (["equalize"], "equalize")],
    "fully_connected": [("per_tensor", "per_tensor"), ("per_channel", "per_channel")],
    "int16": [("x", ("x",)), (["kws_l07_add", "x", "x"], ("kws_l07_add", "x"))],
    "rounding": [("single", "single"), ("double", "double")],
    "states": [({"h0": "hn", "c0": "cn"}, (("c0", "cn"), ("h0", "hn"))), ("keep", "keep")],
    "stream_axis": [(1, 1), (3, 3)],
    "stream_frames": [(1, 1), (160, 160)],
    "frozen": [("m.int8.onnx", "m.int8.onnx")],
    "name": [("kws", "kws"), ("Kws_2", "Kws_2")],
    "selftest": [(0, 0), (4, 4)],
    "raw_input_scale": [(1 / 16, 0.0625), (1, 1.0)],
    "raw_input_offset": [(-128, -128.0)],
    "raw_input": [("u8", "u8"), ("i16", "i16")],
    "arena": [("static", "static"), ("caller", "caller"), ("shared", "shared")],
    "arena_section": [(".dtcm", ".dtcm"), (".bss.fast", ".bss.fast")],
    "arena_align": [(4, 4), (32, 32)],
    "io": [("arena", "arena"), ("caller", "caller")],
    "stream_rows": [("auto", "auto"), ("never", "never"), ("l00-l08, l09", "l00-l08,l09")],
    "push_rows": [(True, True), (False, False)],
    "section": [(".ext_flash", ".ext_flash"), ("QSPI", "QSPI"), (".rodata.kws", ".rodata.kws")],
    "backend": [("cmsis_nn", "cmsis_nn"), ("auto", "auto"), ("direct", "direct")],
    "optimize": [("balanced", "balanced"), ("speed", "speed"), ("size", "size")],
    "cmsis_nn_sources": [(False, False)],
    "input_layout": [("NHWC", "NHWC")],
    "pins": [({"b": "direct", "a": "direct"}, (("a", "direct"), ("b", "direct")))],
    "flash": [("64K", 65536)],
    "ram": [(4096, 4096)],
    "stack": [("512", 512), ("1K", 1024)],
    "validation": [("a.npz", "a.npz"), ("val.py:samples", "val.py:samples")],
    "min_agreement": [(0.97, 0.97), ("97%", 0.97), (" 97.5 % ", 0.975), ("0.97", 0.97), (1, 1.0)],
    "max_drop": [(0.01, 0.01), ("1%", 0.01), (" 0.5 % ", 0.005), (0, 0.0), ("0", 0.0)],
    "min_sqnr": [(25, 25.0), (27.5, 27.5), ("25 dB", 25.0), ("27.5", 27.5)],
    "latency": [("2ms @ 48MHz, 1ws", "2000us @ 48MHz, 1ws"), ("120,000 cycles", "120000 cycles")],
    "latency_strict": [(True, True)],
    "sources": [(True, True)],
}
BAD: dict[str, list[Any]] = {
    "calibration": ["", 3, True, {}],
    "input_shape": [{}, [1, 2], {"x": [0, 1]}, {"x": []}, {"x": ["N", 1]}, {3: [1]}, {"x": 5}],
    "ranges": ["", 3],
    "method": ["magic", 3],
    "corrections": ["magic", 3, [], "bias,none"],
    "fully_connected": ["per_layer", True],
    "int16": ["", [], {"x": "y"}, [1], [""], True],
    "rounding": ["", 1],
    "states": ["", "all", {}, {"h0": ""}, {"h0": 1}, ["h0=hn"], True],
    "stream_axis": [0, -1, 16, True, "1", 1.0],
    "stream_frames": [0, -1, True, "2", 2.0, 10**9],
    "frozen": ["", 1.5],
    "name": ["", "3d", "a-b", "_x", 5],
    "selftest": [-1, 1.0, True, "4", 100000],
    "raw_input": ["u16", "", 8],
    "raw_input_scale": [0, -1, "1/16", float("inf"), float("nan"), True],
    "raw_input_offset": ["0", float("nan"), False],
    "arena": ["heap", True],
    "arena_section": ["", "a b", ".data", ".rodata.x", "__DATA,x", 3],
    "arena_align": [0, 2, 12, 8192, 4.0, True, "32"],
    "io": ["dma", True],
    "stream_rows": ["", "l00-", "l00 l08", "l00-l01-l02", True, ["l00"]],
    "push_rows": ["yes", 1],
    "section": ["", '.a"b', "a,b", "1st", ".bss", ".data", ".text", 3],
    "backend": ["cmsis", True, ""],
    "optimize": ["fast", "", 1],
    "cmsis_nn_sources": ["no", 0],
    "input_layout": ["NCHW", "nhwc"],
    "pins": [["a=b"], {"a": 1}, {"": "direct"}, "a=b"],
    "flash": ["64G", -1, "85%"],
    "ram": [True, "50 %"],
    "stack": [-1, "10%", "deep"],
    "validation": ["", 3, True, {}],
    "min_agreement": [97, "97", 0, "0%", "101%", -0.5, True, "", "x", float("nan"), []],
    "max_drop": [1, "100%", "1", -0.01, "-1%", True, "", "x", float("nan"), []],
    "min_sqnr": [0, -3, "0", "-3 dB", "25 %", "", True, float("inf"), float("nan")],
    "latency": ["2ms", "", 2, "0us @ 1MHz", "85%"],
    "latency_strict": ["yes", 1],
    "sources": ["yes", 1],
}


def given(name: str, value: Any) -> dict[str, Any]:
    """Options in which `name` stands alone, but for what it needs."""
    needs: dict[str, Any] = {"raw_input": "u8", "raw_input_scale": 1.0} if name.startswith("raw_input") else {}
    needs |= {"validation": "v.npz"} if name in config.BOUNDS.values() else {}
    needs |= {"latency": "2ms @ 48MHz"} if name == "latency_strict" else {}
    needs |= {"stream_axis": 1} if name == "stream_frames" else {}
    return {**needs, name: value}


def test_every_option_has_cases() -> None:
    assert set(GOOD) == set(BAD) == set(config.OPTIONS)


@pytest.mark.parametrize(("name", "value", "parsed"), [(n, *case) for n, cases in GOOD.items() for case in cases])
def test_good_values(name: str, value: Any, parsed: Any) -> None:
    assert config.parse_options(given(name, value), "m.onnx")[name] == parsed


@pytest.mark.parametrize(("name", "value"), [(n, value) for n, values in BAD.items() for value in values])
def test_bad_values(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse_options(given(name, value), "m.onnx")
    assert str(caught.value).startswith(f"m.onnx: option '{name}' must")
    assert repr(value) in str(caught.value)


def test_a_share_of_a_model_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"must be bytes such as '64K' \(a share is of a region, .*not '85%'"):
        config.parse_options({"flash": "85%"}, "m.onnx")


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"^m.onnx: unknown option 'calibraton'; hint: did you mean 'calibration'\?$"):
        config.parse_options({"calibraton": "a"}, "m.onnx")
    with pytest.raises(ConfigError, match=r"unknown option 'zzz'; hint: the options are calibration, "):
        config.parse_options({"zzz": 1}, "m.onnx")


@pytest.mark.parametrize("name", list(config.LATER))
def test_later_options_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"option '{name}' \(.*\) is not in this version of nnbuild"):
        config.parse_options({name: 1}, "m.onnx")
    assert name not in config.OPTIONS


def test_all_findings_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        config.parse_options({"zzz": 1, "flash": "x", "arena": "y"}, "m.onnx")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"raw_input_scale": 1.0}, "raw_input_scale' needs raw_input"),
        ({"raw_input": "u8"}, "raw_input' needs raw_input_scale"),
        ({"stream_frames": 2}, "stream_frames' needs stream_axis; hint: add stream_axis=1"),
        ({"stream_axis": 1, "states": "keep"}, "options 'stream_axis' and 'states' exclude each other"),
        ({"arena_section": ".dtcm", "arena": "caller"}, "arena_section' has no arena to place"),
        ({"arena_section": ".dtcm", "arena": "shared"}, "arena_section' cannot place a shared arena"),
        ({"max_drop": "1%"}, "max_drop' needs validation; hint: add validation="),
        ({"min_sqnr": 25}, "min_sqnr' needs validation; hint: add validation="),
        ({"min_agreement": "97%", "calibration": "c.npz"}, "min_agreement' needs validation"),
        (
            {"min_agreement": "97%", "validation": "v.npz", "calibration": "synthetic"},
            "min_agreement' means nothing with calibration='synthetic'; hint: calibrate with real samples",
        ),
        ({"sources": True, "flash": "1K"}, "flash' cannot be checked with sources=True"),
        ({"sources": True, "stack": 1, "latency": "1 cycles"}, "^m.onnx: option 'stack' cannot be checked [^\n]*$"),
    ],
)
def test_options_that_need_each_other(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config.parse_options(options, "m.onnx")


def test_sidecar(tmp_path: Path) -> None:
    path = tmp_path / "kws.toml"
    assert config.read_sidecar(path, "kws.toml") == {}
    path.write_text('flash = "64K"\n[pins]\nkws_l00_conv2d = "direct"\n')
    assert config.read_sidecar(path, "kws.toml") == {"flash": "64K", "pins": {"kws_l00_conv2d": "direct"}}
    path.write_text("sources = true\n")
    with pytest.raises(ConfigError, match=r"^kws.toml: option 'sources' belongs into the call"):
        config.read_sidecar(path, "kws.toml")
    path.write_text("flash = \n")
    with pytest.raises(ConfigError, match=r"^kws.toml: not a TOML file: "):
        config.read_sidecar(path, "kws.toml")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"^kws.toml: not a TOML file: "):
        config.read_sidecar(path, "kws.toml")


@pytest.mark.parametrize(
    ("file", "name"),
    [("models/kws.onnx", "kws"), ("kws.int8.onnx", "kws"), ("my model-2.onnx", "my_model_2"), ("C:\\m\\a.onnx", "a")],
)
def test_default_name(file: str, name: str) -> None:
    assert config.default_name(file) == name


def test_no_default_name() -> None:
    with pytest.raises(ConfigError, match=r"3d.onnx: '3d' is no prefix for C names; hint: add name="):
        config.default_name("models/3d.onnx")


def test_arguments_are_those_of_the_commands() -> None:
    """Every flag exists in the command that it is for, and takes the value as it is written."""
    for stage in ("quantize", "emit", "accuracy"):
        options = {n: v[0][1] for n, v in GOOD.items() if config.OPTIONS[n].stage == stage}
        words = [str(word) for word in config.arguments(options, stage)]
        required = {"quantize": ["m.onnx", "-o", "o"], "emit": ["m.onnx", "--output-dir", "o"]}
        parsed = parse(stage, required.get(stage, []) + words)
        for name, value in options.items():
            attribute = config.OPTIONS[name].flag.removeprefix("--").replace("-", "_")
            stored = getattr(parsed, attribute)
            entries = value if isinstance(value, tuple) else ()
            expected = [entry if isinstance(entry, str) else "=".join(entry) for entry in entries] or value
            assert stored == expected, name


def parse(command: str, words: list[str]) -> Any:
    import argparse
    import importlib

    module = importlib.import_module(f"nnbuild.commands.{command}")
    parser = argparse.ArgumentParser()
    module.add_arguments(parser)
    return parser.parse_args(words)


def test_methods_are_those_of_calibration() -> None:
    from nnbuild.calibrate import METHODS

    for method in METHODS:
        config.parse_options({"method": method}, "m.onnx")


def test_commands_exist() -> None:
    assert {"quantize", "emit", "accuracy", "size", "freeze"} <= set(cli.COMMANDS)


@pytest.mark.parametrize("name", list(config.reference()))
def test_documentation_holds_the_tables(name: str) -> None:
    text = (ROOT / "docs" / "SCONS.md").read_text(encoding="utf-8")
    match = re.search(rf"<!-- {name} -->\n(.*?)\n<!-- end -->", text, re.DOTALL)
    assert match is not None, f"docs/SCONS.md lacks the table '{name}'"
    assert match[1] == config.reference()[name], "run `python -m nnbuild.config` and copy the tables"


def test_import_is_light() -> None:
    code = "import sys, nnbuild.config; print([m for m in ('numpy', 'onnx', 'tomllib', 'difflib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
