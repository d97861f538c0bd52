"""Matrix products (``iOS15/linear.py``, ``iOS17/linear.py``, ``iOS18/transformers.py`` of coremltools)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nagedge.runtimes.mil_program.dtypes import DataType

__all__ = ["OPS"]


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x @ weight.T + bias`` for ``x`` of ``[..., D_in]`` and ``weight`` of ``[D_out, D_in]``."""
    product = torch.matmul(x, weight.to(x.dtype).T)
    return product if bias is None else product + bias.to(x.dtype)


def matmul(
    x: Tensor,
    y: Tensor,
    transpose_x: bool = False,
    transpose_y: bool = False,
    *,
    dtypes: tuple[DataType, ...],
) -> Tensor:
    """Return the batched matrix product; the flags transpose the last two dimensions, and leave vectors alone.

    Of a variable and a constant of different types (iOS 17) the variable's is that of the result, and of the product.
    """
    kind = torch.float32 if dtypes[0].is_float else dtypes[0].carrier
    left = x.mT if transpose_x and x.dim() > 1 else x
    right = y.mT if transpose_y and y.dim() > 1 else y
    return torch.matmul(left.to(kind), right.to(kind))


def einsum(values: Sequence[Tensor], equation: str) -> Tensor:
    """Return the products and sums that an equation states; sizes of 1 are broadcast."""
    return torch.einsum(equation, *values)


def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None
) -> Tensor:
    """Return ``softmax(query @ key.T / sqrt(E) + mask) @ value``; false in a mask means minus infinity."""
    scores = torch.matmul(query, key.mT) / math.sqrt(query.shape[-1])
    if attn_mask is not None:
        masked = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if masked else scores + attn_mask
    return torch.matmul(torch.softmax(scores, -1), value)


OPS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (linear, matmul, einsum, scaled_dot_product_attention)
}
"""Op type -> its function."""
