"""Gradients of max and average pooling, and adaptive pooling, from slices, pads and constant matrices.

Pooling arrives as ``aten.max_pool2d_with_indices`` / ``aten.avg_pool2d`` over ``[batch, channels, H, W]`` (or
``[channels, H, W]``): torch rewrites the one-dimensional forms. Padding of a max window is minus infinity; a ceil-mode
window may hang over the padded input.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nagedge.graphs.decompositions.resize import resize_axes
from nagedge.graphs.decompositions.tensors import constant, reshape
from nagedge.graphs.decompositions.windows import (
    Windows,
    add_windows,
    pad_spatial,
    per_axis,
    repeat_cells,
    taps,
    window,
    windows_by_slices,
)

aten = torch.ops.aten

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_avg_pool2d_backward",
    "adaptive_max_pool2d",
    "adaptive_max_pool2d_backward",
    "avg_pool2d_backward",
    "avg_pool3d",
    "max_pool2d_with_indices_backward",
]

Ints = Sequence[int]


def _planes(x: Tensor) -> Tensor:
    """``[batch, channels, H, W]`` view of an input that may lack the batch axis."""
    return x if x.dim() == 4 else x.unsqueeze(0)


def _like(x: Tensor, reference: Tensor) -> Tensor:
    return x if reference.dim() == 4 else x.squeeze(0)


def max_pool2d_with_indices_backward(
    grad: Tensor,
    x: Tensor,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    ceil_mode: bool,
    indices: Tensor,
    *,
    windows: Windows = windows_by_slices,
    by_product: bool = False,
) -> Tensor:
    """Give each window's gradient to its first maximum (row by row), as torch does; ``indices`` is not used.

    Args:
        grad, x, kernel_size, stride, padding, dilation, ceil_mode, indices: as aten has them.
        windows: how a backend cuts them.
        by_product: whether gradients are chosen by a product with flags, which is a fifth faster on ONNX Runtime.
    """
    kernel = per_axis(kernel_size, 2)
    strides = per_axis(stride, 2) if stride else kernel
    pads, spread = per_axis(padding, 2), per_axis(dilation, 2)
    largest = _planes(aten.max_pool2d_with_indices.default(x, kernel, strides, pads, spread, ceil_mode)[0])
    planes, rest = _planes(x), _planes(grad)
    size = list(planes.shape[2:])
    reach = [(rest.shape[2 + i] - 1) * strides[i] + spread[i] * (kernel[i] - 1) + 1 for i in range(2)]
    length = [max(reach[i], size[i] + pads[i]) for i in range(2)]
    padded = pad_spatial(planes, pads, [length[i] - size[i] - pads[i] for i in range(2)], float("-inf"))
    parts: dict[tuple[int, ...], Tensor] = {}
    positions = taps(kernel)
    read = windows(padded, kernel, rest.shape[2:], strides, spread)
    for tap, cut in zip(positions[:-1], read, strict=False):
        hit = aten.eq.Tensor(cut, largest)
        won = rest * hit.to(rest.dtype) if by_product else aten.where.self(hit, rest, torch.zeros_like(rest))
        rest = rest - won
        parts[tap] = won
    parts[positions[-1]] = rest
    total = add_windows(parts, length, strides, spread)
    return _like(pad_spatial(total, [-p for p in pads], [size[i] + pads[i] - length[i] for i in range(2)]), x)


def avg_pool3d(
    x: Tensor,
    kernel_size: Ints,
    stride: Ints = (),
    padding: Ints = (0,),
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    """Average over three axes as a sum of shifted slices (local response normalisation needs it)."""
    if ceil_mode or x.dim() != 5:
        return NotImplemented
    kernel = per_axis(kernel_size, 3)
    strides, pads = per_axis(stride, 3) if stride else kernel, per_axis(padding, 3)
    size = [(x.shape[2 + i] + 2 * pads[i] - kernel[i]) // strides[i] + 1 for i in range(3)]
    padded = pad_spatial(x, pads, pads)
    total = sum(window(padded, tap, size, strides, [1, 1, 1]) for tap in taps(kernel))
    if divisor_override is not None or count_include_pad:
        return total * (1.0 / (divisor_override or math.prod(kernel)))
    counts = [
        _window_counts(x.shape[2 + i], size[i], kernel[i], strides[i], pads[i], include=False)
        for i in range(3)
    ]
    return total * constant(
        [[[1.0 / (a * b * c) for c in counts[2]] for b in counts[1]] for a in counts[0]], x
    )


def _window_counts(
    size: int, outputs: int, kernel: int, stride: int, padding: int, include: bool
) -> list[int]:
    """How many cells each output position of one axis averages over."""
    counts = []
    for o in range(outputs):
        start = o * stride - padding
        stop = min(start + kernel, size + padding)
        if not include:
            start, stop = max(start, 0), min(stop, size)
        counts.append(stop - start)
    return counts


def avg_pool2d_backward(
    grad: Tensor,
    x: Tensor,
    kernel_size: Ints,
    stride: Ints,
    padding: Ints,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Tensor:
    """Divide by the size of each window, then spread over its cells, one axis after the other."""
    kernel = per_axis(kernel_size, 2)
    strides = per_axis(stride, 2) if stride else kernel
    pads = per_axis(padding, 2)
    size = list(_planes(x).shape[2:])
    spread = _planes(grad)
    if divisor_override is not None:
        spread = spread * (1.0 / divisor_override)
    else:
        counts = [
            _window_counts(size[i], spread.shape[2 + i], kernel[i], strides[i], pads[i], count_include_pad)
            for i in range(2)
        ]
        if all(len(set(c)) == 1 for c in counts):
            spread = spread * (1.0 / (counts[0][0] * counts[1][0]))
        else:
            scale = [[1.0 / (a * b) for b in counts[1]] for a in counts[0]]
            spread = spread * constant(scale, grad)
    for i in range(2):
        spread = _spread_axis(spread, 2 + i, size[i], kernel[i], strides[i], pads[i])
    return _like(spread, x)


def _spread_axis(x: Tensor, axis: int, size: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Add every output cell to the ``kernel`` input cells of its window, along one axis of ``[n, c, H, W]``."""
    behind = 3 - axis
    outputs = x.shape[axis]
    if kernel == stride:
        out = repeat_cells(x, axis, kernel)
        reach = outputs * kernel
    else:
        reach = (outputs - 1) * stride + kernel
        shape, steps = ([reach, x.shape[3]], [stride, 1]) if behind else ([x.shape[2], reach], [1, stride])
        parts: dict[tuple[int, ...], Tensor] = {((i, 0) if behind else (0, i)): x for i in range(kernel)}
        out = add_windows(parts, shape, steps, [1, 1])
    crop = [-padding, 0] if behind else [0, -padding]
    rest = size + padding - reach
    return pad_spatial(out, crop, [rest, 0] if behind else [0, rest])


def _adaptive_bounds(size: int, outputs: int) -> list[tuple[int, int]]:
    """Start and stop of every adaptive window: floor(o * size / outputs), ceil((o + 1) * size / outputs)."""
    return [(o * size // outputs, -(-(o + 1) * size // outputs)) for o in range(outputs)]


def _adaptive_matrix(size: int, outputs: int) -> list[list[float]]:
    """``[outputs, size]`` averaging matrix of one axis."""
    bounds = _adaptive_bounds(size, outputs)
    return [[1.0 / (b - a) if a <= i < b else 0.0 for i in range(size)] for a, b in bounds]


def adaptive_avg_pool2d(x: Tensor, output_size: Ints) -> Tensor:
    """Plain average pooling where the output size divides the input, else one averaging matrix an axis."""
    outputs = per_axis(output_size, 2)
    size = list(x.shape[-2:])
    if outputs == [1, 1]:
        return x.mean([-2, -1], keepdim=True)
    if all(n % o == 0 for n, o in zip(size, outputs, strict=True)):
        pooled: Tensor = aten.avg_pool2d.default(x, [n // o for n, o in zip(size, outputs, strict=True)])
        return pooled
    matrices = [_adaptive_matrix(n, o) for n, o in zip(size, outputs, strict=True)]
    return resize_axes(x, matrices)


def adaptive_avg_pool2d_backward(grad: Tensor, x: Tensor) -> Tensor:
    """Adjoint of :func:`adaptive_avg_pool2d`."""
    size, outputs = list(x.shape[-2:]), list(grad.shape[-2:])
    if all(n % o == 0 for n, o in zip(size, outputs, strict=True)):
        kernel = [n // o for n, o in zip(size, outputs, strict=True)]
        return avg_pool2d_backward(grad, x, kernel, kernel, [0, 0], False, True, None)
    matrices = [_adaptive_matrix(n, o) for n, o in zip(size, outputs, strict=True)]
    return resize_axes(grad, [[list(row) for row in zip(*m, strict=True)] for m in matrices])


def _adaptive_cells(x: Tensor, outputs: Ints) -> list[tuple[Tensor, tuple[int, int], tuple[int, int]]]:
    """Every adaptive window of ``[.., H, W]`` with its row and column bounds, row by row."""
    rows, columns = (_adaptive_bounds(x.shape[i - 2], outputs[i]) for i in range(2))
    return [
        (aten.slice.Tensor(aten.slice.Tensor(x, -2, r[0], r[1]), -1, c[0], c[1]), r, c)
        for r, c in itertools.product(rows, columns)
    ]


def adaptive_max_pool2d(x: Tensor, output_size: Ints) -> tuple[Tensor, Tensor]:
    """Maximum and flat index (in the plane) of every adaptive window."""
    outputs = per_axis(output_size, 2)
    size = list(x.shape[-2:])
    if all(n % o == 0 for n, o in zip(size, outputs, strict=True)):
        kernel = [n // o for n, o in zip(size, outputs, strict=True)]
        values, indices = aten.max_pool2d_with_indices.default(x, kernel, kernel)
        return values, indices
    cells = _adaptive_cells(x, outputs)
    lead = [-1, *x.shape[1:-2]]
    values = torch.stack([aten.amax.default(cell, [-2, -1]) for cell, _, _ in cells], -1)
    places = []
    for cell, (top, _), (left, right) in cells:
        wide = right - left
        flat = aten.argmax.default(reshape(cell, [*lead, cell.shape[-2] * wide]), -1)
        rows = sum(
            aten.ge.Scalar(flat, edge).to(torch.int64) for edge in range(wide, cell.shape[-2] * wide, wide)
        )
        places.append(flat + rows * (size[1] - wide) + (top * size[1] + left))
    indices = torch.stack(places, -1)
    shape = [*lead, *outputs]
    return reshape(values, shape), reshape(indices, shape)


def adaptive_max_pool2d_backward(grad: Tensor, x: Tensor, indices: Tensor) -> Tensor:
    """Give each window's gradient to its first maximum; ``indices`` is not used."""
    size, outputs = list(x.shape[-2:]), list(grad.shape[-2:])
    if all(n % o == 0 for n, o in zip(size, outputs, strict=True)):
        kernel = [n // o for n, o in zip(size, outputs, strict=True)]
        whole: Tensor = aten.max_pool2d_with_indices_backward.default(
            grad, x, kernel, kernel, [0, 0], [1, 1], False, indices
        )
        return whole
    total = None
    flat_grads = reshape(grad, [-1, *grad.shape[1:-2], outputs[0] * outputs[1]])
    for number, (cell, rows, columns) in enumerate(_adaptive_cells(x, outputs)):
        area = cell.shape[-2] * cell.shape[-1]
        flat = reshape(cell, [-1, *x.shape[1:-2], area])
        first = aten.argmax.default(flat, -1, True)
        chosen = aten.eq.Tensor(first, constant(range(area), first, torch.int64))
        part = aten.slice.Tensor(flat_grads, -1, number, number + 1)
        won = aten.where.self(chosen, part, torch.zeros_like(flat))
        won = reshape(won, [-1, *cell.shape[1:]])
        placed = pad_spatial(won, [rows[0], columns[0]], [size[0] - rows[1], size[1] - columns[1]])
        total = placed if total is None else total + placed
    assert total is not None
    return total
