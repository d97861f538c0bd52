"""Gradients of convolutions for backends that keep channels last (TensorFlow Lite).

With channels last, ``[batch, *size, channels]`` is a matrix of one row a cell without moving anything. So the gradient
of the weights is one matrix product over all cells of the batch, of the gradient and the windows laid side by side
(im2col). The gradient of the input is a transposed convolution, left to the backend.

Notation as in :mod:`nagedge.graphs.decompositions.convolution`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from nagedge.graphs.decompositions.convolution import input_gradient_by_transposed_convolution
from nagedge.graphs.decompositions.tensors import reshape
from nagedge.graphs.decompositions.windows import pad_spatial, per_axis, taps, window

aten = torch.ops.aten

__all__ = ["CHANNELS_LAST", "convolution_backward", "weight_gradient"]

Ints = Sequence[int]


def weight_gradient(
    x: Tensor, grad: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Tensor:
    """Correlate the input with the gradient: ``[O, C / groups, *kernel]``.

    Depthwise: one product and one sum a tap. Otherwise one matrix product ``[O, cells] @ [cells, taps * C]`` a group.
    """
    axes, size = len(kernel), grad.shape[2:]
    channels, outputs = x.shape[1], grad.shape[1]
    reach = [(size[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(axes)]
    after = [reach[i] - x.shape[2 + i] - padding[i] for i in range(axes)]
    padded = pad_spatial(x, padding, [max(a, 0) for a in after])
    windows = [window(padded, tap, size, stride, dilation) for tap in taps(kernel)]
    if channels == groups and outputs % channels == 0:
        return _depthwise(windows, grad, channels, outputs // channels, kernel)
    inputs, own = channels // groups, outputs // groups
    parts = []
    for g in range(groups):
        cut = [w if groups == 1 else aten.slice.Tensor(w, 1, g * inputs, (g + 1) * inputs) for w in windows]
        columns = cut[0] if len(cut) == 1 else torch.cat(cut, 1)
        rows = grad if groups == 1 else aten.slice.Tensor(grad, 1, g * own, (g + 1) * own)
        parts.append(aten.mm.default(_rows(rows).t(), _rows(columns)))
    total = parts[0] if groups == 1 else torch.cat(parts, 0)
    by_tap = reshape(total, [outputs, len(windows), inputs]).transpose(1, 2)
    return reshape(by_tap, [outputs, inputs, *kernel])


def _depthwise(
    windows: Sequence[Tensor], grad: Tensor, channels: int, multiplier: int, kernel: Ints
) -> Tensor:
    over = [0, *range(2, grad.dim())]
    if multiplier > 1:
        windows = [_repeated(w, channels, multiplier) for w in windows]
    sums = [(grad * part).sum(over) for part in windows]
    return reshape(torch.stack(sums, 1), [channels * multiplier, 1, *kernel])


def _repeated(x: Tensor, channels: int, times: int) -> Tensor:
    """Every channel ``times`` times in a row."""
    spatial = list(x.shape[2:])
    wide = x.unsqueeze(2).expand(-1, channels, times, *spatial)
    return reshape(wide, [-1, channels * times, *spatial])


def _rows(x: Tensor) -> Tensor:
    """``[batch, channels, *size]`` as ``[batch * cells, channels]``."""
    channels, area = x.shape[1], math.prod(x.shape[2:])
    last = reshape(x, [-1, channels, area]).transpose(1, 2)
    return reshape(last, [-1, channels])


def convolution_backward(
    grad: Tensor,
    x: Tensor,
    w: Tensor,
    bias_sizes: Ints | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
    output_mask: Sequence[bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The rule of ``aten.convolution_backward``."""
    axes = x.dim() - 2
    stride, padding, dilation = (per_axis(v, axes) for v in (stride, padding, dilation))
    grad_x = grad_w = grad_b = None
    if output_mask[0]:
        if transposed:
            grad_x = aten.convolution.default(
                grad, w, None, stride, padding, dilation, False, [0] * axes, groups
            )
            extra = [x.shape[2 + i] - grad_x.shape[2 + i] for i in range(axes)]
            grad_x = pad_spatial(grad_x, [0] * axes, extra)
        else:
            grad_x = input_gradient_by_transposed_convolution(
                grad, x.shape[2:], w, stride, padding, dilation, groups
            )
    if output_mask[1]:
        big, small = (grad, x) if transposed else (x, grad)
        grad_w = weight_gradient(big, small, w.shape[2:], stride, padding, dilation, groups)
    if output_mask[2]:
        grad_b = grad.sum([0, *range(2, grad.dim())])
    return grad_x, grad_w, grad_b


CHANNELS_LAST: Mapping[Any, Callable[..., Any]] = {aten.convolution_backward.default: convolution_backward}
"""Overrides for backends that keep channels last."""
