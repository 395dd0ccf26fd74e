"""The size report: every byte counted once, to the right model, layer and kind."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nnbuild.cli import main
from nnbuild.errors import ConfigError
from nnbuild.report import document, elf, flashmap, schema, usage
from nnbuild.report.elf import Elf, Section, Symbol

COMPILER = "arm-none-eabi-gcc"
FLAGS = ["-mcpu=cortex-m0", "-mthumb", "-O1", "-ffunction-sections", "-fdata-sections"]

SCRIPT = """MEMORY { FLASH (rx) : ORIGIN = 0x0, LENGTH = 64K  RAM (rwx) : ORIGIN = 0x20000000, LENGTH = 8K }
SECTIONS {
  .text : { *(.text*) *(.rodata*) } > FLASH
  .data : { *(.data*) } > RAM AT > FLASH
  .bss : { *(.bss* COMMON) } > RAM
  STACK
}
"""
KWS = """
extern const signed char kws_l00_conv2d_weights[300], kws_l01_softmax_table[256];
static volatile signed char kws_arena[400];
static volatile int state;
static __attribute__((noinline)) int nn_requantize(int x) { return x * 3 + state; }
static __attribute__((noinline)) int kws_l00_conv2d(int x) { return kws_l00_conv2d_weights[x] + nn_requantize(x); }
int kws_run(int x) { kws_arena[x] = kws_l00_conv2d(x) + kws_l01_softmax_table[x]; return kws_arena[0]; }
"""
KWS_WEIGHTS = """
extern const signed char kws_l00_conv2d_weights[300], kws_l01_softmax_table[256];
const signed char kws_l00_conv2d_weights[300] = {1};
const signed char kws_l01_softmax_table[256] = {2};
"""
KWS_BIG = """
const int kws_big_l00_add_weights[50] = {3};
int kws_big_scratch[10];
int kws_big_run(int x) { kws_big_scratch[x] = x; return kws_big_l00_add_weights[x] + kws_big_scratch[0]; }
int kws_selftest(void) { return 1; }
"""
MAIN = """
extern int kws_run(int), kws_big_run(int), kws_selftest(void);
volatile int counter = 7;
static volatile char buffer[123];
const char banner[20] = "hello";
int main(void) { return kws_run(counter) + kws_big_run(2) + kws_selftest() + buffer[3] + banner[counter]; }
"""


def report(name: str, layers: list[str], arena: int = 400) -> dict[str, Any]:
    return {
        "schema": 2,
        "name": name,
        "model_id": "0xdeadbeef",
        "cpu": "cortex-m0",
        "arena": "static",
        "arena_map": [],
        "synthetic": False,
        "optimize": "balanced",
        "curve": [],
        "arena_bytes": arena,
        "scratch_bytes": 0,
        "cost": None,
        "layers": [
            {
                **{"index": i, "name": f"{name}_{layer}", "node": layer, "op": layer[4:], "kernel": "direct"},
                **{"reasons": {}, "function": f"{name}_{layer}", "inputs": [[4]], "output": [4], "macs": 16},
                **{"weights_bytes": 256, "scratch_bytes": 0, "cost": None, "alternatives": {}},
            }
            for i, layer in enumerate(layers)
        ],
    }


# What firmware around a model calls its own variables and functions.
NAMED_LIKE_A_MODEL = """
static volatile signed char kws_input[64];
volatile int kws_statistics[5];
const char kws_labels[40] = "yes";
int kws_task(void) { return kws_input[1] + kws_statistics[2] + kws_labels[3]; }
int kws_output_seen(int x) { return x + kws_task() * kws_statistics[x]; }
"""


def compile_all(
    folder: Path, stack: str = "", symbols: str = "", flags: list[str] = FLAGS, kws: str = KWS, firmware: str = MAIN
) -> Path:
    """The image `fw.elf` of the sources above."""
    if shutil.which(COMPILER) is None:
        pytest.skip(f"{COMPILER} is not installed")
    sources = {"kws.c": kws, "kws_weights.c": KWS_WEIGHTS, "kws_big.c": KWS_BIG, "main.c": firmware}
    for name, text in sources.items():
        (folder / name).write_text(text)
    (folder / "chip.ld").write_text(symbols + SCRIPT.replace("STACK", stack))
    for name in ("kws", "kws_big"):
        layers = {"kws": ["l00_conv2d", "l01_softmax"], "kws_big": ["l00_add"]}[name]
        (folder / f"{name}.report.json").write_text(json.dumps(report(name, layers, 400 if name == "kws" else 0)))
    for name in sources:
        subprocess.run([COMPILER, *flags, "-c", name], cwd=folder, check=True)
    objects = [name.replace(".c", ".o") for name in sources]
    link = ["-nostdlib", "-Wl,-Tchip.ld,-emain,--no-warn-rwx-segments", "-o", "fw.elf"]
    subprocess.run([COMPILER, *flags, *objects, *link, "-lgcc"], cwd=folder, check=True)
    return folder / "fw.elf"


def measured(folder: Path, *arguments: str, files: tuple[str, ...] = ("fw.elf",)) -> Any:
    """The JSON of `nnbuild size` with both models."""
    words = [str(folder / file) for file in files]
    for name in ("kws", "kws_big"):
        words += ["--model-report", str(folder / f"{name}.report.json")]
    words += ["--json", str(folder / "size.json"), "--text", str(folder / "size.txt"), *arguments]
    assert main(["size", *words]) == 0
    return json.loads((folder / "size.json").read_text())


def sections(path: Path) -> dict[str, int]:
    """Section sizes as binutils see them."""
    text = subprocess.run(["arm-none-eabi-size", "-A", path], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in text.splitlines() if line.startswith(".")]
    return {row[0]: int(row[1]) for row in rows}


def test_every_byte_is_counted_once(tmp_path: Path) -> None:
    path = compile_all(tmp_path)
    found = measured(tmp_path, "--linker-script", str(tmp_path / "chip.ld"))
    sizes = sections(path)
    assert found["schema"] == 2
    assert schema.violations(found, strict=True) == []
    assert found["flash"]["total"] == sizes[".text"] + sizes[".data"]
    assert sum(v for k, v in found["flash"].items() if k != "total") == found["flash"]["total"]
    assert found["ram"]["total"] == sizes[".data"] + sizes[".bss"]
    assert [(r["name"], r["used"], r["length"]) for r in found["regions"]] == [
        ("FLASH", found["flash"]["total"], 65536),
        ("RAM", found["ram"]["total"], 8192),
    ]


def test_variables_and_functions_of_the_firmware_named_like_a_model_are_not_the_models(tmp_path: Path) -> None:
    compile_all(tmp_path)
    models = measured(tmp_path)["models"]
    compile_all(tmp_path, firmware=MAIN + NAMED_LIKE_A_MODEL)
    found = measured(tmp_path)
    assert found["models"] == models
    assert found["ram"]["other"] >= sum(model["ram"]["other"] for model in models) + 64 + 20


def test_models_stand_in_the_order_of_their_names_not_of_their_folders(tmp_path: Path) -> None:
    compile_all(tmp_path)
    (tmp_path / "0").mkdir()
    (tmp_path / "kws_big.report.json").rename(tmp_path / "0" / "kws_big.report.json")
    words = [str(tmp_path / "fw.elf"), "--json", str(tmp_path / "size.json")]
    for folder in ("0/kws_big", "kws"):
        words += ["--model-report", str(tmp_path / f"{folder}.report.json")]
    assert main(["size", *words]) == 0
    found = json.loads((tmp_path / "size.json").read_text())
    assert [model["name"] for model in found["models"]] == ["kws", "kws_big"]


def test_bytes_go_to_their_model_layer_and_kind(tmp_path: Path) -> None:
    compile_all(tmp_path)
    found = measured(tmp_path)
    kws, big = found["models"]
    assert (kws["name"], kws["model_id"]) == ("kws", "0xdeadbeef")
    assert kws["flash"]["weights"] == 556
    assert kws["flash"]["kernels"] > 0  # nn_requantize, a local function of kws.c
    assert kws["flash"]["selftest"] > 0
    assert kws["ram"] == {"arena": 400, "scratch": 0, "other": 4, "total": 404}
    assert [(layer["name"], layer["weights"]) for layer in kws["layers"]] == [
        ("kws_l00_conv2d", 300),
        ("kws_l01_softmax", 256),
    ]
    assert 0 < kws["layers"][0]["code"] < kws["flash"]["code"]
    # kws_big_... also starts with kws_, and is another model's
    assert big["flash"]["weights"] == 200
    assert big["ram"]["scratch"] == 40
    assert big["layers"][0]["weights"] == 200
    assert found["flash"]["weights"] == 756
    assert found["flash"]["rest"] >= 20 + 4  # the banner, and the initial value of counter
    assert 0 <= found["ram"]["other"] - (4 + 4 + 123) < 8  # state, counter, buffer; the rest is alignment


@pytest.mark.parametrize(
    ("stack", "symbols", "reserve"),
    [
        ("", "", None),
        (".stack (NOLOAD) : { . += 1K; } > RAM", "", 1024),
        ("._user_heap_stack : { . += 0x300; } > RAM", "_Min_Stack_Size = 0x400;", 768),
        ("", "__stack_size = 2K; __heap_size = 512;", 2560),
        ("", "__StackTop = 0x20002000; __StackLimit = __StackTop - 1K;", 1024),
    ],
)
def test_stack_reserve(tmp_path: Path, stack: str, symbols: str, reserve: int | None) -> None:
    """Sections or symbols say it, never both; where nothing does, it is unknown, not zero."""
    compile_all(tmp_path, stack, symbols)
    found = measured(tmp_path, "--linker-script", str(tmp_path / "chip.ld"))
    assert found["ram"]["stack_reserve"] == reserve
    assert found["regions"][1]["used"] == found["ram"]["total"]
    text = (tmp_path / "size.txt").read_text()
    assert ("unattributed" in next(line for line in text.splitlines() if "stack reserve" in line)) == (reserve is None)


def test_link_time_optimization_keeps_the_models(tmp_path: Path) -> None:
    """What is left of a model with symbols is the model's; what went into another function is unattributed."""
    path = compile_all(tmp_path, flags=[*FLAGS, "-flto"])
    found = measured(tmp_path, "--html", str(tmp_path / "size.html"))
    kws = found["models"][0]
    assert kws["flash"]["weights"] == 556
    assert kws["ram"]["arena"] == 400
    assert kws["layers"][0]["code"] > 0
    assert kws["other_code"] is None  # kws_run went into main
    lines = (tmp_path / "size.txt").read_text().splitlines()
    assert "unattributed" in next(line for line in lines if "_run and others" in line)
    sums_up(found, path)


@pytest.mark.parametrize("flags", [[], ["-flto"]])
def test_inlined_layers_are_unattributed(tmp_path: Path, flags: list[str]) -> None:
    """As of a compiler that does not know how generated code asks for functions of their own."""
    path = compile_all(tmp_path, flags=[*FLAGS, *flags], kws=KWS.replace("__attribute__((noinline))", ""))
    found = measured(tmp_path)
    kws = found["models"][0]
    assert [layer["code"] for layer in kws["layers"]] == [None, None]
    assert [layer["weights"] for layer in kws["layers"]] == [300, 256]
    assert sum(line.count("unattributed") for line in (tmp_path / "size.txt").read_text().splitlines()) >= 2
    sums_up(found, path)


def sums_up(found: Any, path: Path) -> None:
    """Every byte of the image is in one of the kinds, and no model has more than there is."""
    sizes = sections(path)
    assert found["flash"]["total"] == sizes[".text"] + sizes[".data"]
    for place in (found["flash"], found["ram"]):
        assert sum(size or 0 for kind, size in place.items() if kind != "total") == place["total"]
    for kind in ("weights", "code"):
        assert sum(model["flash"][kind] for model in found["models"]) <= found["flash"][kind]
    shown = [cell.part.size for group in flashmap.layout(found) for cell in group.cells]
    assert sum(shown) == found["flash"]["total"]
    assert sum(row["bytes"] for row in found["licences"]) == found["flash"]["total"]
    for model in found["models"]:
        layers = sum(layer["code"] or 0 for layer in model["layers"])
        assert layers + (model["other_code"] or 0) == model["flash"]["code"]


def test_objects_of_one_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before linking, all bytes of the objects are the model's, and so is an arena that its caller owns."""
    compile_all(tmp_path)
    words = ["size", *(str(tmp_path / name) for name in ("kws.o", "kws_weights.o")), "--model-budget", "kws.ram=404"]
    words += ["--model-report", str(tmp_path / "kws.report.json"), "--json", str(tmp_path / "size.json")]
    assert main(words) == 0
    found = json.loads((tmp_path / "size.json").read_text())
    assert found["ram"]["total"] == 404
    assert found["flash"]["total"] == sum(
        sum(sections(tmp_path / f).get(s, 0) for s in sections(tmp_path / f) if s.startswith((".text", ".rodata")))
        for f in ("kws.o", "kws_weights.o")
    )
    assert main([*words, "--model-budget", "kws.ram=403"]) == 1
    assert "kws.o: kws ram is 1 bytes over its limit: 404 of 403 bytes" in capsys.readouterr().err
    (tmp_path / "kws_big.o").rename(tmp_path / "caller.o")
    words[1:5] = [str(tmp_path / "caller.o"), "--model-budget", "caller.ram=404"]
    (tmp_path / "kws.report.json").write_text(json.dumps(report("caller", [], arena=1000)))
    assert main(words) == 1
    assert "caller ram is 636 bytes over its limit: 1,040 of 404 bytes" in capsys.readouterr().err


def test_output_is_deterministic_and_names_no_folder(tmp_path: Path) -> None:
    texts = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        compile_all(tmp_path / name)
        measured(tmp_path / name)
        texts.append([(tmp_path / name / file).read_text() for file in ("size.json", "size.txt")])
    assert texts[0] == texts[1]
    assert str(tmp_path) not in "".join(texts[0])


def test_bad_files_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = compile_all(tmp_path)
    bad = tmp_path / "bad"
    for content, message in ((b"", "is no ELF file"), (b"not an ELF file at all", "is no ELF file")):
        bad.write_bytes(content)
        assert main(["size", str(bad)]) == 1
        assert message in capsys.readouterr().err
    assert main(["size", str(tmp_path / "none")]) == 1
    assert "none: cannot be read: No such file or directory" in capsys.readouterr().err
    bad.write_text("{}")
    assert main(["size", str(path), "--model-report", str(bad)]) == 1
    assert "is no model report of this version" in capsys.readouterr().err
    for limit in ("FLASH", "=1K", "FLASH=much"):
        assert main(["size", str(path), "--budget", limit]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_truncated_elf_never_crashes(tmp_path: Path) -> None:
    data = compile_all(tmp_path).read_bytes()
    bad = tmp_path / "bad"
    refused = 0
    for length in range(0, len(data), 97):
        bad.write_bytes(data[:length])
        try:
            elf.read(bad)
        except ConfigError:
            refused += 1
    assert refused > 10


def test_overlapping_symbols_count_once() -> None:
    """Aliases and sizes beyond the section must not add bytes."""
    symbols = (
        Symbol("kws_l00_a_w", 0, 10, False, ""),
        Symbol("kws_l00_a_alias", 0, 10, False, ""),
        Symbol("kws_l01_b_w", 8, 10, False, ""),
        Symbol("kws_l02_c_w", 30, 100, False, ""),
    )
    image = Elf("x", True, (Section(".rodata", 0, 0, 40, False, symbols),), {})
    read = usage.ModelReport("kws", "0x1", 0, 0, ())
    found = usage.measure([image], [read])
    assert found.flash["weights"] == 28
    assert found.flash["unattributed"] == 12
    assert {index: sum(kinds.values()) for index, kinds in found.models[0].layers.items()} == {0: 10, 1: 8, 2: 10}


def test_shared_kernels_have_their_names_and_licences() -> None:
    """Also a local function of a file of CMSIS-NN's; CMSIS-DSP's are the firmware's."""
    symbols = (
        Symbol("arm_convolve_s8", 0, 100, True, ""),
        Symbol("local", 100, 20, True, "src/arm_nn_mat_mult_s8.c"),
        Symbol("nn_requantize.part.0", 120, 30, True, ""),
        Symbol("arm_fir_f32", 150, 40, True, ""),
    )
    measured = usage.measure([Elf("x", True, (Section(".text", 0, 0, 200, False, symbols),), {})], [])
    found = document.build(["x"], measured, [])
    assert [(row["function"], row["bytes"]) for row in found["shared_kernels"]] == [
        ("arm_convolve_s8", 100),
        ("nn_requantize.part.0", 30),
        ("local", 20),
    ]
    assert [(row["component"], row["licence"], row["bytes"]) for row in found["licences"]] == [
        ("code generated by nnbuild", "0BSD", 30),
        ("CMSIS-NN", "Apache-2.0", 120),
        ("rest of the firmware and its libraries", None, 40),
        ("bytes without a symbol", None, 10),
    ]
