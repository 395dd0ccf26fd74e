"""Every option of a model and every construction variable of the SCons tool, in two tables.

An option has one name everywhere: a keyword of `env.NNModel`, a key of the sidecar `models/kws.toml`, and behind
`flag` the argument of the command that it is for. Standard library only: the SCons side imports this module.

`docs/SCONS.md` holds these tables as text (`python -m nnbuild.config` prints them; a test compares).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnbuild.errors import ConfigError, Finding
from nnbuild.latency import parse_latency

Parser = Callable[[Any], Any]

_SIZE = re.compile(r"\s*(0[xX][0-9a-fA-F]+|\d+)\s*([kKmM]?)[bB]?\s*")


def parse_size(value: Any) -> int:
    """Bytes of `240000`, `"240K"` or `"1M"`; K is 1024, as in linker scripts. ConfigError for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    else:
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            raise ConfigError("must be a number of bytes or text like '64K' (K is 1024)")
        base = 16 if match[1][:2] in ("0x", "0X") else 10
        size = int(match[1], base) * {"": 1, "k": 1024, "m": 1 << 20}[match[2].lower()]
    if size < 0:
        raise ConfigError("must not be negative")
    return size


def _own_size(value: Any) -> int:
    """Bytes of a model's own budget, which is no part of anything."""
    if isinstance(value, str) and value.strip().endswith("%"):
        shares = "a share is of a region, which env.NNBudget(fw, linker_script=...) limits"
        raise ConfigError(f"must be bytes such as '64K' ({shares})")
    return parse_size(value)


def parse_share(value: Any) -> float:
    """A share of 1 from `0.97` or `"97%"`. ConfigError for anything else."""
    text = value.strip() if isinstance(value, str) else ""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%?)", text, re.ASCII)
    number = float(match[1]) / (100 if match[2] else 1) if match else value
    if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0 < number <= 1:
        raise ConfigError("must be a share above 0 and up to 1, such as 0.97 or '97%'")
    return round(float(number), 6)


def parse_decibel(value: Any) -> float:
    """A ratio in dB above 0, from `25`, `"25"` or `"25 dB"`. ConfigError for anything else."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(?:dB)?\s*", value, re.ASCII) if isinstance(value, str) else None
    try:
        return _positive(float(match[1]) if match else value)
    except ConfigError:
        raise ConfigError("must be a ratio in dB above 0, such as 25") from None


def _identifier(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", value):
        raise ConfigError("must be a C identifier that starts with a letter, such as 'kws'")
    return value


def _path(value: Any) -> Any:
    # A node of SCons is a path too; the SCons side turns either into a dependency.
    if isinstance(value, str) and not value:
        raise ConfigError("must be a path that is not empty")
    if isinstance(value, (bool, int, float, dict, bytes)) or value is None:
        raise ConfigError("must be a path")
    return value


def _choice(*names: str) -> Parser:
    def parse(value: Any) -> str:
        if value not in names:
            raise ConfigError(f"must be one of {', '.join(repr(name) for name in names)}")
        return str(value)

    return parse


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 1000:
        raise ConfigError("must be a number from 0 to 1000")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < float("inf"):
        raise ConfigError("must be a number")
    return float(value)


def _positive(value: Any) -> float:
    if _number(value) <= 0:
        raise ConfigError("must be above 0")
    return float(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigError("must be True or False")
    return value


def _section(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z_.][A-Za-z0-9_.]*", value):
        raise ConfigError("must be a section's name of letters, digits, '_' and '.', such as '.ext_flash'")
    return value


def _weights_section(value: Any) -> str:
    if _section(value) in (".text", ".data", ".bss") or value.startswith(".bss."):
        raise ConfigError("must be a section for constants, which the linker script places")
    return str(value)


def _arena_section(value: Any) -> str:
    if re.fullmatch(r"\.(text|rodata|data)(\..*)?", _section(value)):
        raise ConfigError("must be a section for variables without contents, which the linker script places")
    return str(value)


def _alignment(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 4 <= value <= 4096 or value & (value - 1):
        raise ConfigError("must be a power of two from 4 to 4096")
    return value


def _shapes(value: Any) -> tuple[tuple[str, str], ...]:
    """`{"input": [1, 3, 32, 32]}` or `{"input": "1,3,32,32"}`, as pairs of name and `1,3,32,32`."""
    problem = "must map the input's name to its shape, such as {'input': [1, 3, 32, 32]}"
    if not isinstance(value, Mapping) or not value:
        raise ConfigError(problem)
    pairs = []
    for name, shape in value.items():
        words = shape.split(",") if isinstance(shape, str) else shape
        if not isinstance(name, str) or not isinstance(words, (list, tuple)) or not words:
            raise ConfigError(problem)
        if not all(re.fullmatch(r"\s*[1-9]\d*\s*", str(word)) for word in words):
            raise ConfigError(problem)
        pairs.append((name, ",".join(str(word).strip() for word in words)))
    return tuple(sorted(pairs))


def _pins(value: Any) -> tuple[tuple[str, str], ...]:
    words = [word for pair in value.items() for word in pair] if isinstance(value, Mapping) else [None]
    if not all(isinstance(word, str) and word for word in words):
        raise ConfigError("must map layers to kernels, such as {'kws_l00_conv2d': 'direct'}")
    return tuple(sorted(value.items()))


@dataclass(frozen=True, slots=True)
class Option:
    """One option of a model.

    `stage` is the command that takes it as `flag` ("quantize", "emit", "accuracy"), or "build" where SCons itself acts
    on it. `path` marks a file that the build depends on.
    """

    name: str
    stage: str
    parse: Parser
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
            _path,
            "--calibration",
            '"models/kws_calib.npz"',
            'samples: an `.npz` or `.npy` file, a folder of them, or `"calib.py:samples"`, a function in a file',
            True,
        ),
        Option(
            "input_shape",
            "quantize",
            _shapes,
            "--input-shape",
            '{"input": [1, 49, 10, 1]}',
            "the shape of an input whose dimensions are not fixed in the model",
        ),
        Option(
            "method",
            "quantize",
            _choice("minmax", "percentile", "mse"),
            "--method",
            '"minmax"',
            "how a tensor's range follows from the samples; percentile where not given",
        ),
        Option(
            "fully_connected",
            "quantize",
            _choice("per_channel", "per_tensor"),
            "--fully-connected",
            '"per_tensor"',
            "one scale for all weights of a fully connected layer: less accurate, but without a multiplier for each "
            "output; CMSIS-NN before 7.0.0 needs it; per_channel where not given",
        ),
        Option(
            "frozen",
            "quantize",
            _path,
            "--frozen",
            '"models/kws.int8.onnx"',
            "build from this committed int8 file; `scons nn-freeze` writes it and its lock",
            True,
        ),
        Option(
            "name",
            "emit",
            _identifier,
            "--name",
            '"kws"',
            "the prefix of files, functions and macros; the base name of the model where not given",
        ),
        Option(
            "selftest",
            "emit",
            _count,
            "--selftest",
            "4",
            "this many samples in `kws_selftest.c`; `kws_selftest()` returns 0 where all outputs agree",
        ),
        Option(
            "raw_input",
            "emit",
            _choice("u8", "i16"),
            "--raw-input",
            '"u8"',
            "the type of the sensor's integers; writes `kws_set_input_u8` or `kws_set_input_i16`",
        ),
        Option(
            "raw_input_scale",
            "emit",
            _positive,
            "--raw-input-scale",
            "1 / 255",
            "real value = raw * raw_input_scale + raw_input_offset",
        ),
        Option(
            "raw_input_offset",
            "emit",
            _number,
            "--raw-input-offset",
            "-1.0",
            "see `raw_input_scale`; 0 where not given",
        ),
        Option(
            "arena",
            "emit",
            _choice("static", "caller", "shared"),
            "--arena",
            '"caller"',
            "who owns the memory for activations: the model, or the caller, who then passes it to `kws_run`; "
            '`"shared"` is one for all such models of an image, as large as the largest needs; they never run at once',
        ),
        Option(
            "arena_section",
            "emit",
            _arena_section,
            "--arena-section",
            '".dtcm"',
            "the linker section of the model's own arena, a section without contents; nobody needs to clear it",
        ),
        Option(
            "arena_align",
            "emit",
            _alignment,
            "--arena-align",
            "32",
            "what the arena's address and size are a multiple of, such as a cache line for DMA; 4 where not given",
        ),
        Option(
            "io",
            "emit",
            _choice("caller", "arena"),
            "--io",
            '"arena"',
            "input and output lie in the arena, at `kws_input()` and `kws_output()`, and `kws_run()` takes none: no "
            "buffers beside the arena, no copies",
        ),
        Option(
            "section",
            "emit",
            _weights_section,
            "--section",
            '".ext_flash"',
            "the linker section of the model's weights and tables, for external flash or tightly coupled memory",
        ),
        Option(
            "input_layout",
            "emit",
            _choice("NHWC"),
            "--input-layout",
            '"NHWC"',
            "take the input of an NCHW model as NHWC, which saves a transpose",
        ),
        Option(
            "backend",
            "emit",
            _choice("auto", "direct", "cmsis_nn"),
            "--backend",
            '"cmsis_nn"',
            "whose kernels: nnbuild's (`direct`), CMSIS-NN's wherever they serve (`cmsis_nn`), or what suits the core "
            "(`auto`); where not given, `auto` if CMSIS_NN is set and `direct` if not",
        ),
        Option(
            "rounding",
            "emit",
            _choice("double", "single"),
            "--rounding",
            '"single"',
            "how results are scaled: twice rounded as TensorFlow Lite does, or once, for firmware that builds CMSIS-NN "
            "with CMSIS_NN_USE_SINGLE_ROUNDING",
        ),
        Option(
            "cmsis_nn_sources",
            "build",
            _flag,
            "",
            "False",
            "with False, CMSIS-NN is only called: the firmware compiles it, and has its `Include` on CPPPATH",
        ),
        Option(
            "pins",
            "emit",
            _pins,
            "--pin",
            '{"kws_l00_conv2d": "direct"}',
            "the kernel of a layer, instead of the one that nnbuild selects",
        ),
        Option(
            "flash",
            "build",
            _own_size,
            "",
            '"64K"',
            "the most that code and constants of the model's objects may take; more fails the build",
        ),
        Option(
            "ram",
            "build",
            _own_size,
            "",
            '"16K"',
            "the most that arena and statics of the model may take; more fails the build",
        ),
        Option(
            "stack",
            "build",
            _own_size,
            "",
            '"512"',
            "the most stack that one inference may take, read from the machine code of each image that `env.NNBudget` "
            "checks; more, or a depth that cannot be told, fails the build",
        ),
        Option(
            "validation",
            "accuracy",
            _path,
            "--samples",
            '"models/kws_val.npz"',
            "samples, as for `calibration`, on which the integers are compared with the float model",
            True,
        ),
        Option(
            "min_agreement",
            "accuracy",
            parse_share,
            "--min-agreement",
            '"97%"',
            "the least share of these samples whose arg-max is that of the float model; less fails the build",
        ),
        Option(
            "min_sqnr",
            "accuracy",
            parse_decibel,
            "--min-sqnr",
            "25",
            "the least signal-to-noise ratio of the outputs against the float model, in dB; less fails the build",
        ),
        Option(
            "latency",
            "build",
            lambda value: str(parse_latency(value)),
            "",
            '"2ms @ 48MHz, 1ws"',
            "the most that one inference may take, at a clock and with wait states of the flash (NN_FLASH_WAIT_STATES "
            'where none are given), or `"120000 cycles"`; the estimate ([COSTS.md](COSTS.md)) or NN_CYCLES decides; '
            "more fails the build",
        ),
        Option(
            "latency_strict",
            "build",
            _flag,
            "",
            "True",
            "let `latency` fail the build on cores without a table of timings too, where it is a guess and else warns",
        ),
        Option("sources", "build", _flag, "", "True", "return the C files, for hosts that compile themselves"),
    )
}

# In the design, but not in this version: refused by name, never ignored.
LATER: dict[str, str] = {
    "stream_axis": "streaming inference",
    "weights": "where weights are stored",
    "assembly": "kernels in assembly",
}


@dataclass(frozen=True, slots=True)
class Variable:
    """One construction variable of the tool; `default` is how the documentation shows it."""

    name: str
    default: str
    help: str


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
    Variable("NNACCURACYCOM", "$NNPYTHON -m nnbuild accuracy ...", "the command that compares with the float model"),
    Variable("NNACCURACYCOMSTR", "ACCUR  $SOURCE", "what is printed for it"),
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

# Construction variables of the design that are not in this version.
LATER_VARIABLES: dict[str, str] = {
    "NN_ASSEMBLY": "kernels in assembly",
}


def _unknown(name: str) -> Finding:
    if name in LATER:
        return Finding(f"option '{name}' ({LATER[name]}) is not in this version of nnbuild", hint="leave it out")
    import difflib  # only for an error: every scons run imports this module

    close = difflib.get_close_matches(name, OPTIONS, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"the options are {', '.join(OPTIONS)}"
    return Finding(f"unknown option '{name}'", hint=hint)


def unknown_variable(name: str) -> str | None:
    """A hint where `name` is no construction variable of this or a later version."""
    names = [variable.name for variable in VARIABLES]
    if name in names or name in LATER_VARIABLES:
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
    if "arena_section" in options and options.get("arena") == "caller":
        hint = "place the caller's buffer"
        yield Finding("option 'arena_section' has no arena to place with arena='caller'", hint=hint)
    if "arena_section" in options and options.get("arena") == "shared":
        hint = "it is a common symbol: place `*_kernels.o(COMMON)` in the linker script"
        yield Finding("option 'arena_section' cannot place a shared arena", hint=hint)
    for name in ("min_agreement", "min_sqnr"):
        if name in options and "validation" not in options:
            hint = "add validation='kws_val.npz': samples that do not calibrate"
            yield Finding(f"option '{name}' needs validation", hint=hint)
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
        return _identifier(name)
    except ConfigError:
        raise ConfigError(f"'{stem}' is no prefix for C names", filename, "add name='kws' or rename the file") from None


def arguments(options: Mapping[str, Any], stage: str) -> list[Any]:
    """The command-line arguments of one command; a path is left as it stands in `options`."""
    words: list[Any] = []
    for name, option in OPTIONS.items():
        if option.stage != stage or name not in options:
            continue
        value = options[name]
        if isinstance(value, tuple):
            for key, text in value:
                words += [option.flag, f"{key}={text}"]
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
