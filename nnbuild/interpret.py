"""The integer reference: runs a `Network` in numpy. Its bytes are what the generated C computes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nnbuild import fixedpoint
from nnbuild.contract import LayerView
from nnbuild.network import Array, Layer, Network
from nnbuild.ops import BY_NAME

States = dict[str, Array]
"""What layers keep from one inference to the next, by the name of the layer; an empty one is that behind a reset."""


def run_all(network: Network, inputs: Sequence[Array], states: States | None = None) -> dict[str, Array]:
    """Every tensor of one inference by name, flat. `inputs`: for each of the network's inputs an array of its type.

    `states` go in and come out changed; without them the network starts anew.
    """
    states = {} if states is None else states
    values: dict[str, Array] = {}
    for port, array in zip(network.inputs, inputs, strict=True):
        flat = np.asarray(array)
        tensor = network.tensors[port.tensor]
        if flat.dtype != tensor.dtype or flat.size != tensor.size:
            raise ValueError(f"input {port.name}: {flat.dtype}{flat.shape}, expected {tensor.dtype} {port.shape}")
        values[port.tensor] = flat.ravel()

    def of(tensor: str) -> Array:
        """The memory of `tensor`: that of its own or, of a view, its part of another one's."""
        if (view := network.views.get(tensor)) is not None:
            return of(view.home)[view.start : view.start + network.tensors[tensor].size]
        return values.setdefault(tensor, np.zeros(network.tensors[tensor].size, network.tensors[tensor].dtype))

    with fixedpoint.rounding(network.single_rounding):
        for layer in network.layers:
            of(layer.output)[:] = run_layer(network, layer, [of(name) for name in layer.inputs], states).ravel()
    return {name: of(name) for name in network.tensors}


def run_layer(network: Network, layer: Layer, inputs: Sequence[Array], states: States) -> Array:
    """The output of one layer, int8; `inputs` are flat, `states` as in `run_all`, within `fixedpoint.rounding`."""
    operator = BY_NAME[layer.op]
    start = operator.state(LayerView.of(network, layer))
    if start is None:
        assert operator.reference is not None
        return operator.reference(layer.params, layer.constants, inputs)
    assert operator.advance is not None
    before = states.get(layer.name, start)
    result, states[layer.name] = operator.advance(layer.params, layer.constants, inputs, before)
    return result


def run(network: Network, inputs: Sequence[Array], states: States | None = None) -> list[Array]:
    """The outputs of one inference in the shapes of the network's output ports; `states` as in `run_all`."""
    values = run_all(network, inputs, states)
    return [values[port.tensor].reshape(port.shape) for port in network.outputs]
