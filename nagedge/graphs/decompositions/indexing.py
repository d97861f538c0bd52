"""Stacking, embedding and indexing without scatter: gradients of gathers are one-hot matrix products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nagedge.graphs.decompositions.tensors import constant, reshape

aten = torch.ops.aten

__all__ = ["embedding_dense_backward", "stack"]


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``aten.stack``: a new axis of size one each, then one concatenation."""
    place = dim if dim >= 0 else dim + tensors[0].dim() + 1
    return aten.cat.default([aten.unsqueeze.default(x, place) for x in tensors], place)


def embedding_dense_backward(
    grad: Tensor, indices: Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> Tensor:
    """``onehot(indices)^T @ grad``: ``[num_weights, features]``; the row of ``padding_idx`` gets nothing.

    Args:
        grad: ``[*indices.shape, features]``.
        indices: integers, any shape.
    """
    rows = reshape(indices, [-1, 1])
    classes = constant([range(num_weights)], grad, indices.dtype)
    chosen = aten.eq.Tensor(rows, classes)
    if padding_idx >= 0:
        chosen = aten.logical_and.default(chosen, aten.ne.Scalar(rows, padding_idx))
    onehot = chosen.to(grad.dtype)
    total = torch.mm(onehot.t(), reshape(grad, [-1, grad.shape[-1]]))
    if scale_grad_by_freq:
        total = total / torch.clamp(onehot.sum(0), min=1.0).unsqueeze(1)
    return total
