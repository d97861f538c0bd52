"""Interpolation as constant matrices: one matrix product an axis, so the gradient is a transposed product."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nagedge.graphs.decompositions.tensors import constant, reshape

__all__ = ["resize_axes"]

Matrix = Sequence[Sequence[float]]


def resize_axes(x: Tensor, matrices: Sequence[Matrix | None]) -> Tensor:
    """Multiply the last axes of ``x`` by one constant matrix each (``[outputs, inputs]``; None leaves the axis).

    The last axis is multiplied from the right; any other is moved last for its product, so every product is one
    ``mm`` over all examples and channels at once.
    """
    first = x.dim() - len(matrices)
    for axis in reversed(range(first, x.dim())):
        matrix = matrices[axis - first]
        if matrix is None:
            continue
        turned = constant(list(zip(*matrix, strict=True)), x)
        last = x.dim() - 1
        moved = x if axis == last else x.transpose(axis, last)
        shape = list(moved.shape)
        product = torch.mm(reshape(moved, [-1, shape[-1]]), turned)
        x = reshape(product, [-1, *shape[1:-1], turned.shape[1]])
        x = x if axis == last else x.transpose(axis, last)
    return x
