"""Show where each tensor lives in the arena, what is live at each layer, and which layer is the peak."""

from __future__ import annotations

import argparse

from nnbuild.commands import network_arguments, rows_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Arguments of `nnbuild plan`."""
    network_arguments.add_model(parser)
    network_arguments.add_target(parser)
    network_arguments.add_aim(parser)
    rows_arguments.add(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the plan."""
    from nnbuild.model_report import arena_map
    from nnbuild.shrink import shrink

    target = network_arguments.target(arguments)
    found, said = network_arguments.made(arguments, shrink(network_arguments.network(arguments)), target)
    network, planned = found.network, found.planned
    proof = "which is proved to be the least" if planned.optimal else f"and no plan needs less than {planned.bound:,}"
    print(f"arena {planned.arena:,} bytes, {proof}")
    print(f"{'layer':28} {'offset':>8} {'bytes':>8} {'scratch':>8} {'live':>8}")
    for index, layer in enumerate(network.layers):
        tensor = network.home(layer.output)
        offset = planned.offsets.get(tensor)
        elsewhere = "state" if tensor in planned.in_states else "caller"
        place = elsewhere if offset is None else str(offset)
        scratch = planned.scratch.get(layer.name)
        peak = "  <- peak" if index == planned.peak else ""
        size = network.tensors[tensor].bytes
        scratch_text = "-" if scratch is None else str(scratch)
        print(f"{layer.name:28} {place:>8} {size:>8,} {scratch_text:>8} {planned.live[index]:>8,}{peak}")
    for row in arena_map(network, found.selection.choices, planned, target):
        if row["offset"] is not None and row["first"] <= planned.peak <= row["last"]:
            print(f"at the peak: {row['kind']} {row['name']}, {row['bytes']:,} bytes at {row['offset']}")
    for line in [*network_arguments.segments(network), *said]:
        print(line)
    return 0
