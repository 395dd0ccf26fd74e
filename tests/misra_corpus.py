"""Generated C for reviewers' tools: few models that hold every line that the operators' cases and the options make."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import replace

from nnbuild.contract import LayerView
from nnbuild.emit import EmitOptions, emit
from nnbuild.network import Network
from nnbuild.ops import ALL, BY_NAME
from nnbuild.placement import Placement
from nnbuild.target import TARGETS, Target

CORES = ("generic", "cortex-m0", "cortex-m3", "cortex-m4", "cortex-m55")
PORTABLE, SMALL, MIDDLE, DSP, MVE = (TARGETS[cpu] for cpu in CORES)
CASES = [case for operator in ALL for case in operator.cases()]
VARIANTS = (
    EmitOptions("", SMALL, selftest=1, raw=("u8", 1 / 255, 0.0)),
    EmitOptions("", SMALL, selftest=1, raw=("u8", 0.3, -100.0), arena="caller"),
    EmitOptions("", SMALL, selftest=1, raw=("i16", 0.001, 0.0), arena="shared"),
    EmitOptions("", PORTABLE, selftest=1, placement=Placement(".ext", ".dtcm", 32, "arena")),
    EmitOptions("", SMALL, selftest=1, arena="caller", placement=Placement(arena_align=32, io="arena")),
)
"""Of one network: everything that `EmitOptions` can add to a model."""


def _rounding(network: Network) -> Iterator[Network]:
    yield network
    yield replace(network, single_rounding=True)


def _candidates() -> Iterator[tuple[Network, EmitOptions]]:
    varied = next(case for case in CASES if case.name == "conv2d_3x3_padded").network
    keeping = next(case for case in CASES if case.name == "lstm_keeps_last").network
    for options in VARIANTS:
        yield varied, options
        yield keeping, replace(options, raw=None)
    for target in (SMALL, PORTABLE, MIDDLE, DSP, MVE):
        for case in CASES:
            for network in _rounding(case.network):
                yield network, EmitOptions("", target)
                for kernel in ("direct", "assembly", "packed"):
                    pins = dict.fromkeys(_served(network, kernel, target), kernel)
                    if pins:
                        yield network, EmitOptions("", target, pins=pins)


def _served(network: Network, kernel: str, target: Target) -> Iterator[str]:
    """The layers that `kernel` serves, where another may come first."""
    for layer in network.layers:
        own = [each for each in BY_NAME[layer.op].kernels if each.name == kernel]
        served = own and own[0].supports(LayerView.of(network, layer), target) is None
        if served and layer.op in ("conv2d", "fully_connected", "wide_conv2d"):
            yield layer.name


def _lines(files: dict[str, str]) -> set[str]:
    """The lines of C, whatever their numbers are, and their terms with numbers."""
    code = [text for name, text in files.items() if name.endswith((".c", ".h"))]
    lines = re.sub(r"/\*.*?\*/", "", "\n".join(code), flags=re.DOTALL).splitlines()
    return {_shape(line) for line in lines if not re.fullmatch(r"[-\d, u]*", line)}


def _shape(line: str) -> str:
    text = re.sub(r"\bm_l\d+_\w+|\bi\d|\binput\d|\bM_\w+|\boperand\b", "name", line.strip())
    text = re.sub(r"0x[0-9a-f]+u?|[\d.]+(e-?\d+)?", "0", text)
    return re.sub(r"( [-+*] (0|name))+", " + 0", text)


@functools.cache
def files() -> dict[str, str]:
    """The files of all chosen models, m0, m1, ..., by name: greedily, until no candidate has a line that is missing."""
    candidates = list(_candidates())
    lines = [_lines(emit(network, replace(options, name="m"))) for network, options in candidates]
    seen: set[str] = set()
    chosen: list[int] = []
    while True:
        best = max(range(len(lines)), key=lambda index: (len(lines[index] - seen), -index))
        if not lines[best] - seen:
            break
        chosen.append(best)
        seen |= lines[best]
    found: dict[str, str] = {}
    for number, index in enumerate(sorted(chosen)):
        network, options = candidates[index]
        found |= emit(network, replace(options, name=f"m{number}"))
    return found
