"""Every option of a model and every construction variable of the SCons tool, in two tables.

An option has one name everywhere: a keyword of `env.NNModel`, a key of the sidecar `models/kws.toml`, and behind
`flag` the argument of the command that it is for. Standard library only: the SCons side imports this module.

`docs/SCONS.md` holds these tables as text (`python -m nnbuild.config` prints them; a test compares).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnbuild import option_values as values
from nnbuild.errors import ConfigError, Finding
from nnbuild.latency import parse_latency

SYNTHETIC = "synthetic"
"""Calibration without samples (`nnbuild.samples`)."""
MADE_UP = f"scales are made up (calibration='{SYNTHETIC}'): sizes and cycles are near, results mean nothing"
"""What every build of such a model says."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a model.

    `stage` is the command that takes it as `flag` ("quantize", "emit", "accuracy"), or "build" where SCons itself acts
    on it; a limit of the build that has a `flag` is told to "emit" as well, which chooses kernels. `path` marks a file
    that the build depends on.
    """

    name: str
    stage: str
    parse: values.Parser
    flag: str
    example: str
    help: str
    path: bool = False


OPTIONS: dict[str, Option] = {
    option.name: option
    for option in (
        Option(
            "calibration",
            "quantize",
            values.path,
            "--calibration",
            '"models/kws_calib.npz"',
            'samples: an `.npz` or `.npy` file, a folder of them, or `"calib.py:samples"`, a function in a file; '
            '`"synthetic"` is noise, for a first estimate of sizes: what the network computes means nothing then',
            True,
        ),
        Option(
            "ranges",
            "quantize",
            values.path,
            "--ranges",
            '"models/kws.ranges.json"',
            "ranges that `python -m nnbuild calibrate` wrote, instead of a pass over the samples, which are for "
            "corrections then",
            True,
        ),
        Option(
            "input_shape",
            "quantize",
            values.shapes,
            "--input-shape",
            '{"input": [1, 49, 10, 1]}',
            "the shape of an input whose dimensions are not fixed in the model",
        ),
        Option(
            "method",
            "quantize",
            values.choice("auto", "minmax", "percentile", "mse", "entropy"),
            "--method",
            '"minmax"',
            "how a tensor's range follows from the samples; `auto`, where not given, measures for each tensor which of "
            "the others costs the outputs least",
        ),
        Option(
            "corrections",
            "quantize",
            values.subset("equalize", "rounding", "bias"),
            "--corrections",
            '"none"',
            "what may be corrected by the samples, each where it helps on samples that it has not seen; all of "
            "`equalize,rounding,bias` where not given",
        ),
        Option(
            "fully_connected",
            "quantize",
            values.choice("per_channel", "per_tensor"),
            "--fully-connected",
            '"per_tensor"',
            "one scale for all weights of a fully connected layer: less accurate, but without a multiplier for each "
            "output; CMSIS-NN before 7.0.0 needs it; per_channel where not given",
        ),
        Option(
            "int16",
            "quantize",
            values.layers,
            "--int16",
            '["kws_l07_add", "input_1"]',
            "layers or nodes whose outputs have 16 bits, and inputs of the model that do; with `auto` those that "
            "it takes to reach `min_sqnr`, `min_agreement` or `max_drop` within `ram`, but inputs and outputs of the "
            "model only where they are named too; see [INT16.md](INT16.md)",
        ),
        Option(
            "states",
            "quantize",
            values.states,
            "--states",
            '"keep"',
            "recurrent layers go on where the inference before ended, until `kws_reset()`: with `keep` as they are, "
            'or with `{"h0": "hn"}` where states are inputs and outputs of it, which then are none; samples are one '
            "sequence, in their order",
        ),
        Option(
            "stream_axis",
            "quantize",
            values.axis,
            "--stream-axis",
            "1",
            "the axis of the input that is time, for networks that are convolutional along it: a call takes only new "
            "frames and computes only what is new, with the bits of the whole window; samples are whole windows",
        ),
        Option(
            "stream_frames",
            "quantize",
            values.frames,
            "--stream-frames",
            "2",
            "new frames of a call; where not given, as few as the strides along time allow",
        ),
        Option(
            "frozen",
            "quantize",
            values.path,
            "--frozen",
            '"models/kws.int8.onnx"',
            "build from this committed int8 file; `scons nn-freeze` writes it and its lock",
            True,
        ),
        Option(
            "name",
            "emit",
            values.identifier,
            "--name",
            '"kws"',
            "the prefix of files, functions and macros; the base name of the model where not given",
        ),
        Option(
            "selftest",
            "emit",
            values.count,
            "--selftest",
            "4",
            "this many samples in `kws_selftest.c`; `kws_selftest()` returns 0 where all outputs agree",
        ),
        Option(
            "raw_input",
            "emit",
            values.choice("u8", "i16"),
            "--raw-input",
            '"u8"',
            "the type of the sensor's integers; writes `kws_set_input_u8` or `kws_set_input_i16`",
        ),
        Option(
            "raw_input_scale",
            "emit",
            values.positive,
            "--raw-input-scale",
            "1 / 255",
            "real value = raw * raw_input_scale + raw_input_offset",
        ),
        Option(
            "raw_input_offset",
            "emit",
            values.number,
            "--raw-input-offset",
            "-1.0",
            "see `raw_input_scale`; 0 where not given",
        ),
        Option(
            "arena",
            "emit",
            values.choice("static", "caller", "shared"),
            "--arena",
            '"caller"',
            "who owns the memory for activations: the model, or the caller, who then passes it to `kws_run`; "
            '`"shared"` is one for all such models of an image, as large as the largest needs; they never run at once',
        ),
        Option(
            "arena_section",
            "emit",
            values.arena_section,
            "--arena-section",
            '".dtcm"',
            "the linker section of the model's own arena, a section without contents; nobody needs to clear it",
        ),
        Option(
            "arena_align",
            "emit",
            values.alignment,
            "--arena-align",
            "32",
            "what the arena's address and size are a multiple of, such as a cache line for DMA; 4 where not given",
        ),
        Option(
            "io",
            "emit",
            values.choice("caller", "arena"),
            "--io",
            '"arena"',
            "input and output lie in the arena, at `kws_input()` and `kws_output()`, and `kws_run()` takes none: no "
            "buffers beside the arena, no copies",
        ),
        Option(
            "stream_rows",
            "emit",
            values.rows,
            "--stream-rows",
            '"l00-l08"',
            "layers that are computed row by row, through a few rows of each tensor, for little RAM: `auto`, where not "
            "given, as few as `ram` asks for; `never`; or segments of layers, such as `l00-l08,l09-l12`",
        ),
        Option(
            "push_rows",
            "emit",
            values.flag,
            "--push-rows",
            "True",
            "the input comes row by row, as a camera or a microphone gives it: `kws_push_row(y, row)` for each, then "
            "`kws_run()`; no buffer holds it whole",
        ),
        Option(
            "section",
            "emit",
            values.weights_section,
            "--section",
            '".ext_flash"',
            "the linker section of the model's weights and tables, for external flash or tightly coupled memory",
        ),
        Option(
            "input_layout",
            "emit",
            values.choice("NHWC"),
            "--input-layout",
            '"NHWC"',
            "take the input of an NCHW model as NHWC, which saves a transpose",
        ),
        Option(
            "backend",
            "emit",
            values.choice("auto", "direct", "cmsis_nn"),
            "--backend",
            '"cmsis_nn"',
            "whose kernels: nnbuild's (`direct`), CMSIS-NN's wherever they serve (`cmsis_nn`), or what suits the core "
            "(`auto`); where not given, `auto` if CMSIS_NN is set and `direct` if not",
        ),
        Option(
            "optimize",
            "emit",
            values.choice(*values.GOALS),
            "--optimize",
            '"speed"',
            "which kernels, over all layers at once, within `flash`, `ram` and `latency`: the fastest (`speed`), the "
            "smallest (`size`), or larger ones as long as 1 % of flash (the model's and 16 KB) buys more than 1 % of "
            "the cycles (`balanced`, where not given)",
        ),
        Option(
            "rounding",
            "emit",
            values.choice("double", "single"),
            "--rounding",
            '"single"',
            "how results are scaled: twice rounded as TensorFlow Lite does, or once, for firmware that builds CMSIS-NN "
            "with CMSIS_NN_USE_SINGLE_ROUNDING",
        ),
        Option(
            "cmsis_nn_sources",
            "build",
            values.flag,
            "",
            "False",
            "with False, CMSIS-NN is only called: the firmware compiles it, and has its `Include` on CPPPATH",
        ),
        Option(
            "pins",
            "emit",
            values.pins,
            "--pin",
            '{"kws_l00_conv2d": "direct"}',
            "the kernel of a layer, instead of the one that nnbuild selects",
        ),
        Option(
            "flash",
            "build",
            values.own_size,
            "--flash",
            '"64K"',
            "the most that code and constants of the model's objects may take; more fails the build",
        ),
        Option(
            "ram",
            "build",
            values.own_size,
            "--ram",
            '"16K"',
            "the most that arena and statics of the model may take; more fails the build",
        ),
        Option(
            "stack",
            "build",
            values.own_size,
            "",
            '"512"',
            "the most stack that one inference may take, read from the machine code of each image that `env.NNBudget` "
            "checks; more, or a depth that cannot be told, fails the build",
        ),
        Option(
            "validation",
            "accuracy",
            values.path,
            "--samples",
            '"models/kws_val.npz"',
            "samples, as for `calibration`, on which the integers are compared with the float model: those of the "
            "generated C, compiled with `HOSTCC`",
            True,
        ),
        Option(
            "min_agreement",
            "accuracy",
            values.parse_share,
            "--min-agreement",
            '"97%"',
            "the least share of these samples whose arg-max is that of the float model; less fails the build",
        ),
        Option(
            "min_sqnr",
            "accuracy",
            values.parse_decibel,
            "--min-sqnr",
            "25",
            "the least signal-to-noise ratio of the outputs against the float model, in dB; less fails the build",
        ),
        Option(
            "max_drop",
            "accuracy",
            values.parse_loss,
            "--max-drop",
            '"1%"',
            "the most points of top-1 that the integers may lose against the float model, on labels in array `y` of "
            "the `.npz`; more fails the build",
        ),
        Option(
            "latency",
            "build",
            lambda value: str(parse_latency(value)),
            "--latency",
            '"2ms @ 48MHz, 1ws"',
            "the most that one inference may take, at a clock and with wait states of the flash (NN_FLASH_WAIT_STATES "
            'where none are given), or `"120000 cycles"`; the estimate ([COSTS.md](COSTS.md)) or NN_CYCLES decides; '
            "more fails the build",
        ),
        Option(
            "latency_strict",
            "build",
            values.flag,
            "",
            "True",
            "let `latency` fail the build on cores without a table of timings too, where it is a guess and else warns",
        ),
        Option("sources", "build", values.flag, "", "True", "return the C files, for hosts that compile themselves"),
    )
}

# In the design, but not in this version: refused by name, never ignored.
LATER: dict[str, str] = {
    "weights": "where weights are stored",
}


@dataclass(frozen=True, slots=True)
class Variable:
    """One construction variable of the tool.

    `default` is what the documentation shows; of NN_... and ...STR it is also what the tool sets, for some as a list.
    """

    name: str
    default: str
    help: str


BOUNDS = {"agreement": "min_agreement", "sqnr": "min_sqnr", "drop": "max_drop"}
"""What accuracy is held against, and by which option: a share of 1, dB, a share of 1."""

SEARCHED = (*BOUNDS.values(), "ram")
"""The options that `int16="auto"` searches by."""

DEFAULT_HOSTCC = "cc"

VARIABLES: tuple[Variable, ...] = (
    Variable(
        "NN_DIR", "build/nn", "where generated files go, below the SConscript's folder; `#build/nn` is one for all"
    ),
    Variable(
        "NN_VARIANT", "", "the folder of this core in NN_DIR; where empty, a hash of `$CC $CFLAGS $CCFLAGS` and options"
    ),
    Variable(
        "CMSIS_NN",
        "",
        "the firmware's CMSIS-NN 6.0.0 or newer, a checkout or an unpacked pack, relative to the SConscript or to the "
        "top folder; where empty, the environment variable of that name",
    ),
    Variable("NN_LIBS", "", "what is linked behind `$LIBS`: CMSIS-NN's library joins here"),
    Variable(
        "NN_REQUIRE", "", "the versions of nnbuild that the SConstruct is for, such as `>=0.3,<0.4`; others are refused"
    ),
    Variable("NN_CPU", "", "the core, such as `cortex-m0`, for compilers that do not answer `-dM -E`"),
    Variable(
        "NN_ASSEMBLY",
        "True",
        "kernels in assembly where nnbuild has them (all Cortex-M from M0 to M85); with False all of them are C, and "
        "so they are for compilers other than GNU's and those like it",
    ),
    Variable("NN_FLASH_WAIT_STATES", "0", "of the flash that the code runs from, for estimated cycles; 0 to 15"),
    Variable("NN_MUL_CYCLES", "1", "cycles of a multiplication on Cortex-M0 and M0+: 1 or 32"),
    Variable(
        "NN_CYCLES",
        "",
        'a file of cycles measured on the board, `{"kws": {"model_id": "0x...", "cycles": 1234}}`, which are taken '
        "instead of estimates; see [COSTS.md](COSTS.md)",
    ),
    Variable("NN_KERNEL_CCFLAGS", "-O2", "behind `$CCFLAGS` when a model or CMSIS-NN is compiled"),
    Variable("NN_SECTION_CCFLAGS", "-ffunction-sections -fdata-sections", "behind those; may be empty"),
    Variable("NNPYTHON", "the Python that runs scons", "runs nnbuild's commands (a list where its path has spaces)"),
    Variable("NNQUANTCOM", "$NNPYTHON -m nnbuild quantize ...", "the command that quantizes"),
    Variable("NNQUANTCOMSTR", "QUANT  $SOURCE", "what is printed for it; empty prints the command"),
    Variable("NNEMITCOM", "$NNPYTHON -m nnbuild emit ...", "the command that writes C"),
    Variable("NNEMITCOMSTR", "NNGEN  ${TARGET.file}", "what is printed for it"),
    Variable(
        "HOSTCC",
        DEFAULT_HOSTCC,
        "this machine's C compiler, with flags if it needs some; `validation` runs the generated C with it, and where "
        "it is empty, or not given and there is no `cc`, the slower integer reference, with the same bytes",
    ),
    Variable("NNHOSTCOM", "$NNPYTHON -m nnbuild host ...", "the command that compiles the network for this machine"),
    Variable("NNHOSTCOMSTR", "HOSTCC $TARGET", "what is printed for it"),
    Variable("NNACCURACYCOM", "$NNPYTHON -m nnbuild accuracy ...", "the command that compares with the float model"),
    Variable("NNACCURACYCOMSTR", "ACCUR  $SOURCE", "what is printed for it"),
    Variable("NNBOUNDCOM", "$NNPYTHON -m nnbuild accuracy ...", "the command that holds its figures against bounds"),
    Variable("NNBOUNDCOMSTR", "BOUND  $SOURCE", "what is printed for it"),
    Variable(
        "NN_BASELINE",
        "",
        "a committed file with the figures of the last accepted build, such as `size-baseline.json`; "
        "`scons nn-baseline` writes it, reports show the difference, and `growth=` of `env.NNBudget` limits it",
    ),
    Variable("NNBASELINECOM", "$NNPYTHON -m nnbuild baseline ...", "the command behind `scons nn-baseline`"),
    Variable("NNBASELINECOMSTR", "ACCEPT $SOURCES", "what is printed for it"),
    Variable("NNSIZECOM", "$NNPYTHON -m nnbuild size ...", "the command that measures and checks budgets"),
    Variable("NNSIZECOMSTR", "SIZE   $TARGET", "what is printed for it"),
    Variable("NNFREEZECOM", "$NNPYTHON -m nnbuild freeze ...", "the command behind `scons nn-freeze`"),
    Variable("NNFREEZECOMSTR", "FREEZE $SOURCE", "what is printed for it"),
)


def _unknown(name: str) -> Finding:
    if name in LATER:
        return Finding(f"option '{name}' ({LATER[name]}) is not in this version of nnbuild", hint="leave it out")
    import difflib  # only for an error: every scons run imports this module

    close = difflib.get_close_matches(name, OPTIONS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"the options are {', '.join(OPTIONS)}"
    return Finding(f"unknown option '{name}'", hint=hint)


def unknown_variable(name: str) -> str | None:
    """A hint where `name` is no construction variable."""
    names = [variable.name for variable in VARIABLES]
    if name in names:
        return None
    import difflib

    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(n for n in names if n.startswith('NN_'))}"


def _at(where: str, finding: Finding) -> Finding:
    return Finding(finding.message, where, finding.hint)


def _combined(options: Mapping[str, Any]) -> Iterable[Finding]:
    """What is wrong between options."""
    for name in ("raw_input_scale", "raw_input_offset"):
        if name in options and "raw_input" not in options:
            yield Finding(f"option '{name}' needs raw_input", hint="add raw_input='u8' or raw_input='i16'")
    if "raw_input" in options and "raw_input_scale" not in options:
        yield Finding("option 'raw_input' needs raw_input_scale", hint="for pixels that were divided by 255: 1 / 255")
    if "stream_frames" in options and "stream_axis" not in options:
        yield Finding(
            "option 'stream_frames' needs stream_axis", hint="add stream_axis=1, the input's axis that is time"
        )
    if "stream_axis" in options and "states" in options:
        hint = "recurrent layers take frames as they come: export the model for one"
        yield Finding("options 'stream_axis' and 'states' exclude each other", hint=hint)
    if "arena_section" in options and options.get("arena") == "caller":
        hint = "place the caller's buffer"
        yield Finding("option 'arena_section' has no arena to place with arena='caller'", hint=hint)
    if "arena_section" in options and options.get("arena") == "shared":
        hint = "it is a common symbol: place `*_kernels.o(COMMON)` in the linker script"
        yield Finding("option 'arena_section' cannot place a shared arena", hint=hint)
    if options.get("push_rows") and options.get("stream_rows") == "never":
        yield Finding("option 'push_rows' needs rows", hint="leave stream_rows out")
    for name in BOUNDS.values():
        if name in options and "validation" not in options:
            hint = "add validation='kws_val.npz': samples that do not calibrate"
            yield Finding(f"option '{name}' needs validation", hint=hint)
    if "auto" in options.get("int16", ()) and not set(BOUNDS.values()) & set(options):
        hint = "add min_sqnr=36, say; the samples of `calibration` decide, those of `validation` judge"
        yield Finding("option 'int16' with 'auto' needs min_sqnr, min_agreement or max_drop", hint=hint)
    if options.get("calibration") == SYNTHETIC:
        for name in (name for name in ("min_agreement", "min_sqnr") if name in options):
            hint = "calibrate with real samples"
            yield Finding(f"option '{name}' means nothing with calibration='{SYNTHETIC}'", hint=hint)
    if "latency_strict" in options and "latency" not in options:
        yield Finding("option 'latency_strict' needs latency", hint="add latency='2ms @ 48MHz'")
    if options.get("sources"):
        for name in ("flash", "ram", "stack"):
            if name in options:
                hint = "the image's report has it" if name == "stack" else "use env.NNBudget on the image"
                yield Finding(f"option '{name}' cannot be checked with sources=True", hint=hint)


def parse_options(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The options in the order of the table, each in its one canonical form; None means not given.

    `where` is what an error names, such as `models/kws.onnx`. ConfigError carries all findings.
    """
    findings = [_at(where, _unknown(name)) for name in given if name not in OPTIONS]
    parsed: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        if given.get(name) is None:
            continue
        try:
            parsed[name] = option.parse(given[name])
        except ConfigError as error:
            findings.append(Finding(f"option '{name}' {error.findings[0].message}, not {given[name]!r}", where))
    findings += [_at(where, finding) for finding in _combined(parsed)]
    if findings:
        raise ConfigError.of(findings)
    return parsed


def read_sidecar(path: Path, where: str) -> dict[str, Any]:
    """The options of a model in the `.toml` beside it ({} where there is none), not yet parsed.

    Paths in it are relative to its own folder. ConfigError where it is no TOML or sets what only a call can.
    """
    if not path.exists():
        return {}
    import tomllib  # only where there is a sidecar: every scons run imports this module

    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"not a TOML file: {error}", where) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where) from None
    if "sources" in given:
        raise ConfigError("option 'sources' belongs into the call", where, "env.NNModel(..., sources=True)")
    return given


def default_name(filename: str) -> str:
    """`kws` for `models/kws.onnx` and `kws.int8.onnx`. ConfigError where that is no name in C."""
    stem = re.sub(r"(\.int8)?\.onnx$", "", filename.replace("\\", "/").rsplit("/", 1)[-1])
    name = re.sub(r"\W", "_", stem, flags=re.ASCII)
    try:
        return values.identifier(name)
    except ConfigError:
        raise ConfigError(f"'{stem}' is no prefix for C names", filename, "add name='kws' or rename the file") from None


def quantizing(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that the int8 file depends on."""
    aims = SEARCHED if "auto" in options.get("int16", ()) else ()
    return {name: value for name, value in options.items() if OPTIONS[name].stage == "quantize" or name in aims}


def arguments(options: Mapping[str, Any], stage: str) -> list[Any]:
    """The command-line arguments of one command; a path is left as it stands in `options`."""
    words: list[Any] = []
    aims = SEARCHED if stage == "quantize" and "auto" in options.get("int16", ()) else ()
    for name, option in OPTIONS.items():
        told = option.stage == stage or (option.stage == "build" and stage == "emit" and option.flag) or name in aims
        if not told or name not in options:
            continue
        value = options[name]
        if option.stage == "emit" and isinstance(value, bool):
            words += [option.flag] if value else []
        elif isinstance(value, tuple):
            for entry in value:
                words += [option.flag, entry if isinstance(entry, str) else "=".join(entry)]
        else:
            words += [option.flag, repr(value) if isinstance(value, float) else value]
    return words


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def reference() -> dict[str, str]:
    """The tables of `docs/SCONS.md` as Markdown, by the name of their marker."""
    return {
        "options": _table(
            ("option", "example", "meaning"), ((f"`{o.name}`", f"`{o.example}`", o.help) for o in OPTIONS.values())
        ),
        "variables": _table(
            ("variable", "default", "meaning"),
            ((f"`{v.name}`", f"`{v.default}`" if v.default else "", v.help) for v in VARIABLES),
        ),
        "later": _table(("not in this version", "what it will be"), ((f"`{n}`", text) for n, text in LATER.items())),
    }


if __name__ == "__main__":
    print("\n\n".join(reference().values()))
