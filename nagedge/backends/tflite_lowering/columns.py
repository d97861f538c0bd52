"""Convolutions with computed weights as matrix products.

XNNPACK takes convolutions with constant weights only; the builtin kernel for computed ones is two to nine times slower
than XNNPACK's matrix products. Measured with LiteRT 2.3 on one thread of x86-64: 16 images of 14x14, 32 to 16 channels,
3x3: CONV_2D 1.08 ms, a product a tap and their sum 0.55 ms, windows side by side (im2col) and one product 0.72 ms; 8 images
of 12x12, 64 to 64 channels: 6.6, 0.73 and 0.84 ms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from nagedge.backends.tflite_lowering.builder import FLOAT, GraphBuilder, Value
from nagedge.backends.tflite_lowering.model import Size
from nagedge.backends.tflite_lowering.products import by_rows
from nagedge.backends.tflite_lowering.slicing import slice_axis
from nagedge.backends.tflite_lowering.structure import concatenate

__all__ = ["FEW_CHANNELS", "NARROW", "columns", "sum_of_taps"]

NARROW = 48
"""Values of a window up to which a convolution with a unit matrix for weights gathers them.

8 images of 48x48, 3 channels, 3x3: 0.37 ms, as nine slices beside each other 2.0 ms. Its cost grows with their square.
"""

FEW_CHANNELS = 16
"""With fewer input channels a product a tap is too small to be worth its overhead."""

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
    outputs, channels, *kernel = (int(n) for n in weight.sizes)
    by_tap = builder.reshape(builder.dense(weight, (2, 3, 0, 1)), [math.prod(kernel), outputs, channels])
    total: int | None = None
    for tap, window in enumerate(_windows(builder, x, kernel, result, stride, dilation)):
        cut = [by_tap, builder.ints([tap, 0, 0]), builder.ints([1, outputs, channels])]
        matrix = builder.reshape(builder.add("SLICE", cut, [1, outputs, channels], FLOAT), [outputs, channels])
        made = by_rows(builder, builder.dense(window, NHWC), matrix, bias if total is None else None)
        sizes: tuple[Size, ...] = builder.tensors[made].sizes
        total = made if total is None else builder.add("ADD", [total, made], sizes, FLOAT)
    assert total is not None  # a kernel has a tap
    return total


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
