"""docs/COSTS.md: how cycles are estimated, how far off they are, what a trip of the large loops costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from benchmarks import target
from benchmarks.cost_fit import LEAST, Row
from benchmarks.cost_samples import CORES, columns
from nnbuild import __version__, cost, instruction_timings

# Cycles of one frame on a Cortex-M0 at -O2 without wait states, counted by `scons -C example_firmware run`.
COUNTED = {"touch": 4_653, "touch_cnn": 256_371}

HEADER = (
    "| network | kernels | core | instructions | cycles | accesses to flash | error | not in the fit "
    "| with one wait state |\n|---|---|---|---:|---:|---:|---:|---:|---:|"
)


def line(row: Row) -> str:
    """One row in Markdown."""
    kernels = {"direct": "own", "cmsis_nn": "CMSIS-NN"}[row.backend]
    cycles = f"{row.cycles:,.0f}" if row.core in cost.FITTED else ""
    percent = " | ".join(f"{value:+.1f} %" for value in (row.error, row.unseen, row.with_waits))
    numbers = f"{row.instructions:,.0f} | {cycles} | {row.waits:,.0f}"
    return f"| {row.network} | {kernels} | {row.core} | {numbers} | {percent} |"


def page(rows: Sequence[Row], fitted: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    """docs/COSTS.md."""
    worst = max(max(abs(row.unseen), abs(row.error)) for row in rows)
    touch, touch_cnn = (f"{COUNTED[name]:,}" for name in ("touch", "touch_cnn"))
    return f"""# What layers cost: the estimate and its error

nnbuild {__version__}, {target.compiler_version()}, `-O2`; refreshed by `python -m benchmarks.fit_costs --write`.

`latency=`, the `check` command and the size report use estimated cycles, from three parts:

1. **Trips.** Each kernel states how often each of its loops runs for a layer. That follows from shapes alone.
2. **What a trip costs**, in `nnbuild/costs.json`: fitted by nonnegative least squares, for each kernel and each class
   of instruction sets, to what layers execute under QEMU, instruction for instruction: the layers of the networks below
   and some hundreds of single layers of other shapes. It holds for this compiler at `-O2`, the default of
   `NN_KERNEL_CCFLAGS`; with `-Os`, `-flto` or another compiler the error is larger, by how much nobody knows.
3. **Cycles of an instruction** from the Technical Reference Manuals of the cores, below; memory never waits.

Slow flash comes on top: each wait state costs one cycle for each access, which is each 32 bits of instructions, one
more for each jump, and each read of a constant (weights, literals). That is a flash with neither prefetch nor cache,
so it is more than most chips take: with an accelerator in front of the flash, state no wait states or measure
(`NN_CYCLES`). `NN_MUL_CYCLES=32` adds 31 cycles for each MULS, for Cortex-M0 and M0+ with the small multiplier.

Cortex-M7, M23, M33, M55 and M85 have no table of timings here: their cycles are instructions times a factor, the
largest ratio in the table of M4 (M7, M33) or M0+ (M23), and 2 on M55 and M85, where a vector instruction takes two.
Such a figure is labelled, and fails a build only with `latency_strict=True`.

## Cycles of an instruction

{_timings()}

## Reference networks

"error" is the estimate against what is counted, with this network in the fit; "not in the fit" is the same after
fitting without it, which is what another network must expect; the last column adds a flash with one wait state. The
largest of these for a core is the error that reports state, at least {LEAST:g} %, which small networks may be off. The
largest of the first two here is {worst:.1f} %. Cortex-M55: instructions, as there are no cycles.

The networks of the example firmware are no part of the fit; `tests/test_cost.py` holds their estimates against what
`scons -C example_firmware run` counts on a Cortex-M0: {touch} cycles for `touch`, {touch_cnn} for `touch_cnn`.

{HEADER}
{chr(10).join(line(row) for row in rows)}

## Cycles of one trip

Of the kernels that take most of the time, without wait states. `word` is one input and the weights of four outputs.

{_trips(fitted)}
"""


def _timings() -> str:
    names = {
        "plain": "any other",
        "multiply": "MULS",
        "multiply_add": "MLA, MLS, SMLAD and the like",
        "long_multiply": "SMULL, UMULL",
        "long_multiply_add": "SMLAL, UMLAL",
        "divide": "SDIV, UDIV",
        "load": "LDR and the like",
        "next_load": "LDR behind an LDR, address not from it",
        "double": "LDRD, STRD",
        "store": "STR and the like",
        "indexed_store": "STR, register offset",
        "several": "LDM, STM, PUSH, POP",
        "registers": "each register of them",
        "branch": "branch taken",
        "call": "BL",
        "jump": "BX, BLX, and the PC by POP",
        "system": "MRS, MSR, barriers",
    }
    lines = ["| instruction | M0 | M0+ | M3 | M4 |", "|---|---:|---:|---:|---:|"]
    for kind, cycles in instruction_timings.CYCLES.items():
        cells = (
            "-" if kind in instruction_timings.MISSING and at < 2 else f"{value:g}" for at, value in enumerate(cycles)
        )
        lines.append(f"| {names[kind]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _trips(fitted: Mapping[str, Mapping[str, Mapping[str, Sequence[float]]]]) -> str:
    forms: dict[str, tuple[str, ...]] = {"conv2d": ("assembly", "horner"), "depthwise_conv2d": ("assembly", "direct")}
    forms |= {"fully_connected": ("assembly", "horner"), "add": ("direct",)}
    shown = [f"{operator}/{name}" for operator, names in forms.items() for name in names]
    lines = ["| kernel | loop | M0 | M0+ | M3 | M4 |", "|---|---|---:|---:|---:|---:|"]
    for kernel in shown:
        for loop in fitted["armv6m"][kernel]:
            cells = [
                f"{fitted[isa][kernel].get(loop, [0] * len(columns(isa)))[columns(isa).index(core)]:.1f}"
                if kernel in fitted[isa]
                else "-"
                for isa, cores in CORES.items()
                for core in cores
            ]
            lines.append(f"| {kernel} | {loop} | {' | '.join(cells)} |")
    return "\n".join(lines)
