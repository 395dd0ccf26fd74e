"""Rewriting a model into the few forms that the later stages know: one rule a file, in the lists below.

A rule is `rewrite(graph, node) -> bool`: it looks at one node, changes the graph and answers True, or leaves it alone
and answers False. A rule has its turn when none before it applies; they run until none does. Each keeps what the model
computes: float rules up to rounding, those of QDQ to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from onnx import NodeProto

from nnbuild.errors import InternalError
from nnbuild.passes import (
    batchnorm,
    batchnorm_to_quantized,
    clamp_form,
    clamps_early,
    conv_form,
    div_form,
    explicit_pads,
    explicit_zero_points,
    fold_affine,
    gemm_form,
    global_max_pool,
    integer_clip,
    last_state,
    layer_norm_forms,
    masks,
    matmul_form,
    matmul_to_gemm,
    merge_clamps,
    merge_quantizers,
    merge_views,
    pad_form,
    pad_into_window,
    remove_noops,
    scale_into_quantized,
    scale_into_weights,
    scale_to_conv,
    softmax_forms,
    split_to_slices,
    sum_of_squares,
    sum_to_add,
    time_first,
    transpose_first,
    transposed_weights,
    unary_forms,
)
from nnbuild.passes.graph import Graph

Rule = Callable[[Graph, NodeProto], bool]

FLOAT_RULES: tuple[Rule, ...] = (
    remove_noops.rewrite,
    split_to_slices.rewrite,
    time_first.rewrite,
    last_state.rewrite,
    explicit_pads.rewrite,
    sum_to_add.rewrite,
    sum_of_squares.rewrite,
    masks.rewrite,
    clamp_form.rewrite,
    merge_clamps.rewrite,
    unary_forms.rewrite,
    softmax_forms.rewrite,
    layer_norm_forms.rewrite,
    global_max_pool.rewrite,
    conv_form.rewrite,
    merge_views.rewrite,
    clamps_early.rewrite,
    pad_form.rewrite,
    pad_into_window.rewrite,
    gemm_form.rewrite,
    matmul_form.rewrite,
    matmul_to_gemm.rewrite,
    fold_affine.rewrite,
    batchnorm.rewrite,
    scale_into_weights.rewrite,
    transpose_first.rewrite,
    scale_to_conv.rewrite,
    div_form.rewrite,
)

# What onnxruntime would refuse or misread, put right before it sees the graph.
EARLY_RULES: tuple[Rule, ...] = (explicit_pads.rewrite, time_first.rewrite)

QDQ_RULES: tuple[Rule, ...] = (
    remove_noops.rewrite,
    explicit_zero_points.rewrite,
    split_to_slices.rewrite,
    time_first.rewrite,
    last_state.rewrite,
    explicit_pads.rewrite,
    sum_to_add.rewrite,
    clamp_form.rewrite,
    integer_clip.rewrite,
    merge_quantizers.rewrite,
    unary_forms.rewrite,
    softmax_forms.rewrite,
    global_max_pool.rewrite,
    pad_into_window.rewrite,
    transposed_weights.rewrite,
    matmul_to_gemm.rewrite,
    clamps_early.rewrite,
    scale_into_quantized.rewrite,
    batchnorm_to_quantized.rewrite,
    div_form.rewrite,
)

# Operators that no stage after import knows, because a rule turns them into others or removes them.
REWRITTEN = frozenset(
    (
        "BatchNormalization",
        "Cast",
        "Dropout",
        "GlobalMaxPool",
        "Greater",
        "GreaterOrEqual",
        "Identity",
        "Less",
        "LessOrEqual",
        "Mean",
        "Pad",
        "ReduceSumSquare",
        "Split",
        "Sum",
        "Upsample",
    )
)

_MAX_ROUNDS = 1000


def simplify(graph: Graph, rules: Sequence[Rule]) -> None:
    """Apply `rules` until none does anything; nodes that nobody reads go."""
    for _ in range(_MAX_ROUNDS + 2 * sum(len(node.input) for node in graph.nodes)):
        graph.remove_dead()
        # Rules look at what they have computed: a constant that overflows leaves the model as it is.
        with np.errstate(all="ignore"):
            if not any(_sweep(graph, rule) for rule in rules):
                return
    raise InternalError("the rewriting rules do not come to an end")


def _sweep(graph: Graph, rule: Rule) -> bool:
    """Show every node to one rule; whether it did anything, after which the first rule has its turn again."""
    changed = False
    for node in list(graph.nodes):
        if graph.alive(node):
            changed |= rule(graph, node)
    return changed


def name_nodes(graph: Graph) -> None:
    """Give every node a name of its own; those without one are called by operator and position."""
    seen: set[str] = set()
    taken = {node.name for node in graph.nodes}
    for index, node in enumerate(graph.nodes):
        wish = node.name or f"{node.op_type}_{index}"
        name, count = wish, 1
        while name in seen or (name != node.name and name in taken):
            count += 1
            name = f"{wish}_{count}"
        node.name = name
        seen.add(name)
