"""Gradients of convolutions for backends that keep channels last (TensorFlow Lite).

With channels last, ``[batch, *size, channels]`` is a matrix of one row a cell without moving anything. So the gradient
of the weights is one matrix product over all cells of the batch, of the gradient and the windows laid side by side
(im2col). The gradient of the input is a transposed convolution, left to the backend.

Notation as in :mod:`nagedge.graphs.decompositions.convolution`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nagedge.graphs.decompositions.convolution import input_gradient_by_transposed_convolution
from nagedge.graphs.decompositions.tensors import constant, is_static, reshape
from nagedge.graphs.decompositions.windows import pad_spatial, per_axis, taps, window

aten = torch.ops.aten

__all__ = ["convolution_backward", "weight_gradient"]

Ints = Sequence[int]


FEW_CHANNELS = 16
"""With fewer input channels a product a tap is too small; its windows side by side are one (im2col).

16 images of 14x14, 32 and 16 channels, 3x3: 0.6 ms by taps, 1.3 ms side by side.
"""

FEW_COLUMNS = 32
"""With fewer input channels a tap fills less than one of the strips of columns in which XNNPACK computes a product.

Then a line of taps is one product. A step with a convolution of 16 to 32 channels, 14x14 cells, takes 0.96 of its time
with 3x3 taps, 0.86 with 5x5; from 32 channels on it takes as long or longer.
"""

NARROW = 48
"""Values of a window up to which a convolution with a unit matrix for weights gathers them: runtimes pack its weights.

8 images of 48x48, 3 channels, 3x3, stride 2: 0.37 ms, as nine slices beside each other 2.0 ms. It costs their square.
"""


def weight_gradient(
    x: Tensor, grad: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Tensor:
    """Correlate the input with the gradient: ``[O, C / groups, *kernel]``.

    Depthwise: one depthwise convolution over the whole batch, or, where that is not known, one product and one sum a
    tap. Otherwise one matrix product ``[O, cells] @ [cells, C]`` a tap and group, or one of a line's taps, or of all.
    """
    axes, size = len(kernel), grad.shape[2:]
    channels, outputs = x.shape[1], grad.shape[1]
    reach = [(size[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(axes)]
    after = [reach[i] - x.shape[2 + i] - padding[i] for i in range(axes)]
    static = all(is_static(n) for n in (*x.shape, *grad.shape))
    if channels == groups == outputs and static and axes in (1, 2):
        return _depthwise_of_batch(x, grad, kernel, stride, padding, dilation)
    if groups == 1 and math.prod(kernel) * channels <= NARROW and math.prod(kernel) > 1:
        return _narrow(x, grad, kernel, stride, padding, dilation)
    if groups == 1 and channels >= FEW_CHANNELS and _fills_blocks(outputs, kernel, stride, dilation):
        return _by_blocks(x, grad, kernel, stride[0], padding)
    padded = pad_spatial(x, padding, [max(a, 0) for a in after])
    lines = axes == 2 and groups == 1 and kernel[1] > 1 and stride[1] == 1
    if lines and FEW_CHANNELS <= channels < FEW_COLUMNS:
        return _by_lines(padded, grad, kernel, stride, dilation)
    windows = [window(padded, tap, size, stride, dilation) for tap in taps(kernel)]
    if channels == groups and outputs % channels == 0:
        return _depthwise(windows, grad, channels, outputs // channels, kernel)
    inputs, own = channels // groups, outputs // groups
    parts = []
    for g in range(groups):
        cut = [w if groups == 1 else aten.slice.Tensor(w, 1, g * inputs, (g + 1) * inputs) for w in windows]
        rows = _rows(grad if groups == 1 else aten.slice.Tensor(grad, 1, g * own, (g + 1) * own)).t()
        if inputs >= FEW_CHANNELS:
            products = [aten.mm.default(rows, _rows(part)) for part in cut]
            parts.append(products[0] if len(products) == 1 else torch.cat(products, 0))
        else:
            columns = cut[0] if len(cut) == 1 else torch.cat(cut, 1)
            parts.append(aten.mm.default(rows, _rows(columns)))
    total = parts[0] if groups == 1 else torch.cat(parts, 0)
    if inputs < FEW_CHANNELS:
        return _by_taps(total, outputs, len(windows), inputs, kernel)
    by_group = reshape(total, [groups, len(windows), own, inputs]).permute(0, 2, 3, 1)
    return reshape(by_group, [outputs, inputs, *kernel])


def _by_lines(padded: Tensor, grad: Tensor, kernel: Ints, stride: Ints, dilation: Ints) -> Tensor:
    """One product ``[O, cells] @ [cells, taps * C]`` a line of taps, which lie side by side."""
    size, (down, across) = grad.shape[2:], kernel
    outputs, channels = grad.shape[1], padded.shape[1]
    part = (padded.shape[2], size[1])
    line = torch.cat([window(padded, (0, j), part, (1, 1), dilation) for j in range(across)], 1)
    rows = _rows(grad).t()
    found = [window(line, (i, 0), size, (stride[0], 1), dilation) for i in range(down)]
    total = torch.cat([aten.mm.default(rows, _rows(one)) for one in found], 0)
    by_line = reshape(total, [down, outputs, across, channels]).permute(1, 3, 0, 2)
    return reshape(by_line, [outputs, channels, down, across])


def _fills_blocks(outputs: int, kernel: Ints, stride: Ints, dilation: Ints) -> bool:
    """Whether the taps' outputs over blocks of a stride's cells are few; blocks are square and have no gaps."""
    if len(kernel) != 2 or stride[0] != stride[1] or stride[0] == 1 or max(dilation) > 1:
        return False
    return outputs * math.prod(-(-k // stride[0]) for k in kernel) <= FEW_COLUMNS


def _by_blocks(x: Tensor, grad: Tensor, kernel: Ints, step: int, padding: Ints) -> Tensor:
    """One product of blocks of ``step * step`` cells and the gradient, moved to where each tap of blocks reads.

    A slice a tap of the input is nine times the input for 3x3 taps; the gradient has few channels.
    """
    outputs, channels, size = grad.shape[1], x.shape[1], grad.shape[2:]
    reach = [-(-k // step) for k in kernel]
    cells = [size[i] + reach[i] - 1 for i in range(2)]
    image = pad_spatial(x, padding, [cells[i] * step - x.shape[2 + i] - padding[i] for i in range(2)])
    split = reshape(image, [-1, channels, cells[0], step, cells[1], step])
    blocks = reshape(split.permute(0, 2, 4, 3, 5, 1), [-1, step * step * channels])
    moved = [
        pad_spatial(grad, tap, [r - 1 - i for r, i in zip(reach, tap, strict=True)]) for tap in taps(reach)
    ]
    total = aten.mm.default(_rows(torch.cat(moved, 1)).t(), blocks)
    by_cell = reshape(total, [*reach, outputs, step, step, channels]).permute(2, 5, 0, 3, 1, 4)
    whole = reshape(by_cell, [outputs, channels, reach[0] * step, reach[1] * step])
    return whole[:, :, : kernel[0], : kernel[1]]


def _by_taps(total: Tensor, outputs: int, count: int, inputs: int, kernel: Ints) -> Tensor:
    """``[O, taps * C]`` as ``[O, C, *kernel]``."""
    by_tap = reshape(total, [outputs, count, inputs]).transpose(1, 2)
    return reshape(by_tap, [outputs, inputs, *kernel])


def _narrow(x: Tensor, grad: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> Tensor:
    """Gather the windows by a convolution whose weights are a unit matrix."""
    channels, count, axes = x.shape[1], math.prod(kernel), len(kernel)
    unit = np.moveaxis(np.eye(count * channels).reshape(count * channels, *kernel, channels), -1, 1)
    columns = aten.convolution.default(
        x, constant(unit.tolist(), x), None, list(stride), list(padding), list(dilation), False, [0] * axes, 1
    )
    for axis in range(2, 2 + axes):  # of a transposed convolution: cells behind the last window that counts
        if columns.shape[axis] != grad.shape[axis]:
            columns = aten.slice.Tensor(columns, axis, 0, grad.shape[axis])
    total = aten.mm.default(_rows(grad).t(), _rows(columns))
    return _by_taps(total, grad.shape[1], count, channels, kernel)


def _depthwise_of_batch(
    x: Tensor, grad: Tensor, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints
) -> Tensor:
    """One depthwise convolution of one tall image: the batch's, one above the other; the gradient is its kernel.

        dw[c, i, j] = sum over n, h, w of x[n, c, h s + i d, w s + j d] dy[n, c, h, w]

    So stride and dilation change places. An image has as many rows as the gradient's, spread out by the stride, and the
    last taps reach; the gradient has rows of zeros there, so that no window crosses into the next image. One product
    and one sum a tap take as long for small maps, and 2.5 times as long for 12x12 cells of 96 channels, 5x5, whose
    intermediate results leave the caches.
    """
    if len(kernel) == 1:  # a new axis in front
        one = _depthwise_of_batch(
            x.unsqueeze(2), grad.unsqueeze(2), (1, *kernel), (1, *stride), (0, *padding), (1, *dilation)
        )
        return one.squeeze(2)
    channels, size, rows = x.shape[1], grad.shape[2:], grad.shape[2]
    reach = [(size[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(2)]
    more = -(-dilation[0] * (kernel[0] - 1) // stride[0])  # rows of zeros, in steps of the stride
    height = (rows + more) * stride[0]
    after = [height - x.shape[2] - padding[0], reach[1] - x.shape[3] - padding[1]]
    padded = pad_spatial(x, padding, after)
    spread = pad_spatial(grad, [0, 0], [more, 0])
    image = reshape(padded.transpose(0, 1), [1, channels, -1, reach[1]])
    filters = reshape(spread.transpose(0, 1), [channels, 1, -1, size[1]])
    wanted = (filters.shape[2] - 1) * stride[0] + dilation[0] * (kernel[0] - 1) + 1
    behind = wanted - image.shape[2]
    if behind > 0:
        filters = aten.slice.Tensor(filters, 2, 0, filters.shape[2] - more)
    out = aten.convolution.default(
        image, filters, None, list(dilation), [0, 0], list(stride), False, [0, 0], channels
    )
    out = aten.slice.Tensor(aten.slice.Tensor(out, 2, 0, kernel[0]), 3, 0, kernel[1])
    return reshape(out, [channels, 1, *kernel])


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
