"""Convolutions for ONNX Runtime, whose kernels are fast for constant weights and slow for computed ones.

Every form is chosen by static shapes. Measured with ONNX Runtime 1.31 on one thread, batch 8 unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nagedge.graphs.decompositions import pointwise_rows
from nagedge.graphs.decompositions.bands import (
    Depthwise,
    banded_convolution,
    banded_input_gradient,
    banded_weight_gradient,
)
from nagedge.graphs.decompositions.convolution import (
    flip_by_axis,
    input_gradient_by_convolution,
    input_gradient_by_transposed_convolution,
    weight_gradient,
)
from nagedge.graphs.decompositions.convolution_phases import (
    Shifts,
    convolution_by_phases,
    input_gradient_by_phases,
    weight_gradient_by_phases,
)
from nagedge.graphs.decompositions.phase_convolutions import has_phases, input_gradient_by_phase_convolutions
from nagedge.graphs.decompositions.phases import windows_by_phases
from nagedge.graphs.decompositions.tensors import is_static, reshape
from nagedge.graphs.decompositions.windows import interleave, pad_spatial, per_axis, taps, window

aten = torch.ops.aten

__all__ = ["convolution", "convolution_backward"]

Ints = Sequence[int]

SMALL_MAP = 130
"""Up to this many output cells a depthwise convolution is a matrix product over channels, see :mod:`.bands`.

5x5, 144 channels, 6x6: 0.24 ms, 0.75 ms as a convolution; 3x3, batch 16, 64 channels, 25x5: 0.5 and 0.77 ms; but 3x3,
56 channels, 12x12: 0.32 and 0.27 ms.
"""

WIDEST = 64
"""Columns up to which the gradient of depthwise weights is a product of bands: its cost grows with their square."""

LARGE_MAP = 100
"""From this many cells on, a depthwise convolution of the gradient beats a transposed one."""

FEW_CELLS = 64
"""Up to this many cells the gradient of 1x1 weights is one product over the whole batch.

288 to 72 channels, 3x3: 0.07 ms, and 0.12 ms as one product an example with a sum over them; 384 to 72 channels, 6x6:
0.20 and 0.26 ms; 192 to 72 channels, 12x12: 0.38 and 0.34 ms.
"""

FEW_CHANNELS = 24
"""With fewer channels on one side that sum is short, and the product an example is best.

384 to 16 channels, 6x6: 0.09 ms whole, 0.08 ms by example; 512 to 4 channels, 3x3, as in LoRA's branches: 0.059 and
0.021 ms.
"""

FEWEST_CHANNELS = 8
"""Up to this many channels they are the rows of that product: 192 to 4 channels, 12x12: 0.07 ms; as columns 0.09 ms."""


def convolution(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    transposed: bool,
    output_padding: Ints,
    groups: int,
    *,
    constant_weights: bool = False,
) -> Any:
    """The rule of ``aten.convolution``; ``NotImplemented`` where ``Conv`` is best."""
    axes = x.dim() - 2
    stride, padding, dilation = (per_axis(v, axes) for v in (stride, padding, dilation))
    if transposed:
        return NotImplemented
    out = _out(x.shape[2:], w.shape[2:], stride, padding, dilation)
    c = _depthwise(x.shape[2:], out, w, stride, padding, dilation, groups)
    if c is not None and _is_small(c) and not constant_weights:
        y = banded_convolution(x, w, c)
        return y if bias is None else y + reshape(bias, [-1, *[1] * axes])
    if groups == 1 and _is_one_cell(x.shape[2:], w.shape[2:], padding):
        left, right = reshape(x, [-1, x.shape[1]]), reshape(w, [w.shape[0], w.shape[1]]).transpose(0, 1)
        y = torch.mm(left, right) if bias is None else torch.addmm(bias, left, right)
        return reshape(y, [-1, w.shape[0], *[1] * axes])
    if not constant_weights and pointwise_rows.is_branch(x, w, stride, padding, groups):
        return pointwise_rows.convolution(x, w, bias)
    shifts = _shifts_of_few_outputs(x.shape[2:], w, out, stride, padding, dilation, groups)
    if shifts is not None and not constant_weights:
        y = convolution_by_phases(x, w, shifts)
        return y if bias is None else y + reshape(bias, [-1, 1, 1])
    return NotImplemented


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
    *,
    beside_branches: bool = False,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """The rule of ``aten.convolution_backward``; ``beside_branches`` in steps that keep images in rows."""
    axes = x.dim() - 2
    stride, padding, dilation = (per_axis(v, axes) for v in (stride, padding, dilation))
    geometry = (stride, padding, dilation, groups)
    grad_x = grad_w = grad_b = None
    if output_mask[0]:
        if transposed:
            grad_x = aten.convolution.default(
                grad, w, None, stride, padding, dilation, False, [0] * axes, groups
            )
            extra = [x.shape[2 + i] - grad_x.shape[2 + i] for i in range(axes)]
            grad_x = pad_spatial(grad_x, [0] * axes, extra)
        elif output_mask[1]:
            grad_x = _input_gradient(grad, x.shape[2:], w, *geometry)
        else:
            grad_x = _input_gradient_of_frozen(grad, x.shape[2:], w, *geometry, beside_branches)
    if output_mask[1]:
        big, small = (grad, x) if transposed else (x, grad)
        grad_w = _weight_gradient(big, small, w, *geometry)
    if output_mask[2]:
        grad_b = grad.sum([0, *range(2, grad.dim())])
    return grad_x, grad_w, grad_b


def _input_gradient(
    grad: Tensor, spatial: Ints, w: Tensor, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Tensor:
    """The gradient of the input where the weights are trained.

    Otherwise a transposed convolution, except where it was measured slower: 3x3, 64 channels, 28x28, stride 2: 0.6 ms
    transposed, 6.7 ms spread out by zeros; 3x3, 32 channels, 28x28, stride 1: 1.1 and 1.5 ms; but 1x1, 256 to 128
    channels, 7x7: 0.33 and 0.22 ms, and depthwise 5x5, 96 channels, 24x24, stride 1: 3.3 and 2.7 ms.
    """
    c = _depthwise(spatial, grad.shape[2:], w, stride, padding, dilation, groups)
    if c is not None and _is_small(c):
        return banded_input_gradient(grad, w, c)
    kernel = w.shape[2:]
    if groups == 1 and _is_one_cell(spatial, kernel, padding):
        product = torch.mm(reshape(grad, [-1, w.shape[0]]), reshape(w, [w.shape[0], w.shape[1]]))
        return reshape(product, [-1, w.shape[1], *spatial])
    if pointwise_rows.is_branch(grad, w, stride, padding, groups):
        return pointwise_rows.input_gradient(grad, w)
    shifts = _shifts_of_few_outputs(spatial, w, grad.shape[2:], stride, padding, dilation, groups)
    if shifts is not None:
        return input_gradient_by_phases(grad, spatial, w, shifts)
    plain = all(s == 1 for s in stride)
    if plain and (all(k == 1 for k in kernel) or (c is not None and math.prod(spatial) >= LARGE_MAP)):
        return input_gradient_by_convolution(
            grad, spatial, w, stride, padding, dilation, groups, flip=flip_by_axis
        )
    return input_gradient_by_transposed_convolution(grad, spatial, w, stride, padding, dilation, groups)


def _input_gradient_of_frozen(
    grad: Tensor,
    spatial: Ints,
    w: Tensor,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
    beside_branches: bool,
) -> Tensor:
    """The gradient of the input where the weights are constants: a convolution, whose turned weights are too."""
    if groups == 1 and _is_one_cell(spatial, w.shape[2:], padding):
        return _input_gradient(grad, spatial, w, stride, padding, dilation, groups)
    c = _depthwise(spatial, grad.shape[2:], w, stride, padding, dilation, groups)
    is_small = c is not None and _is_small(c) and max(stride) > 1
    by_phases = beside_branches and has_phases(spatial, w, stride, dilation)
    if by_phases and (not is_small or math.prod(spatial) >= LARGE_MAP):
        return input_gradient_by_phase_convolutions(grad, spatial, w, stride, padding, groups)
    if is_small:
        return _input_gradient(grad, spatial, w, stride, padding, dilation, groups)
    if all(s == 1 for s in stride):
        return input_gradient_by_convolution(
            grad, spatial, w, stride, padding, dilation, groups, flip=flip_by_axis
        )
    return input_gradient_by_transposed_convolution(grad, spatial, w, stride, padding, dilation, groups)


def _weight_gradient(
    x: Tensor, grad: Tensor, w: Tensor, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Tensor:
    kernel = w.shape[2:]
    if x.shape[1] == w.shape[0]:
        c = _depthwise(x.shape[2:], grad.shape[2:], w, stride, padding, dilation, groups)
        if c is not None and c.kernel != (1, 1) and max(c.size[1], c.out[1]) <= WIDEST:
            return banded_weight_gradient(x, grad, c)
    shifts = _shifts_of_few_outputs(x.shape[2:], w, grad.shape[2:], stride, padding, dilation, groups)
    if shifts is not None:
        return weight_gradient_by_phases(x, grad, shifts)
    if pointwise_rows.is_branch(x, w, stride, padding, groups):
        return pointwise_rows.weight_gradient(x, grad, w)
    if _has_few_outputs(w, stride, groups) and all(is_static(n) for n in x.shape[2:]):
        return _weight_gradient_by_gradient_windows(x, grad, w, stride, padding, dilation)
    plain = all(v == 1 for v in (*stride, *kernel)) and not any(padding)
    if plain and groups == 1:
        return reshape(_pointwise_weight_gradient(x, grad), list(w.shape))
    return weight_gradient(x, grad, kernel, stride, padding, dilation, groups, windows_by_phases)


def _pointwise_weight_gradient(x: Tensor, grad: Tensor) -> Tensor:
    """``[O, C]`` of a 1x1 convolution."""
    channels, outputs, cells = x.shape[1], grad.shape[1], math.prod(grad.shape[2:])
    if cells == 1 or (cells <= FEW_CELLS and min(channels, outputs) >= FEW_CHANNELS):
        return torch.mm(_channels_first(grad), _channels_first(x).transpose(0, 1))
    columns, rows = reshape(x, [-1, channels, cells]), reshape(grad, [-1, outputs, cells])
    if channels <= FEWEST_CHANNELS and channels < outputs:
        return torch.bmm(columns, rows.transpose(1, 2)).sum(0).transpose(0, 1)
    return torch.bmm(rows, columns.transpose(1, 2)).sum(0)


def _weight_gradient_by_gradient_windows(
    x: Tensor, grad: Tensor, w: Tensor, stride: Ints, padding: Ints, dilation: Ints
) -> Tensor:
    """Slide the gradient, spread out by the stride, over the input: with few outputs its windows are small.

    So it is in LoRA's branches: 32 to 4 channels, 3x3, stride 2, 48x48: 1.5 ms, 5 ms by windows of the input.
    """
    axes, kernel, spatial, outputs = x.dim() - 2, w.shape[2:], x.shape[2:], w.shape[0]
    for i in range(axes):
        if stride[i] > 1:
            grad = interleave([grad] + [torch.zeros_like(grad)] * (stride[i] - 1), 2 + i)
    before = [dilation[i] * (kernel[i] - 1) - padding[i] for i in range(axes)]
    after = [spatial[i] + dilation[i] * (kernel[i] - 1) - grad.shape[2 + i] - before[i] for i in range(axes)]
    padded, cells = pad_spatial(grad, before, after), math.prod(spatial)
    windows = [
        reshape(window(padded, [k - 1 - i for k, i in zip(kernel, tap, strict=True)], spatial, [1] * axes, dilation),
                [-1, outputs, cells])
        for tap in taps(kernel)
    ]  # fmt: skip
    right = reshape(x, [-1, x.shape[1], cells]).transpose(1, 2)
    total = torch.bmm(torch.cat(windows, 1), right).sum(0)
    by_output = reshape(total, [len(windows), outputs, x.shape[1]]).permute(1, 2, 0)
    return reshape(by_output, list(w.shape))


def _has_few_outputs(w: Tensor, stride: Ints, groups: int) -> bool:
    """Whether what is as large as the output is small beside the input, as in LoRA's branches; not of a 1x1 kernel."""
    few = groups == 1 and 2 * w.shape[0] * math.prod(stride) <= w.shape[1]
    return few and math.prod(w.shape[2:]) > 1


def _shifts_of_few_outputs(
    spatial: Ints, w: Tensor, out: Ints, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Shifts | None:
    """Return how a strided convolution with few outputs reads its input's phases; None for another one."""
    if not _has_few_outputs(w, stride, groups):
        return None
    return Shifts.of(spatial, w, out, stride, padding, dilation)


def _channels_first(x: Tensor) -> Tensor:
    """``[C, batch * cells]``."""
    channels, cells = x.shape[1], math.prod(x.shape[2:])
    if cells == 1:
        return reshape(x, [-1, channels]).transpose(0, 1)
    return reshape(reshape(x, [-1, channels, cells]).transpose(0, 1), [channels, -1])


def _out(size: Ints, kernel: Ints, stride: Ints, padding: Ints, dilation: Ints) -> list[int]:
    return [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(size, kernel, stride, padding, dilation, strict=True)
    ]


def _depthwise(
    size: Ints, out: Ints, w: Tensor, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Depthwise | None:
    """Return the geometry of a depthwise convolution over one or two axes, or None for another one."""
    static = all(isinstance(n, int) for n in (*size, *out))
    if len(size) > 2 or not static or not (w.shape[0] == groups and w.shape[1] == 1) or groups == 1:
        return None
    return Depthwise.of(size, out, w.shape[2:], stride, padding, dilation)


def _is_small(c: Depthwise) -> bool:
    return c.kernel != (1, 1) and math.prod(c.out) <= SMALL_MAP and max(c.size[1], c.out[1]) <= WIDEST


def _is_one_cell(size: Ints, kernel: Ints, padding: Ints) -> bool:
    return all(n == 1 for n in (*size, *kernel)) and not any(padding)
