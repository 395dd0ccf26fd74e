"""Show which kernel computes each layer on a core, why the others do not, and the sets that could be had instead."""

from __future__ import annotations

import argparse
import dataclasses

from nnbuild.commands import network_arguments, rows_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nnbuild select`."""
    network_arguments.add_model(parser)
    network_arguments.add_target(parser)
    network_arguments.add_aim(parser)
    rows_arguments.add(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print one line a layer, and one for each set of kernels that no other beats in flash and cycles."""
    from nnbuild.ops import BY_NAME
    from nnbuild.shrink import Removed, shrink

    lowered = network_arguments.network(arguments)
    whole = shrink(lowered)
    found, said = network_arguments.made(arguments, whole, network_arguments.target(arguments))
    network, selection = found.network, found.selection
    print(f"{'layer':28} {'output':>14} {'MACs':>10}  kernel")
    for choice in selection.choices:
        shape = "x".join(str(n) for n in choice.view.output.shape)
        reasons = "; ".join(f"not {name}: {reason}" for name, reason in choice.reasons.items())
        macs = BY_NAME[choice.layer.op].macs(choice.view) * choice.layer.times
        print(f"{choice.layer.name:28} {shape:>14} {macs:>10,}  {choice.kernel.name:10} {reasons}".rstrip())
    for index, (flash, cycles) in enumerate(selection.curve):
        print(f"{'->' if index == selection.chosen else '  '} {flash:>10,} bytes of flash {cycles:>14,} cycles")
    for line in [*network_arguments.segments(network), *said]:
        print(line)
    removed = Removed.between(lowered, whole)
    if any(dataclasses.astuple(removed)):
        print(
            f"shrinking removed {removed.layers} layers, {removed.macs:,} MACs, {removed.constant_bytes:,} bytes of "
            "constants; no output changes by it"
        )
    return 0
