"""Plain convolutions: ``[batch, height, width, channels]`` with weights ``[outputs, height, width, inputs]``.

Weights may be constants or computed. Padding is TensorFlow's SAME where that is exactly what is asked for, else
explicit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nagedge.backends.tflite_lowering.builder import GraphBuilder, Value
from nagedge.backends.tflite_lowering.columns import FEW_CHANNELS, NARROW, columns, sum_of_taps
from nagedge.backends.tflite_lowering.model import Size
from nagedge.backends.tflite_lowering.products import by_rows, read_as_stored
from nagedge.backends.tflite_lowering.slicing import pad, slice_axis
from nagedge.backends.tflite_lowering.structure import concatenate

__all__ = ["DEPTHWISE", "NHWC", "OHWI", "Geometry", "Pair", "plain_convolution", "window_padding"]

Pair = tuple[int, int]

NHWC = (0, 2, 3, 1)
OHWI = (0, 2, 3, 1)
DEPTHWISE = (1, 2, 3, 0)
"""Stored orders of activations, of weights, and of the weights ``[1, height, width, channels]`` of depthwise ones."""


@dataclass(frozen=True)
class Geometry:
    """Of a plain convolution over two axes: padding is ``(before, behind)`` an axis and may be negative (a crop)."""

    stride: Pair
    padding: tuple[Pair, Pair]
    dilation: Pair
    groups: int


def window_padding(
    source: Sequence[int],
    result: Sequence[int],
    reach: Sequence[int],
    stride: Sequence[int],
    before: Sequence[int],
) -> tuple[str, list[Pair]]:
    """Return TensorFlow's padding scheme, and what must be padded beforehand, a pair an axis.

    Args:
        source, result: sizes of input and output.
        reach: of one window, dilation included.
        stride, before: of the windows; padding before the first cell.
    """
    behind = [
        (n - 1) * s + r - size - b
        for size, n, r, s, b in zip(source, result, reach, stride, before, strict=True)
    ]
    if all(b == 0 for b in before) and all(e <= 0 for e in behind):
        return "VALID", [(0, 0)] * len(source)
    same = True
    for size, n, r, s, b in zip(source, result, reach, stride, before, strict=True):
        needed = max((n - 1) * s + r - size, 0)
        same = same and n == -(-size // s) and b == needed // 2
    if same:
        return "SAME", [(0, 0)] * len(source)
    return "VALID", [(b, max(e, 0)) for b, e in zip(before, behind, strict=True)]


def plain_convolution(
    builder: GraphBuilder, x: Value, weight: Value, bias: Value | None, geometry: Geometry
) -> Value:
    """``x``: ``[batch, C, H, W]``; ``weight``: ``[O, C / groups, h, w]``; both in any stored order."""
    groups, channels, outputs = geometry.groups, int(x.sizes[1]), int(weight.sizes[0])
    kernel = [int(k) for k in weight.sizes[2:]]
    source = [int(s) for s in x.sizes[2:]]
    reach = [d * (k - 1) + 1 for d, k in zip(geometry.dilation, kernel, strict=True)]
    result = [
        (size + before + behind - r) // s + 1
        for size, (before, behind), r, s in zip(source, geometry.padding, reach, geometry.stride, strict=True)
    ]
    scheme, pads = window_padding(source, result, reach, geometry.stride, [p[0] for p in geometry.padding])
    if any(cells < 0 for pair in geometry.padding for cells in pair):
        scheme, pads = "VALID", _cropping(source, result, reach, geometry)
    if any(p != (0, 0) for p in pads):
        key = ("PADDED", x.tensor, *pads)
        padded = pad(builder, x, [(0, 0), (0, 0), *pads])
        x = replace(padded, tensor=builder.made.setdefault(key, padded.tensor))
    sizes: tuple[Size, ...] = (x.sizes[0], outputs, result[0], result[1])
    rows = builder.dense(x, NHWC)
    stored = [sizes[axis] for axis in NHWC]
    options: dict[str, Any] = {
        "padding": scheme, "strideH": geometry.stride[0], "strideW": geometry.stride[1],
        "dilationHFactor": geometry.dilation[0], "dilationWFactor": geometry.dilation[1],
    }  # fmt: skip
    # the builtin kernel asks for a bias
    given = [builder.constant(np.zeros(outputs, np.float32)) if bias is None else builder.dense(bias)]
    if groups == channels and groups > 1:
        inputs = [rows, builder.dense(weight, DEPTHWISE), *given]
        made = builder.add(
            "DEPTHWISE_CONV_2D", inputs, stored, depthMultiplier=outputs // channels, **options
        )
        return Value(made, NHWC, sizes)
    constant = builder.is_constant(weight)
    if groups > 1 and not constant:
        left = geometry.padding if scheme == "SAME" else ((0, 0), (0, 0))
        return _by_group(builder, x, weight, bias, replace(geometry, padding=left))
    plain = kernel == [1, 1] and geometry.stride == (1, 1) and groups == 1
    if constant and plain and read_as_stored(builder, weight):
        matrix = builder.reshape(weight.tensor, [channels, outputs])
        made = by_rows(builder, rows, matrix, None if bias is None else given[0], turned=False)
        return Value(made, NHWC, sizes)
    if constant:
        inputs = [rows, builder.dense(weight, OHWI), *given]
        return Value(_convolved(builder, inputs, stored, options), NHWC, sizes)
    own = None if bias is None else given[0]
    if not plain:
        left = geometry.padding if scheme == "SAME" else ((0, 0), (0, 0))
        geometry = replace(geometry, padding=left)
        if channels >= FEW_CHANNELS:
            x = pad(builder, x, [(0, 0), (0, 0), *left])
            made = sum_of_taps(builder, x, weight, own, result, geometry.stride, geometry.dilation)
            return Value(made, NHWC, sizes)
        rows = _columns(builder, x, kernel, geometry, result)
    matrix = builder.reshape(builder.dense(weight, OHWI), [outputs, math.prod(kernel) * channels])
    return Value(by_rows(builder, rows, matrix, own), NHWC, sizes)


def _convolved(
    builder: GraphBuilder, inputs: Sequence[int], stored: Sequence[Size], options: dict[str, Any]
) -> int:
    """CONV_2D; one of equal inputs, as both a convolution and its gradient gather windows, is computed once."""
    key = ("CONV_2D", *inputs, *sorted(options.items()))
    if key not in builder.made:
        builder.made[key] = builder.add("CONV_2D", inputs, stored, **options)
    return builder.made[key]


def _columns(
    builder: GraphBuilder, x: Value, kernel: Sequence[int], geometry: Geometry, result: Sequence[int]
) -> int:
    """Return the windows of ``x`` as rows ``[.., taps * C]``."""

    def gathered(unit: Value) -> Value:
        return plain_convolution(builder, x, unit, None, geometry)

    padded = x
    if math.prod(kernel) * int(x.sizes[1]) > NARROW:
        padded = pad(builder, x, [(0, 0), (0, 0), *geometry.padding])
    found = columns(builder, padded, kernel, result, geometry.stride, geometry.dilation, gathered)
    return builder.dense(found, NHWC)


def _cropping(
    source: Sequence[int], result: Sequence[int], reach: Sequence[int], geometry: Geometry
) -> list[Pair]:
    """Return padding or cropping after which the windows fit exactly."""
    found = []
    for size, n, r, s, (before, _) in zip(
        source, result, reach, geometry.stride, geometry.padding, strict=True
    ):
        found.append((before, (n - 1) * s + r - size - before))
    return found


def _by_group(
    builder: GraphBuilder, x: Value, weight: Value, bias: Value | None, geometry: Geometry
) -> Value:
    """One convolution a group: runtimes group constant weights only."""
    groups = geometry.groups
    inputs, outputs = int(x.sizes[1]) // groups, int(weight.sizes[0]) // groups
    one = Geometry(geometry.stride, geometry.padding, geometry.dilation, 1)
    parts = []
    for g in range(groups):
        part = slice_axis(builder, x, 1, g * inputs, (g + 1) * inputs)
        own = slice_axis(builder, weight, 0, g * outputs, (g + 1) * outputs)
        given = None if bias is None else slice_axis(builder, bias, 0, g * outputs, (g + 1) * outputs)
        parts.append(plain_convolution(builder, part, own, given, one))
    return concatenate(builder, parts, 1, (parts[0].sizes[0], groups * outputs, *parts[0].sizes[2:]))
