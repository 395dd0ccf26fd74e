"""Show which kernel computes each layer on a core, and why the others do not."""

from __future__ import annotations

import argparse
import dataclasses

from nnbuild.commands import network_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nnbuild select`."""
    network_arguments.add_model(parser)
    network_arguments.add_target(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print one line a layer."""
    from nnbuild.ops import BY_NAME
    from nnbuild.selection import select
    from nnbuild.shrink import Removed, shrink

    lowered = network_arguments.network(arguments)
    network = shrink(lowered)
    target, pins = network_arguments.target(arguments), network_arguments.pins(arguments)
    choices = select(network, target, pins, arguments.backend)
    print(f"{'layer':28} {'output':>14} {'MACs':>10}  kernel")
    for choice in choices:
        shape = "x".join(str(n) for n in choice.view.output.shape)
        reasons = "; ".join(f"not {name}: {reason}" for name, reason in choice.reasons.items())
        macs = BY_NAME[choice.layer.op].macs(choice.view)
        print(f"{choice.layer.name:28} {shape:>14} {macs:>10,}  {choice.kernel.name:10} {reasons}".rstrip())
    removed = Removed.between(lowered, network)
    if any(dataclasses.astuple(removed)):
        print(
            f"shrinking removed {removed.layers} layers, {removed.macs:,} MACs, {removed.constant_bytes:,} bytes of "
            "constants; no output changes by it"
        )
    return 0
