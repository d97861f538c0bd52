"""Windows laid side by side (im2col), so that a convolution with computed weights is one matrix product.

XNNPACK takes convolutions with constant weights only. The builtin kernel for computed ones is four to six times slower
than XNNPACK's matrix products. LiteRT 2.3 on one thread of x86-64: 16 images of 14x14, 32 to 16 channels, 3x3: 1.35 ms,
as columns and a product 0.75 ms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from nagedge.backends.tflite_lowering.builder import GraphBuilder, Value
from nagedge.backends.tflite_lowering.slicing import slice_axis
from nagedge.backends.tflite_lowering.structure import concatenate

__all__ = ["NARROW", "columns"]

NARROW = 48
"""Values of a window up to which a convolution with a unit matrix for weights gathers them.

8 images of 48x48, 3 channels, 3x3: 0.37 ms, as nine slices beside each other 2.0 ms. Its cost grows with their square.
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
    x = Value(builder.dense(x, NHWC), NHWC, x.sizes)
    parts = []
    for down in range(kernel[0]):
        for across in range(kernel[1]):
            part = x
            for axis, tap in ((3, across), (2, down)):
                i = axis - 2
                start = tap * dilation[i]
                stop = start + (result[i] - 1) * stride[i] + 1
                part = slice_axis(builder, part, axis, start, stop, stride[i])
            parts.append(part)
    return concatenate(builder, parts, 1, (x.sizes[0], wide, result[0], result[1]))
