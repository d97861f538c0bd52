"""Convolutions with computed weights as matrix products.

XNNPACK takes convolutions with constant weights only; the builtin kernel for computed ones is two to nine times
slower than XNNPACK's matrix products. Measured with LiteRT 2.3 on one thread of x86-64: 16 images of 14x14, 32 to 16
channels, 3x3: CONV_2D 1.08 ms, a product a tap and their sum 0.55 ms, windows side by side (im2col) and one product
0.72 ms; 8 images of 12x12, 64 to 64 channels: 6.6, 0.73 and 0.84 ms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nagedge.backends.tflite_lowering.builder import FLOAT, GraphBuilder, Value
from nagedge.backends.tflite_lowering.model import Size
from nagedge.backends.tflite_lowering.products import by_rows
from nagedge.backends.tflite_lowering.slicing import pad, slice_axis
from nagedge.backends.tflite_lowering.structure import concatenate
from nagedge.backends.tflite_lowering.views import view

__all__ = ["FEW_CHANNELS", "NARROW", "columns", "sum_of_taps"]

NARROW = 48
"""Values of a window up to which a convolution with a unit matrix for weights gathers them.

8 images of 48x48, 3 channels, 3x3: 0.37 ms, as nine slices beside each other 2.0 ms. Its cost grows with their square.
"""

FEW_CHANNELS = 16
"""With fewer input channels a product a tap is too small to be worth its overhead."""

FIRST = 0.8
"""Share of the work from which on one product of all taps and every cell comes first, its windows are added up.

16 images of 14x14, 32 to 16 channels, 3x3: 0.3 ms, a product a tap 0.55 ms. 16 of the 32 columns that XNNPACK computes
at a time would be empty.
"""

NHWC = (0, 2, 3, 1)

Gather = Callable[[Value], Value]


def columns(
    builder: GraphBuilder,
    x: Value,
    kernel: Sequence[int],
    result: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    gathered_by: Gather,
) -> Value:
    """Return ``[batch, taps * C, *result]``, channels of a tap side by side, stored with channels last.

    Args:
        builder: of the subgraph.
        x: ``[batch, C, H, W]``, padded.
        kernel, result, stride, dilation: of the convolution, two each.
        gathered_by: convolves ``x`` with constant weights ``[taps * C, C, *kernel]``.
    """
    channels, wide = int(x.sizes[1]), math.prod(kernel) * int(x.sizes[1])
    if wide <= NARROW:
        unit = np.eye(wide, dtype=np.float32).reshape(wide, *kernel, channels).transpose(0, 3, 1, 2)
        return gathered_by(builder.plain(builder.constant(unit)))
    parts = list(_windows(builder, x, kernel, result, stride, dilation))
    return concatenate(builder, parts, 1, (x.sizes[0], wide, result[0], result[1]))


def sum_of_taps(
    builder: GraphBuilder,
    x: Value,
    weight: Value,
    bias: int | None,
    result: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> int:
    """Return the convolution, stored with channels last: a product of rows a tap, and their sum.

    Args:
        builder: of the subgraph.
        x: ``[batch, C, H, W]``, padded.
        weight: ``[O, C, h, w]``.
        bias: stored ``[O]``.
        result, stride, dilation: of the convolution, two each.
    """
    if (blocks := _blocks(builder, x, weight, result, stride, dilation)) is not None:
        x, weight = blocks
        stride = (1, 1)
    outputs, channels, *kernel = (int(n) for n in weight.sizes)
    count = math.prod(kernel)
    together = builder.reshape(builder.dense(weight, (2, 3, 0, 1)), [count * outputs, channels])
    cells = int(x.sizes[2]) * int(x.sizes[3])
    if blocks is not None or cells * _strips(count * outputs) < FIRST * math.prod(result) * count * _strips(
        outputs
    ):
        parts = _shares(builder, x, together, outputs, kernel, result, stride, dilation)
    else:
        parts = _products(builder, x, together, outputs, kernel, result, stride, dilation)
    total = next(parts)
    sizes: tuple[Size, ...] = builder.tensors[total].sizes
    for part in parts:
        total = builder.add("ADD", [total, part], sizes, FLOAT)
    return total if bias is None else builder.add("ADD", [total, bias], sizes, FLOAT)


def _blocks(
    builder: GraphBuilder, x: Value, weight: Value, result: Sequence[int], stride: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Value, Value] | None:  # fmt: skip
    """Return input and weight of the same convolution over blocks of a stride's cells, whose stride is 1.

    Its taps are fewer and have more channels, some of them with weights of zero. None where that is more work than a
    product a tap, or the stride is 1 or not the same along both axes.
    """
    outputs, channels, *kernel = (int(n) for n in weight.sizes)
    step = stride[0]
    if step == 1 or stride[1] != step or tuple(dilation) != (1, 1):
        return None
    taps = [-(-k // step) for k in kernel]
    cells = [n + k - 1 for n, k in zip(result, taps, strict=True)]
    work = math.prod(cells) * _strips(math.prod(taps) * outputs) * step * step
    if work >= math.prod(result) * math.prod(kernel) * _strips(outputs):
        return None
    more = [(0, n * step - int(size)) for n, size in zip(cells, x.sizes[2:], strict=True)]
    padded = builder.dense(pad(builder, x, [(0, 0), (0, 0), *more]), NHWC)
    wide = step * step * channels
    made = builder.add("SPACE_TO_DEPTH", [padded], [x.sizes[0], *cells, wide], FLOAT, blockSize=step)
    spread = pad(
        builder, weight, [(0, 0), (0, 0), *((0, t * step - k) for t, k in zip(taps, kernel, strict=True))]
    )
    split = view(builder, spread, [outputs, channels, taps[0], step, taps[1], step])
    moved = builder.dense(split, (0, 3, 5, 1, 2, 4))
    return Value(made, NHWC, (x.sizes[0], wide, *cells)), builder.plain(
        builder.reshape(moved, [outputs, wide, *taps])
    )


def _strips(columns: int) -> int:
    """Return the strips of 32 columns in which XNNPACK computes a product."""
    return -(-columns // 32)


def _products(
    builder: GraphBuilder, x: Value, together: int, outputs: int, kernel: Sequence[int], result: Sequence[int],
    stride: Sequence[int], dilation: Sequence[int],
) -> Iterator[int]:  # fmt: skip
    """Yield the product of each tap's weights and what it reads."""
    for tap, window in enumerate(_windows(builder, x, kernel, result, stride, dilation)):
        size = [outputs, int(x.sizes[1])]
        matrix = builder.add(
            "SLICE", [together, builder.ints([tap * outputs, 0]), builder.ints(size)], size, FLOAT
        )
        yield by_rows(builder, builder.dense(window, NHWC), matrix)


def _shares(
    builder: GraphBuilder, x: Value, together: int, outputs: int, kernel: Sequence[int], result: Sequence[int],
    stride: Sequence[int], dilation: Sequence[int],
) -> Iterator[int]:  # fmt: skip
    """Yield what each tap adds: windows of one product of all taps' weights and every cell."""
    made = by_rows(builder, builder.dense(x, NHWC), together)
    products = Value(made, NHWC, (x.sizes[0], math.prod(kernel) * outputs, *x.sizes[2:]))
    for tap, window in enumerate(_windows(builder, products, kernel, result, stride, dilation)):
        yield builder.dense(slice_axis(builder, window, 1, tap * outputs, (tap + 1) * outputs), NHWC)


def _windows(
    builder: GraphBuilder, x: Value, kernel: Sequence[int], result: Sequence[int], stride: Sequence[int],
    dilation: Sequence[int],
) -> Iterator[Value]:  # fmt: skip
    """Yield what each tap reads: ``[batch, C, *result]``, last axis of the kernel fastest."""
    x = Value(builder.dense(x, NHWC), NHWC, x.sizes)
    for down in range(kernel[0]):
        for across in range(kernel[1]):
            part = x
            for axis, tap in ((3, across), (2, down)):
                i = axis - 2
                start = tap * dilation[i]
                stop = start + (result[i] - 1) * stride[i] + 1
                part = slice_axis(builder, part, axis, start, stop, stride[i])
            yield part
