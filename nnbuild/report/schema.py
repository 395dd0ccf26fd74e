"""The keys of `fw.size.json`, schema 2: one table for the check of a document and for docs/REPORT.md.

`python -m nnbuild.report.schema` prints the table. A path names a key; `[]` are the items of a list, `{}` the values
of an object whose keys are names. A type that ends in `?` may be null, which means: not known, or not asked for.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

SCHEMA = 2
"""Of `fw.size.json`."""

MODEL_SCHEMA = 2
"""Of `<model>.report.json`."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key: its path, the type of its value, what it means."""

    path: str
    type: str
    meaning: str


# fmt: off
KEYS = (
    Key("schema", "integer", "2; while it stays, keys may join, and none goes or changes"),
    Key("nnbuild", "string", "version that wrote this"),
    Key("files", "list", "names of the measured files, without folders"),
    Key("files[]", "string", ""),
    Key("regions", "list", "memories of the linker script; `FLASH` and `RAM` without one"),
    Key("regions[].name", "string", "as in the `MEMORY` block"),
    Key("regions[].used", "integer", "bytes"),
    Key("regions[].length", "integer?", "bytes that the region has"),
    Key("regions[].limit", "integer?", "bytes that it may hold"),
    Key("regions[].over", "integer", "bytes above the limit"),
    Key("flash", "object", "bytes of flash by what they are for"),
    Key("flash.weights", "integer", "constants of all models"),
    Key("flash.code", "integer", "generated functions"),
    Key("flash.kernels", "integer", "functions that layers share, CMSIS-NN's included"),
    Key("flash.selftest", "integer", "self-tests"),
    Key("flash.rest", "integer", "of the firmware, initial values of variables included"),
    Key("flash.unattributed", "integer", "covered by no symbol: padding, strings, tables of the linker"),
    Key("flash.total", "integer", "the sum"),
    Key("ram", "object", "bytes of RAM by what they are for"),
    Key("ram.arena", "integer", "activations and scratch of all models"),
    Key("ram.scratch", "integer", "scratch memory beside arenas"),
    Key("ram.other", "integer", "variables"),
    Key("ram.stack_reserve", "integer?", "kept for stack and heap; null where the image does not say it"),
    Key("ram.total", "integer", "the sum"),
    Key("budgets", "list", "everything that has a limit, whether it holds or not"),
    Key("budgets[].what", "string", "`FLASH`, `growth FLASH`, `kws flash`, `kws stack`, `kws latency`, ..."),
    Key("budgets[].value", "number?", "what it is; null where it cannot be known, which `hint` explains"),
    Key("budgets[].limit", "number", "what it may be"),
    Key("budgets[].unit", "string", "`bytes`, `us`, `cycles`, `percent`, `points` or `dB`"),
    Key("budgets[].over", "number?", "by how much the limit is missed, 0 where it holds"),
    Key("budgets[].ok", "boolean", "whether the limit holds"),
    Key("budgets[].hint", "string", "what would help; may be empty"),
    Key("baseline", "object?", "the accepted build that this one is compared with"),
    Key("baseline.figures", "object", "unit -> what, as in `budgets` -> value"),
    Key("baseline.figures{}", "object", ""),
    Key("baseline.figures{}{}", "number", ""),
    Key("baseline.layers", "object", "unit -> `<layer> flash` or `<layer> cycles` -> value"),
    Key("baseline.layers{}", "object", ""),
    Key("baseline.layers{}{}", "number", ""),
    Key("models", "list", "in the order of their names"),
    Key("models[].name", "string", "prefix of the model's symbols"),
    Key("models[].model_id", "string", "as `<NAME>_MODEL_ID` in C"),
    Key("models[].cpu", "string", "core that the C was written for"),
    Key("models[].flash", "object", "bytes of this model, as in `flash`"),
    Key("models[].flash.weights", "integer", ""),
    Key("models[].flash.code", "integer", ""),
    Key("models[].flash.kernels", "integer", "without CMSIS-NN's, which all models share"),
    Key("models[].flash.selftest", "integer", ""),
    Key("models[].flash.total", "integer", ""),
    Key("models[].ram", "object", "bytes of this model, as in `ram`"),
    Key("models[].ram.arena", "integer", "0 where the arena is shared or the caller's"),
    Key("models[].ram.scratch", "integer", ""),
    Key("models[].ram.other", "integer", ""),
    Key("models[].ram.total", "integer", ""),
    Key("models[].other_code", "integer?", "bytes of `<name>_run` and what belongs to no layer; null without a symbol"),
    Key("models[].scratch_in_arena", "integer", "bytes that a layer takes of the arena for scratch at most"),
    Key("models[].shared_arena", "integer", "bytes of `nn_shared_arena` that this model uses; 0 where it has its own"),
    Key("models[].arena_bytes", "integer", "bytes of activations and scratch, wherever the arena is"),
    Key("models[].arena_bound_bytes", "integer", "fewer cannot be enough, with these kernels and this order of layers"),
    Key("models[].arena_optimal", "boolean", "whether `arena_bytes` is proved to be the least, and so is the bound"),
    Key("models[].reordered", "boolean", "whether layers run in an order that takes less memory than the model's"),
    Key("models[].peak_layer", "integer?", "where most bytes are live; null where there is no arena"),
    Key("models[].stack", "object?", "worst case of one inference"),
    Key("models[].stack.bytes", "integer?", "null where it is not bounded or not known"),
    Key("models[].stack.path", "list", "functions on the deepest path, the entry first"),
    Key("models[].stack.path[]", "string", ""),
    Key("models[].stack.note", "string", "what the figure leaves out; may be empty"),
    Key("models[].latency", "object?", "time of one inference, an estimate unless it was measured"),
    Key("models[].latency.cycles", "integer", ""),
    Key("models[].latency.us", "number?", "microseconds at `mhz`"),
    Key("models[].latency.mhz", "number?", "clock"),
    Key("models[].latency.wait_states", "integer", "of the flash"),
    Key("models[].latency.mul_cycles", "integer", "cycles of a multiplication"),
    Key("models[].latency.basis", "string", "`fit`, `measured` or `instructions x factor`"),
    Key("models[].latency.error_percent", "number?", "error of the fit"),
    Key("models[].synthetic", "boolean", "scales come from made-up samples: only sizes and cycles mean something"),
    Key("models[].optimize", "string", "what kernels were chosen for: `balanced`, `speed` or `size`"),
    Key("models[].curve", "list", "sets of kernels that no other beats in flash and cycles, the smallest first"),
    Key("models[].curve[].flash", "integer", "bytes of constants and code, an estimate"),
    Key("models[].curve[].cycles", "integer", "of one inference, an estimate"),
    Key("models[].curve[].chosen", "boolean", "whether this is the set that was taken; it is so of one"),
    Key("models[].accuracy", "object?", "of the integers against the float model, on the validation samples"),
    Key("models[].accuracy.evaluated_by", "string", "compiler of the C that was run, as `gcc 12.2.0`, or `reference`"),
    Key("models[].accuracy.samples", "integer", ""),
    Key("models[].accuracy.agreement", "number?", "percent of the samples with the float model's arg-max"),
    Key("models[].accuracy.sqnr_db", "number?", "10 log10(sum f^2 / sum (f - q)^2) over all outputs"),
    Key("models[].accuracy.top1", "number?", "percent of the samples whose arg-max is the label"),
    Key("models[].accuracy.top1_float", "number?", "the same of the float model"),
    Key("models[].accuracy.drop", "number?", "`top1_float` less `top1`, in points; below 0 where the integers win"),
    Key("models[].accuracy.min_agreement", "number?", "what `min_agreement=` asks for, in percent"),
    Key("models[].accuracy.min_sqnr", "number?", "what `min_sqnr=` asks for, in dB"),
    Key("models[].accuracy.max_drop", "number?", "what `max_drop=` allows, in points"),
    Key("models[].accuracy.by", "string", "`integer reference`: what figures of layers are of"),
    Key("models[].accuracy.layer_samples", "integer", "of how many samples they are"),
    Key("models[].accuracy.layers", "list", ""),
    Key("models[].accuracy.layers[].index", "integer", ""),
    Key("models[].accuracy.layers[].name", "string", ""),
    Key("models[].accuracy.layers[].sqnr_db", "number?", "of this layer's output against the float model's"),
    Key("models[].accuracy.layers[].added_db", "number?", "of the noise alone that joins here; null where none does"),
    Key("models[].accuracy.layers[].isolated_db", "number?", "of this layer alone, on the float model's inputs for it"),
    Key("models[].accuracy.layers[].saturation", "number?", "percent of that noise made by values out of range"),
    Key("models[].accuracy.worst", "list", "the samples with the lowest SQNR, the lowest first"),
    Key("models[].accuracy.worst[].sample", "integer", "from 0"),
    Key("models[].accuracy.worst[].sqnr_db", "number", ""),
    Key("models[].accuracy.worst[].float", "integer", "arg-max of the float model"),
    Key("models[].accuracy.worst[].int8", "integer", "arg-max of the integers"),
    Key("models[].accuracy.confusions", "list", "decisions that differ, the most frequent first"),
    Key("models[].accuracy.confusions[].float", "integer", "arg-max of the float model"),
    Key("models[].accuracy.confusions[].int8", "integer", "arg-max of the integers"),
    Key("models[].accuracy.confusions[].count", "integer", "samples"),
    Key("models[].arena", "list", "every buffer of one inference; a tensor that others lie in is a row for each part"),
    Key("models[].arena[].name", "string", "tensor or layer"),
    Key("models[].arena[].kind", "string", "`input`, `output`, `activation` or `scratch`"),
    Key("models[].arena[].shape", "list", ""),
    Key("models[].arena[].shape[]", "integer", ""),
    Key("models[].arena[].offset", "integer?", "bytes from the arena's start; null where the buffer is the caller's"),
    Key("models[].arena[].bytes", "integer", ""),
    Key("models[].arena[].first", "integer", "layer from which its contents are needed"),
    Key("models[].arena[].last", "integer", "layer to which they are needed"),
    Key("models[].arena[].over", "list", "inputs that its layer reads while it writes over them"),
    Key("models[].arena[].over[]", "string", "their names"),
    Key("models[].ram_notes", "list", "what its limit on RAM costs; or by how much it is missed, the wall, what helps"),
    Key("models[].ram_notes[]", "string", ""),
    Key("models[].segments", "list", "layers that are computed row by row"),
    Key("models[].segments[].first", "integer", "the first layer"),
    Key("models[].segments[].last", "integer", "the last layer"),
    Key("models[].segments[].steps", "integer", "in each of which every layer computes at most one row"),
    Key("models[].segments[].rows_together", "integer", "rows that a layer computes at a time"),
    Key("models[].segments[].kept_bytes", "integer", "rows that are kept from step to step"),
    Key("models[].segments[].moved_bytes", "integer", "that move up in one inference"),
    Key("models[].segments[].pushed", "boolean", "whether the caller pushes the input row by row"),
    Key("models[].layers", "list", "in the order in which they run; in a segment shapes are those of one row"),
    Key("models[].layers[].index", "integer", ""),
    Key("models[].layers[].name", "string", "as in the symbols"),
    Key("models[].layers[].node", "string", "node of the ONNX model"),
    Key("models[].layers[].op", "string", ""),
    Key("models[].layers[].kernel", "string", "the one that computes it"),
    Key("models[].layers[].reasons", "object", "kernel -> why it was not taken"),
    Key("models[].layers[].reasons{}", "string", ""),
    Key("models[].layers[].function", "string", "C function; layers of one shape share one, its code is the first's"),
    Key("models[].layers[].inputs", "list", "shapes, without the batch"),
    Key("models[].layers[].inputs[]", "list", ""),
    Key("models[].layers[].inputs[][]", "integer", ""),
    Key("models[].layers[].output", "list", "shape, without the batch"),
    Key("models[].layers[].output[]", "integer", ""),
    Key("models[].layers[].macs", "integer", "multiplications with accumulation"),
    Key("models[].layers[].weights", "integer?", "bytes; null where no symbol shows them"),
    Key("models[].layers[].code", "integer?", "bytes; null where -flto or inlining left no symbol"),
    Key("models[].layers[].cycles", "integer?", "estimate, or measured"),
    Key("models[].layers[].assembly", "object?", "what its functions in assembly take, read off their text, without C"),
    Key("models[].layers[].assembly.least", "integer", "where all that depends on values takes its shorter way"),
    Key("models[].layers[].assembly.most", "integer", "where it takes its longer way"),
    Key("models[].layers[].assembly.unit", "string", "`cycles`, or `instructions` on cores without timings"),
    Key("models[].layers[].scratch", "integer", "bytes of the arena"),
    Key("models[].layers[].sqnr_db", "number?", "as in `accuracy`"),
    Key("models[].layers[].isolated_db", "number?", "as in `accuracy`"),
    Key("shared_kernels", "list", "functions that no model owns, in `flash.kernels`: CMSIS-NN's, and nnbuild's own"),
    Key("shared_kernels[].function", "string", ""),
    Key("shared_kernels[].bytes", "integer", ""),
    Key("licences", "list", "of what is linked"),
    Key("licences[].component", "string", ""),
    Key("licences[].licence", "string?", "SPDX identifier; null where nnbuild does not know it"),
    Key("licences[].bytes", "integer", "of flash"),
)
# fmt: on


@dataclass(slots=True)
class _Node:
    """What a path may hold; `item` is of a list or of an object with free keys."""

    type: str = "object"
    keys: dict[str, _Node] = field(default_factory=dict)
    item: _Node | None = None


@functools.cache
def _tree(keys: tuple[Key, ...]) -> _Node:
    root = _Node()
    for key in keys:
        node = root
        for part in key.path.split("."):
            name = part.rstrip("[]{}")
            node = node.keys.setdefault(name, _Node())
            for _ in range((len(part) - len(name)) // 2):
                node.item = node.item or _Node()
                node = node.item
        node.type = key.type
    return root


_TYPES: dict[str, tuple[type, ...]] = {
    "integer": (int,),
    "number": (int, float),
    "string": (str,),
    "boolean": (bool,),
    "list": (list,),
    "object": (dict,),
}


def violations(document: Any, strict: bool = False, keys: tuple[Key, ...] = KEYS) -> list[str]:
    """What is wrong with a document, one line each; with `strict`, keys that the table does not name are wrong too."""
    return list(_check(document, _tree(keys), "", strict))


def _check(value: Any, node: _Node, path: str, strict: bool) -> Iterator[str]:
    kind = node.type.rstrip("?")
    if value is None and node.type.endswith("?"):
        return
    is_wrong = not isinstance(value, _TYPES[kind]) or (isinstance(value, bool) and kind != "boolean")
    if is_wrong or (isinstance(value, float) and not math.isfinite(value)):
        yield f"{path or 'the document'} is not of type {node.type}"
    elif isinstance(value, list) and node.item:
        for index, item in enumerate(value):
            yield from _check(item, node.item, f"{path}[{index}]", strict)
    elif isinstance(value, dict):
        yield from _check_keys(value, node, f"{path}." if path else "", strict)


def _check_keys(value: dict[str, Any], node: _Node, path: str, strict: bool) -> Iterator[str]:
    if node.item is not None:
        for key, item in value.items():
            yield from _check(item, node.item, f"{path}{key}", strict)
        return
    for key, below in node.keys.items():
        if key in value:
            yield from _check(value[key], below, f"{path}{key}", strict)
        else:
            yield f"{path}{key} is missing"
    if strict and node.keys:
        yield from (f"{path}{key} is not documented" for key in value if key not in node.keys)


def table(keys: tuple[Key, ...] = KEYS) -> str:
    """The keys as a Markdown table."""
    lines = ["| key | type | meaning |", "|---|---|---|"]
    lines += [f"| `{key.path}` | {key.type.replace('?', ' or null')} | {key.meaning} |" for key in keys]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
