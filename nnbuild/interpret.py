"""The integer reference: runs a `Network` in numpy. Its bytes are what the generated C computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnbuild import fixedpoint
from nnbuild.network import Array, Network
from nnbuild.ops import BY_NAME


def run_all(network: Network, inputs: Sequence[Array]) -> dict[str, Array]:
    """Every tensor of one inference by name, flat int8. `inputs`: one int8 array for each of the network's inputs."""
    values: dict[str, Array] = {}
    for port, array in zip(network.inputs, inputs, strict=True):
        flat = np.asarray(array)
        if flat.dtype != np.int8 or flat.size != network.tensors[port.tensor].size:
            raise ValueError(f"input {port.name}: {flat.dtype}{flat.shape}, expected int8 {port.shape}")
        values[port.tensor] = flat.ravel()
    with fixedpoint.rounding(network.single_rounding):
        for layer in network.layers:
            reference = BY_NAME[layer.op].reference
            assert reference is not None
            result = reference(layer.params, layer.constants, [values[name] for name in layer.inputs])
            values[layer.output] = result.ravel()
    return values


def run(network: Network, inputs: Sequence[Array]) -> list[Array]:
    """The outputs of one inference, int8, in the shapes of the network's output ports."""
    values = run_all(network, inputs)
    return [values[port.tensor].reshape(port.shape) for port in network.outputs]
