"""Decompositions of ATen operators, backward ones above all, into one small portable set.

A training step traced with ``make_fx(..., decomposition_table=decomposition_table())`` over functional code holds only
operators named in :data:`PORTABLE_OPS`. :data:`ONNX` is a table of overrides for ONNX Runtime. :data:`FORWARD` holds
the few operators without a derivative that functional code may contain; a forward pass is traced with it before its
gradient is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any

import torch
from torch._decomp import core_aten_decompositions, get_decompositions
from torch._ops import OpOverload

from nagedge.graphs.decompositions import (
    activations,
    convolution,
    convolution_onnx,
    convolution_rows,
    indexing,
    masks,
    normalization,
    padding,
    phases,
    pooling,
    scatter,
    sums,
    tensors,
)
from nagedge.graphs.decompositions.recurrent import RECURRENT, WHOLE
from nagedge.graphs.decompositions.resize import INTERPOLATIONS, whole_interpolations

__all__ = [
    "CHANNELS_LAST",
    "FORWARD",
    "ONNX",
    "PORTABLE",
    "PORTABLE_OPS",
    "beside_branches",
    "decomposition_table",
    "whole_interpolations",
]

Rule = Callable[..., Any]

aten = torch.ops.aten

FORWARD: Mapping[OpOverload, Rule] = {
    aten.copy.default: indexing.copy,
    aten.as_strided.default: tensors.as_strided,
    aten.rrelu_with_noise.default: activations.rrelu_in_evaluation,
    aten.rrelu_with_noise_functional.default: activations.rrelu_functional_in_evaluation,
    aten.var.correction: normalization.var,
    aten.var_mean.correction: normalization.var_mean,
    aten.std.correction: normalization.std,
    aten.std_mean.correction: normalization.std_mean,
    aten.avg_pool3d.default: pooling.avg_pool3d,
    aten._trilinear.default: indexing.trilinear,
    aten.unfold.default: indexing.unfold,
}
"""Rules for the forward trace: operators that torch cannot differentiate, or only with arithmetic on the batch size."""

PORTABLE: Mapping[OpOverload, Rule] = {
    **FORWARD,
    **INTERPOLATIONS,
    **RECURRENT,
    # convolution
    aten.convolution_backward.default: convolution.convolution_backward(
        convolution.input_gradient_by_convolution
    ),
    aten.im2col.default: convolution.im2col,
    aten.col2im.default: convolution.col2im,
    # pooling
    aten.max_pool2d_with_indices_backward.default: pooling.max_pool2d_with_indices_backward,
    aten.avg_pool2d_backward.default: pooling.avg_pool2d_backward,
    aten._adaptive_avg_pool2d.default: pooling.adaptive_avg_pool2d,
    aten._adaptive_avg_pool2d_backward.default: pooling.adaptive_avg_pool2d_backward,
    aten.adaptive_max_pool2d.default: pooling.adaptive_max_pool2d,
    aten.adaptive_max_pool2d_backward.default: pooling.adaptive_max_pool2d_backward,
    # normalisation
    aten.native_batch_norm.default: normalization.batch_norm,
    aten._native_batch_norm_legit.default: normalization.batch_norm,
    aten._native_batch_norm_legit.no_stats: normalization.batch_norm_no_statistics,
    aten._native_batch_norm_legit_no_training.default: normalization.batch_norm_no_training,
    aten.native_batch_norm_backward.default: normalization.batch_norm_backward,
    aten.native_group_norm.default: normalization.group_norm,
    aten.native_group_norm_backward.default: normalization.group_norm_backward,
    aten.native_layer_norm.default: normalization.layer_norm,
    aten.native_layer_norm_backward.default: normalization.layer_norm_backward,
    # activations and elementwise functions
    aten.elu.default: activations.elu,
    aten.expm1.default: activations.expm1,
    aten.silu_backward.default: activations.silu_backward,
    aten.mish_backward.default: activations.mish_backward,
    aten.hardsigmoid_backward.default: activations.hardsigmoid_backward,
    aten._safe_softmax.default: activations.safe_softmax,
    aten.scalar_tensor.default: activations.scalar_tensor,
    aten.empty.memory_format: activations.empty,
    aten.empty_permuted.default: activations.empty_permuted,
    aten.bitwise_and.Tensor: activations.bitwise_and,
    aten.bitwise_or.Tensor: activations.bitwise_or,
    aten.bitwise_not.default: activations.bitwise_not,
    aten.isnan.default: activations.isnan,
    aten.any.dim: activations.any_dim,
    aten.all.dim: activations.all_dim,
    # padding
    **dict.fromkeys(
        [aten.reflection_pad1d.default, aten.reflection_pad2d.default, aten.reflection_pad3d.default],
        padding.reflection_pad,
    ),
    **dict.fromkeys(
        [
            aten.reflection_pad1d_backward.default,
            aten.reflection_pad2d_backward.default,
            aten.reflection_pad3d_backward.default,
        ],
        padding.reflection_pad_backward,
    ),
    **dict.fromkeys(
        [aten.replication_pad1d.default, aten.replication_pad2d.default, aten.replication_pad3d.default],
        padding.replication_pad,
    ),
    **dict.fromkeys(
        [
            aten.replication_pad1d_backward.default,
            aten.replication_pad2d_backward.default,
            aten.replication_pad3d_backward.default,
        ],
        padding.replication_pad_backward,
    ),
    aten.roll.default: padding.roll,
    aten.repeat.default: padding.repeat,
    # slicing, gathering, scattering
    aten.stack.default: indexing.stack,
    aten.embedding_dense_backward.default: indexing.embedding_dense_backward,
    aten.slice_backward.default: indexing.slice_backward,
    aten.select_backward.default: indexing.select_backward,
    aten.slice_scatter.default: indexing.slice_scatter,
    aten.select_scatter.default: indexing.select_scatter,
    aten.index.Tensor: indexing.index,
    aten._unsafe_index.Tensor: indexing.index,
    aten.index_put.default: indexing.index_put,
    aten._index_put_impl.default: indexing.index_put,
    aten._unsafe_index_put.default: indexing.index_put,
    aten.gather.default: indexing.gather,
    aten.scatter_add.default: indexing.scatter_add,
    aten.scatter.src: indexing.scatter_src,
    aten.max.dim: indexing.max_dim,
    aten.min.dim: indexing.min_dim,
    aten.unfold_backward.default: indexing.unfold_backward,
}
"""Our rules above torch's core decompositions, for every backend."""

ONNX: Mapping[OpOverload, Rule] = {
    aten.convolution.default: convolution_onnx.convolution,
    aten.convolution_backward.default: convolution_onnx.convolution_backward,
    aten.max_pool2d_with_indices_backward.default: partial(
        pooling.max_pool2d_with_indices_backward, windows=phases.windows_by_phases, by_product=True
    ),
    aten.addcmul.default: sums.addcmul,
    aten.threshold_backward.default: masks.threshold_backward,
    aten.hardtanh_backward.default: masks.hardtanh_backward,
    aten.hardsigmoid.default: masks.hardsigmoid,
    aten.hardswish.default: masks.hardswish,
    aten.hardswish_backward.default: masks.hardswish_backward,
    aten.hardsigmoid_backward.default: masks.hardsigmoid_backward,
    aten.embedding_dense_backward.default: scatter.embedding_dense_backward,
    aten.scatter_add.default: scatter.scatter_add,
    **WHOLE,
}
"""Overrides for ONNX Runtime."""

CHANNELS_LAST: Mapping[OpOverload, Rule] = {
    aten.convolution_backward.default: convolution_rows.convolution_backward,
    aten.max_pool2d_with_indices_backward.default: pooling.max_pool2d_with_indices_backward,
    aten.threshold_backward.default: masks.threshold_backward,
    aten.hardtanh_backward.default: masks.hardtanh_backward,
    aten.hardswish.default: activations.whole,
    aten.hardswish_backward.default: masks.hardswish_backward_by_rounding,
    aten.hardsigmoid_backward.default: masks.hardsigmoid_backward,
    aten.embedding_dense_backward.default: scatter.embedding_dense_backward,
    aten.scatter_add.default: scatter.scatter_add,
}
"""Overrides for backends that keep channels last (TensorFlow Lite)."""

_NAMES = """
abs add addmm alias amax amin arange argmax avg_pool2d bmm cat ceil clamp clone constant_pad_nd convolution cos cumsum
detach div embedding eq erf exp expand flip floor floordiv full full_like ge getitem gt index_select le log log1p
logical_and logical_not logical_or lt max_pool2d_with_indices maximum mean minimum mm mul ne neg permute pow reciprocal
relu reshape round rsqrt select sigmoid sign sin slice split split_with_sizes sqrt squeeze sub sum sym_size tanh
transpose unsqueeze view where zeros_like _log_softmax _softmax _to_copy _unsafe_view
"""

PORTABLE_OPS: frozenset[str] = frozenset(_NAMES.split())
"""Operators, by name without overload, that a decomposed graph may hold.

``sym_size``, ``mul``, ``add``, ``sub`` and ``floordiv`` also stand for arithmetic on a symbolic batch size.
"""


def beside_branches(overrides: Mapping[OpOverload, Rule]) -> Mapping[OpOverload, Rule]:
    """Return a backend's rules for a step with branches that are computed on rows, as LoRA's are.

    Args:
        overrides: rules of one backend, such as :data:`ONNX`; others have no such rules and are returned as they are.
    """
    operator, rule = aten.convolution_backward.default, convolution_onnx.convolution_backward
    if overrides.get(operator) is not rule:
        return overrides
    return {**overrides, operator: partial(rule, beside_branches=True)}


def decomposition_table(overrides: Mapping[OpOverload, Rule] | tuple[()] = ()) -> dict[OpOverload, Rule]:
    """Return the decompositions for ``make_fx``: torch's core table, ours above it, ``overrides`` on top.

    Args:
        overrides: rules of one backend, such as :data:`ONNX`.
    """
    return {**_core(), **PORTABLE, **dict(overrides)}


@cache
def _core() -> dict[Any, Rule]:
    """Torch's core decompositions and those that its core set leaves out."""
    more = [aten.leaky_relu, aten.gelu, aten.hardtanh, aten.softshrink_backward, aten.hardshrink_backward]
    return {**core_aten_decompositions(), **get_decompositions(more)}
