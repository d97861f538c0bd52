"""Decompositions of ATen operators, backward ones above all, into one small portable set.

A training step traced with ``make_fx(..., decomposition_table=decomposition_table())`` holds only operators named in
:data:`PORTABLE_OPS`. :data:`ONNX` is a table of overrides for ONNX Runtime.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._ops import OpOverload

from nagedge.graphs.decompositions import convolution, indexing, normalization, pooling

__all__ = ["ONNX", "PORTABLE", "PORTABLE_OPS", "decomposition_table"]

Rule = Callable[..., Any]

aten = torch.ops.aten

PORTABLE: Mapping[OpOverload, Rule] = {
    aten.convolution_backward.default: convolution.convolution_backward(
        convolution.input_gradient_by_convolution
    ),
    aten.max_pool2d_with_indices_backward.default: pooling.max_pool2d_with_indices_backward,
    aten.avg_pool2d_backward.default: pooling.avg_pool2d_backward,
    aten._adaptive_avg_pool2d.default: pooling.adaptive_avg_pool2d,
    aten._adaptive_avg_pool2d_backward.default: pooling.adaptive_avg_pool2d_backward,
    aten.adaptive_max_pool2d.default: pooling.adaptive_max_pool2d,
    aten.adaptive_max_pool2d_backward.default: pooling.adaptive_max_pool2d_backward,
    aten.native_batch_norm.default: normalization.batch_norm,
    aten._native_batch_norm_legit.default: normalization.batch_norm,
    aten._native_batch_norm_legit.no_stats: normalization.batch_norm_no_statistics,
    aten._native_batch_norm_legit_no_training.default: normalization.batch_norm_no_training,
    aten.native_batch_norm_backward.default: normalization.batch_norm_backward,
    aten.native_group_norm.default: normalization.group_norm,
    aten.native_group_norm_backward.default: normalization.group_norm_backward,
    aten.native_layer_norm.default: normalization.layer_norm,
    aten.native_layer_norm_backward.default: normalization.layer_norm_backward,
    aten.stack.default: indexing.stack,
    aten.embedding_dense_backward.default: indexing.embedding_dense_backward,
    aten.var_mean.correction: normalization.var_mean,
}

ONNX: Mapping[OpOverload, Rule] = {
    aten.convolution_backward.default: convolution.convolution_backward(
        convolution.input_gradient_by_transposed_convolution
    ),
}

PORTABLE_OPS: frozenset[str] = frozenset(
    """
    abs add addmm alias amax amin arange argmax avg_pool2d bmm cat ceil clamp clone constant_pad_nd convolution cos
    cumsum detach div embedding eq erf exp expand flip floor full full_like ge gt index_select le log log1p
    logical_and logical_not logical_or lt max_pool2d_with_indices maximum mean minimum mm mul ne neg permute pow
    reciprocal relu round rsqrt select sigmoid sign sin slice split split_with_sizes sqrt squeeze sub sum tanh
    transpose unsqueeze view where zeros_like _log_softmax _softmax _to_copy _unsafe_view
    sym_size floordiv getitem
    """.split()
)
"""Operators, by name without overload, that a decomposed graph may hold.

``sym_size``, ``mul``, ``add``, ``sub`` and ``floordiv`` also stand for arithmetic on a symbolic batch size.
"""


def decomposition_table(overrides: Mapping[OpOverload, Rule] | tuple[()] = ()) -> dict[OpOverload, Rule]:
    """Return the decompositions for ``make_fx``: torch's core table, ours above it, ``overrides`` on top.

    Args:
        overrides: rules of one backend, such as :data:`ONNX`.
    """
    table: dict[OpOverload, Rule] = dict(core_aten_decompositions())
    table.update(get_decompositions([aten.leaky_relu, aten.elu, aten.gelu, aten.hardtanh]))
    table.update(PORTABLE)
    table.update(overrides)
    return table
