"""Pointwise convolutions with few channels on one side, as in LoRA's branches, as products of rows for ONNX Runtime.

The *rows* of an image ``[batch, C, *cells]`` are ``[batch * cells, C]``: one row a cell. On them a convolution with a
kernel of one cell, and each of its gradients, is one matrix product over the whole batch, and the gradient of the
weights needs no sum over examples. Moving an image into rows and back is a transposition each; where neighbouring
layers do the same, :mod:`nagedge.graphs.rows` leaves the images in rows and moves nothing.

ONNX Runtime 1.31, one thread, batch 8, 192 channels of 6x6, rank 4, from rows: down 0.013 ms, up and added 0.012 ms,
the gradient of a weight 0.014 ms; as convolutions and products an example 0.016, 0.023 and 0.029 ms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nagedge.graphs.decompositions.tensors import is_static, reshape

__all__ = [
    "channels_first", "channels_last", "convolution", "from_rows", "input_gradient", "is_branch", "to_rows",
    "weight_gradient",
]  # fmt: skip

FEW = 16
"""Channels up to which one side is few; LoRA's ranks are such."""

TIMES = 8
"""How many times as many the other side has.

Where neighbours are not in rows, as in a trunk that is trained whole, moving a narrow layer's images costs more than
its products save: MobileNetV3-small-050, which has layers of 8 to 40 channels, would take 1.04 times as long.
"""


def is_branch(x: Tensor, w: Tensor, stride: Sequence[int], padding: Sequence[int], groups: int) -> bool:
    """Whether a convolution is pointwise, with few channels on one side and more on the other.

    Args:
        x: the input, or something of its size.
        w: ``[O, C, *kernel]``.
        stride, padding, groups: of the convolution.
    """
    outputs, channels = w.shape[:2]
    plain = groups == 1 and all(n == 1 for n in (*w.shape[2:], *stride)) and not any(padding)
    few = min(outputs, channels) <= FEW and TIMES * min(outputs, channels) <= max(outputs, channels)
    return plain and few and all(is_static(n) for n in x.shape[1:]) and math.prod(x.shape[2:]) > 1


def channels_last(x: Tensor) -> Tensor:
    """``[batch, C, *cells]`` to ``[batch, *cells, C]``."""
    return x.permute([0, *range(2, x.dim()), 1])


def channels_first(x: Tensor) -> Tensor:
    """``[batch, *cells, C]`` to ``[batch, C, *cells]``."""
    return x.permute([0, x.dim() - 1, *range(1, x.dim() - 1)])


def to_rows(x: Tensor) -> Tensor:
    """``[batch, C, *cells]`` to ``[batch * cells, C]``."""
    return reshape(channels_last(x), [-1, x.shape[1]])


def from_rows(rows: Tensor, cells: Sequence[int]) -> Tensor:
    """``[batch * cells, C]`` to ``[batch, C, *cells]``."""
    return channels_first(reshape(rows, [-1, *cells, rows.shape[1]]))


def convolution(x: Tensor, w: Tensor, bias: Tensor | None) -> Tensor:
    """The convolution: ``[batch, O, *cells]``."""
    left, right = to_rows(x), _matrix(w).transpose(0, 1)
    return from_rows(torch.mm(left, right) if bias is None else torch.addmm(bias, left, right), x.shape[2:])


def input_gradient(grad: Tensor, w: Tensor) -> Tensor:
    """The gradient of the input: ``[batch, C, *cells]``."""
    return from_rows(torch.mm(to_rows(grad), _matrix(w)), grad.shape[2:])


def weight_gradient(x: Tensor, grad: Tensor, w: Tensor) -> Tensor:
    """The gradient of the weights, of their shape; the few channels are the rows of the product."""
    if w.shape[0] <= w.shape[1]:
        return reshape(torch.mm(to_rows(grad).transpose(0, 1), to_rows(x)), list(w.shape))
    product = torch.mm(to_rows(x).transpose(0, 1), to_rows(grad))
    return reshape(product.transpose(0, 1), list(w.shape))


def _matrix(w: Tensor) -> Tensor:
    """``[O, C]``."""
    return reshape(w, list(w.shape[:2]))
