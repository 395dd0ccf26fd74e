"""Bytes of flash and RAM by what they are for, by model and by layer.

Symbols say what bytes are for: a model's are `<model>_run` and others that `emit` writes, a layer's start with
`<model>_lNN_`. Bytes that no symbol covers (padding, string constants, tables of the linker) are counted as
unattributed, never guessed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnbuild.errors import ConfigError
from nnbuild.report.accuracy import Accuracy
from nnbuild.report.elf import Elf, Section, Symbol
from nnbuild.report.schema import MODEL_SCHEMA
from nnbuild.report.timing import Timed

FLASH_KINDS = ("weights", "code", "kernels", "selftest", "rest", "unattributed")
RAM_KINDS = ("arena", "scratch", "other", "stack_reserve")
SHARED_ARENA = "nn_shared_arena"

_LAYER_KEYS = {
    *("index", "name", "node", "op", "kernel", "reasons", "function", "inputs", "output", "macs"),
    *("weights_bytes", "scratch_bytes", "cost", "alternatives"),
}

# How startup files and linker scripts call the stack's and heap's size; one of each line is taken.
_RESERVES = (
    ("__stack_size", "__stack_size__", "__STACK_SIZE", "_Min_Stack_Size", "_stack_size", "Stack_Size", "__StackSize"),
    ("__heap_size", "__heap_size__", "__HEAP_SIZE", "_Min_Heap_Size", "_heap_size", "Heap_Size", "__HeapSize"),
)
_STACK_BOUNDS = (("__StackTop", "__StackLimit"), ("__stack_top", "__stack_limit"), ("_estack", "_sstack"))


@dataclass(frozen=True, slots=True)
class ModelReport:
    """What a size report needs of `<model>.report.json`.

    `arena` has the states that layers keep where both are the caller's; `scratch` is the most that a layer takes of
    the arena; `shared` says that the arena is that of all such models;
    `facts` is the whole report (nnbuild/model_report.py).
    """

    name: str
    model_id: str
    arena: int
    scratch: int
    layers: tuple[dict[str, Any], ...]
    shared: bool = False
    facts: dict[str, Any] = field(default_factory=dict)


def read_report(path: str | Path) -> ModelReport:
    """The report that `emit` wrote beside the C. ConfigError where it is not one."""
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        layers = tuple(data["layers"])
        facts = {"cpu", "arena_map", "cost", "optimize", "curve", "synthetic"}
        complete = facts <= data.keys() and all(layer.keys() >= _LAYER_KEYS for layer in layers)
        if data["schema"] != MODEL_SCHEMA or not complete:
            raise ValueError
        arena, scratch, shared = data["arena_bytes"], data["scratch_bytes"], data.get("arena") == "shared"
        if data.get("arena") == "caller":
            arena += data["state_bytes"]
        return ModelReport(data["name"], data["model_id"], arena, scratch, layers, shared, data)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", str(path)) from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise ConfigError("is no model report of this version", str(path), "build the model again") from None


@dataclass(slots=True)
class ModelUsage:
    """Bytes of one model; `layers` by index, each with weights and code.

    `stack` is as the report has it, once the model is linked. `accuracy` is what was measured on validation samples,
    and `bounds` what is asked of it, by the names in `config.BOUNDS`.
    `timed` are its cycles, None where nothing is known of them, and `latency` what the report says of them.
    """

    report: ModelReport
    flash: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("weights", "code", "kernels", "selftest"), 0))
    ram: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("arena", "scratch", "other"), 0))
    layers: dict[int, dict[str, int]] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    bounds: dict[str, float] = field(default_factory=dict)
    stack: dict[str, Any] | None = None
    timed: Timed | None = None
    latency: dict[str, Any] | None = None


@dataclass(slots=True)
class Usage:
    """Bytes of a whole image, or of a model's objects; `shared` are the kernels that no model owns, by name."""

    flash: dict[str, int]
    ram: dict[str, int]
    models: list[ModelUsage]
    reserve_known: bool
    shared: dict[str, int] = field(default_factory=dict)


def measure(elves: Sequence[Elf], reports: Sequence[ModelReport]) -> Usage:
    """Attribute every byte of `elves` that takes memory."""
    usage = Usage(dict.fromkeys(FLASH_KINDS, 0), dict.fromkeys(RAM_KINDS, 0), [ModelUsage(r) for r in reports], False)
    for elf in elves:
        for section in elf.sections:
            _add_section(usage, section, _only_model(usage, elf))
        _add_reserve(usage, elf)
    usage.ram["arena"] += unplaced(usage, elves)
    return usage


def unplaced(usage: Usage, elves: Sequence[Elf]) -> int:
    """Bytes of an arena that the caller owns: not in a model's objects, but in its RAM budget."""
    if any(elf.linked for elf in elves):
        return 0  # the caller's own buffer is in the image
    return sum(model.report.arena for model in usage.models if not model.ram["arena"])


def model_bytes(usage: Usage, model: ModelUsage, kind: str, linked: bool) -> int:
    """What the budget `kind` ("flash" or "ram") of a model judges, without its self-test.

    Of objects it is all that is in them; of an image what its symbols say is the model's. An arena that the caller
    owns, or that models share, counts as far as the model needs it.
    """
    if not linked:
        return sum((usage.flash if kind == "flash" else usage.ram).values())
    if kind == "flash":
        return sum(model.flash.values()) - model.flash["selftest"]
    return sum(model.ram.values()) + (0 if model.ram["arena"] else model.report.arena)


def reserved(elf: Elf) -> tuple[int, bool]:
    """Bytes kept for stack and heap by symbols alone, beside all sections; and whether the image says so at all."""
    if any(_is_reserve(section) for section in elf.sections):
        return 0, True
    sizes = [next((elf.values[name] for name in names if name in elf.values), 0) for names in _RESERVES]
    if not sizes[0]:
        bounds = [(elf.values[top], elf.values[low]) for top, low in _STACK_BOUNDS if {top, low} <= elf.values.keys()]
        sizes[0] = next((top - low for top, low in bounds if top > low), 0)
    return sum(sizes), any(sizes)


def _is_reserve(section: Section) -> bool:
    return section.load is None and bool(re.search(r"stack|heap", section.name, re.IGNORECASE))


def _add_reserve(usage: Usage, elf: Elf) -> None:
    size, known = reserved(elf)
    usage.ram["stack_reserve"] += size
    usage.reserve_known |= known


def _only_model(usage: Usage, elf: Elf) -> ModelUsage | None:
    """Whose all bytes of an object are: that of the one model whose objects are measured."""
    return usage.models[0] if not elf.linked and len(usage.models) == 1 else None


def _pieces(section: Section) -> Iterator[tuple[Symbol | None, int]]:
    """The section cut along its symbols: each byte once, to the first symbol that covers it; None between them."""
    at = 0
    for symbol in section.symbols:
        start, end = max(at, symbol.offset), min(section.size, symbol.offset + symbol.size)
        if start > at:
            yield None, start - at
        if end > start:
            yield symbol, end - start
        at = max(at, end)
    if section.size > at:
        yield None, section.size - at


def _owner(usage: Usage, symbol: Symbol) -> ModelUsage | None:
    """The model that a symbol belongs to: by a name that `emit` writes, else by its source file."""
    for model in usage.models:
        name = model.report.name
        if symbol.name.startswith(f"{name}_") and _is_own(model, symbol, symbol.name[len(name) + 1 :]):
            return model
    own = {f"{model.report.name}{suffix}": model for model in usage.models for suffix in _FILES}
    return own.get(_file(symbol))


def _is_own(model: ModelUsage, symbol: Symbol, rest: str) -> bool:
    """Whether `emit` writes `<name>_<rest>`; a firmware has names such as `kws_task` and `kws_input` of its own."""
    if _ACCESSOR.match(rest):
        return symbol.function and any(
            buffer["kind"] in ("input", "output") and buffer["offset"] is not None
            for buffer in model.report.facts["arena_map"]
        )
    return bool(_OWN.match(rest))


def _file(symbol: Symbol) -> str:
    """The source file of a local symbol without its folders, else empty."""
    return symbol.file.replace("\\", "/").rsplit("/", 1)[-1]


_FILES = (".c", "_weights.c", "_kernels.S", "_selftest.c")

# What follows a model's name in symbols of the templates; compilers append `.part.0` and the like.
_OWN = re.compile(
    r"(?:l\d+_\w+|run|arena|scratch|raw_input|set_input_(?:u8|i16)|selftest|expected\w*"
    r"|(?:argmax|quantize_input|dequantize_output)\w*)(?:\..*)?$"
)
_ACCESSOR = re.compile(r"(?:input|output)(?:_\w+)?(?:\..*)?$")


def _flash_kind(symbol: Symbol, model: ModelUsage | None) -> str:
    if model is None:
        # Outlined copies of nnbuild's inline functions; -flto loses the file that they came from.
        own = symbol.function and symbol.name.startswith("nn_")
        return "kernels" if own or _is_cmsis_nn(symbol) else "rest"
    prefix = f"{model.report.name}_"
    if symbol.name.startswith(f"{prefix}selftest") or symbol.file == f"{prefix}selftest.c":
        return "selftest"
    if symbol.function:
        return "code" if symbol.name.startswith(prefix) else "kernels"
    return "weights" if symbol.name.startswith(prefix) else "code"


def _is_cmsis_nn(symbol: Symbol) -> bool:
    """By its name, or that of the source file of what is local to one."""
    return bool(_CMSIS_NN.match(symbol.name) or _CMSIS_NN.match(_file(symbol)))


# CMSIS-NN's names; CMSIS-DSP's functions start with arm_ as well, and none of them is for eight bits signed by s8.
_CMSIS_NN = re.compile(r"arm_(?:nn_|\w*_s8|\w*_s16_unordered|q7_to_q15)")


def _ram_kind(symbol: Symbol, model: ModelUsage | None) -> str:
    if model is not None:
        for kind in ("arena", "scratch"):
            if symbol.name.startswith(f"{model.report.name}_{kind}"):
                return kind
    return "arena" if symbol.name == SHARED_ARENA else "other"


def _add_section(usage: Usage, section: Section, whole: ModelUsage | None) -> None:
    if section.writable:
        _add_ram(usage, section, whole)
        if section.load is not None:
            usage.flash["rest"] += section.size
        return
    copied = section.load not in (None, section.address)
    for symbol, size in _pieces(section):
        model = whole if symbol is None else _owner(usage, symbol) or whole
        if copied:
            _add_copy(usage, model, size)
        if symbol is None:
            usage.flash["unattributed"] += size
            continue
        kind = _flash_kind(symbol, model)
        usage.flash[kind] += size
        if model is None and kind == "kernels":
            usage.shared[symbol.name] = usage.shared.get(symbol.name, 0) + size
        if model is not None and kind in model.flash:
            model.flash[kind] += size
            _add_layer(model, symbol, kind, size)


def _add_copy(usage: Usage, model: ModelUsage | None, size: int) -> None:
    """Constants or code that start-up code copies to where they run: they take RAM as well."""
    usage.ram["other"] += size
    if model is not None:
        model.ram["other"] += size


def _add_ram(usage: Usage, section: Section, whole: ModelUsage | None) -> None:
    if _is_reserve(section):
        usage.ram["stack_reserve"] += section.size
        return
    for symbol, size in _pieces(section):
        model = whole if symbol is None else _owner(usage, symbol) or whole
        kind = "other" if symbol is None else _ram_kind(symbol, model)
        usage.ram[kind] += size
        if model is not None:
            model.ram[kind] += size


def _add_layer(model: ModelUsage, symbol: Symbol, kind: str, size: int) -> None:
    match = re.match(rf"{re.escape(model.report.name)}_l(\d+)_", symbol.name)
    if match and kind in ("weights", "code"):
        layer = model.layers.setdefault(int(match[1]), {"weights": 0, "code": 0})
        layer[kind] += size
