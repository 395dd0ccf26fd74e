"""In a QDQ model, what only scales and shifts a linear operator's channels goes into its weights' scales and its bias.

Training with quantization leaves BatchNormalization behind a layer (Brevitas), or a division and one (PyTorch's QAT).
(W * s) x * g + h is (W * s g) x + h: the integers stay, the scales take the factor; a negative one turns their signs.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from onnx import NodeProto

from nnbuild.network import Array
from nnbuild.passes import affine, batchnorm, dequantized
from nnbuild.passes.graph import Graph, attribute

_LINEAR = ("Conv", "ConvTranspose", "Gemm")


def rewrite(graph: Graph, node: NodeProto) -> bool:
    """Fold all BatchNormalizations, and all Add, Sub, Mul and Div by constants, that follow one linear operator."""
    if node.op_type not in _LINEAR:
        return False
    size = graph.shape(node.output[0])[1]
    scale, shift, chain = np.ones(size), np.zeros(size), [node]
    while (after := graph.sole_reader(chain[-1].output[0])) is not None:
        step = _by_channel(graph, after, size)
        if step is None:
            break
        scale, shift = scale * step.scale, shift * step.scale + step.shift
        chain.append(after)
    if len(chain) == 1 or not _scale_outputs(graph, node, scale, shift):
        return False
    for before, after in reversed(list(pairwise(chain))):
        graph.absorb(before, after)
    return True


def _by_channel(graph: Graph, node: NodeProto, size: int) -> affine.Affine | None:
    """What `node` does to each of `size` channels along axis 1; None where it is not of this kind."""
    if node.op_type == "BatchNormalization":
        by_channel = batchnorm.of_node(graph, node)
        return by_channel if by_channel is not None and by_channel.scale.shape == (size,) else None
    found = affine.of_node(graph, node)
    if found is None:
        return None
    rank = len(graph.shape(found.value))
    scale, shift = (affine.along(each, size, rank, 1) for each in (found.scale, found.shift))
    return None if scale is None or shift is None else affine.Affine(found.value, scale, shift)


def _scale_outputs(graph: Graph, node: NodeProto, scale: Array, shift: Array) -> bool:
    """Let `node` compute y * scale + shift, each (channels,); False where its weights cannot take that."""
    source, axis = dequantized.quantized(graph, node, 1), _channels_axis(node)
    bias = dequantized.real(graph, node, 2) if len(node.input) > 2 and node.input[2] else np.zeros(1)
    weights = graph.constant(source, 0) if source is not None else None
    if source is None or weights is None or bias is None or axis is None or weights.shape[axis] != scale.size:
        return False
    if bias.size not in (1, scale.size):
        return False
    factors, zero_point = graph.constant(source, 1), graph.constant(source, 2) if len(source.input) > 2 else None
    if factors is None or factors.size not in (1, scale.size) or (zero_point is not None and zero_point.any()):
        return False
    if factors.size > 1 and attribute(source, "axis", 1) % weights.ndim != axis:
        return False
    negative = scale < 0
    shape = [1] * weights.ndim
    shape[axis] = -1
    if negative.any() and weights.dtype != np.int8:
        return False
    turned = np.where(negative, -1, np.sign(scale)).reshape(shape) * weights.astype(np.int64)
    scaled = (factors.astype(np.float64).reshape(-1) * np.where(scale == 0, 1.0, np.abs(scale))).astype(np.float32)
    moved = (bias.reshape(-1) * scale + shift).astype(np.float32)
    if turned.max(initial=0) > np.iinfo(weights.dtype).max or not (scaled > 0).all():
        return False
    if not (np.isfinite(scaled).all() and np.isfinite(moved).all()):
        return False
    output = node.output[0]
    names = [
        graph.add_constant(f"{output}_weights", turned.astype(weights.dtype)),
        graph.add_constant(f"{output}_weights_scale", scaled),
        graph.add_constant(f"{output}_weights_zero_point", np.zeros(scaled.size, weights.dtype)),
    ]
    value = graph.unique(f"{output}_weights_dequantized")
    graph.add_node("DequantizeLinear", names, value, weights.shape, name=f"{output}_weights", before=node, axis=axis)
    graph.set_input(node, 1, value)
    graph.set_input(node, 2, graph.add_constant(f"{output}_bias", moved))
    return True


def _channels_axis(node: NodeProto) -> int | None:
    """The axis of the weights that counts outputs."""
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        return (0 if attribute(node, "transB", 0) else 1) if plain else None
    if node.op_type == "ConvTranspose":
        return 1 if attribute(node, "group", 1) == 1 else None
    return 0
