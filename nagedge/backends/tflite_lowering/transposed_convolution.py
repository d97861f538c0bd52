"""Transposed convolutions, as one plain convolution for every remainder of an output position by the stride.

Their results are interleaved. TRANSPOSE_CONV needs its whole output size as a constant, the batch included, and XNNPACK
takes it with constant weights only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import gcd

import numpy as np

from nagedge.backends.tflite_lowering.builder import GraphBuilder, Value
from nagedge.backends.tflite_lowering.model import Size
from nagedge.backends.tflite_lowering.plain_convolution import (
    DEPTHWISE,
    NHWC,
    OHWI,
    Geometry,
    Pair,
    plain_convolution,
)
from nagedge.backends.tflite_lowering.slicing import slice_axis
from nagedge.backends.tflite_lowering.structure import concatenate
from nagedge.backends.tflite_lowering.views import view

__all__ = ["transposed_convolution"]


@dataclass(frozen=True)
class _Phase:
    """The taps of one axis that reach output positions of one remainder.

    They are ``first, first + step, ..``, ``count`` of them.

    Attributes:
        first, step, count: the taps.
        dilation: of the plain convolution with these taps, in reverse.
        padding: of its input; negative crops.
    """

    first: int
    step: int
    count: int
    dilation: int
    padding: Pair


def transposed_convolution(
    builder: GraphBuilder, x: Value, weight: Value, bias: Value | None, stride: Pair, padding: Pair, dilation: Pair,
    extra: Pair, groups: int,
) -> Value:  # fmt: skip
    """``weight``: ``[C, O / groups, h, w]``."""
    source, kernel = [int(s) for s in x.sizes[2:]], [int(k) for k in weight.sizes[2:]]
    size = [
        (source[i] - 1) * stride[i] - 2 * padding[i] + dilation[i] * (kernel[i] - 1) + 1 + extra[i]
        for i in range(2)
    ]
    filters = _turned(builder, weight, groups)
    outputs = int(filters.sizes[0])
    count = [-(-size[i] // stride[i]) for i in range(2)]
    phases = [
        [
            _phase(r, source[i], kernel[i], stride[i], padding[i], dilation[i], count[i])
            for r in range(stride[i])
        ]
        for i in range(2)
    ]
    batch = x.sizes[0]
    lines = []
    for down in phases[0]:
        cells = []
        for across in phases[1]:
            if down is None or across is None:
                cells.append(_nothing(builder, bias, (batch, outputs, count[0], count[1])))
                continue
            taps = _taps(builder, filters, down, across)
            geometry = Geometry(
                (1, 1), (down.padding, across.padding), (down.dilation, across.dilation), groups
            )
            cells.append(plain_convolution(builder, x, taps, bias, geometry))
        lines.append(_interleave(builder, cells, 3))
    whole = _interleave(builder, lines, 2)
    for axis in (2, 3):
        whole = slice_axis(builder, whole, axis, 0, size[axis - 2])
    return whole


def _phase(
    remainder: int, source: int, kernel: int, stride: int, padding: int, dilation: int, count: int
) -> _Phase | None:
    """Return the taps for outputs ``t = remainder + stride n``, or None when no tap reaches them.

    Output ``t`` reads input ``m - j`` at tap ``k`` where ``stride j = dilation k - a`` and ``a``, ``m`` are remainder
    and quotient of ``t + padding`` by the stride.
    """
    a = (remainder + padding) % stride
    shift = (remainder + padding - a) // stride  # m = n + shift
    common = gcd(stride, dilation)
    if a % common:
        return None
    taps = [k for k in range(kernel) if (dilation * k - a) % stride == 0]
    if not taps:
        return None
    first, step, apart = taps[0], stride // common, dilation // common
    nearest = (dilation * first - a) // stride  # j of the first tap, may be negative
    farthest = nearest + apart * (len(taps) - 1)
    before = farthest - shift
    behind = count + apart * (len(taps) - 1) - source - before
    return _Phase(first, step, len(taps), apart, (before, behind))


def _turned(builder: GraphBuilder, weight: Value, groups: int) -> Value:
    """``[C, O / groups, h, w]`` as the weights ``[O, C / groups, h, w]`` of a plain convolution, not yet reversed."""
    channels, outputs = int(weight.sizes[0]), int(weight.sizes[1])
    kernel = weight.sizes[2:]
    if groups > 1:
        weight = view(builder, weight, [groups, channels // groups, outputs, *kernel])
        moved: tuple[int, ...] = (0, 2, 1, 3, 4)
    else:
        moved = (1, 0, 2, 3)
    back = {old: new for new, old in enumerate(moved)}
    swapped = Value(
        weight.tensor, tuple(back[a] for a in weight.order), tuple(weight.sizes[old] for old in moved)
    )
    return view(builder, swapped, [groups * outputs, channels // groups, *kernel])


def _taps(builder: GraphBuilder, filters: Value, down: _Phase, across: _Phase) -> Value:
    """Choose the taps of two axes, in reverse."""
    if filters.sizes[2:] == (1, 1):
        return filters
    sizes = (*filters.sizes[:2], down.count, across.count)
    order = DEPTHWISE if filters.sizes[1] == 1 else OHWI
    tensor = builder.dense(filters, order)
    stored = [sizes[axis] for axis in order]
    own = builder.tensors[tensor]
    if down.count == own.sizes[1] == 1 and across.count == own.sizes[2] == 1:
        return Value(tensor, order, sizes)
    last = [phase.first + phase.step * (phase.count - 1) for phase in (down, across)]
    if own.data is not None:
        rows = own.data[:, last[0] :: -down.step][:, : down.count]
        return Value(
            builder.constant(rows[:, :, last[1] :: -across.step][:, :, : across.count]), order, sizes
        )
    begin = builder.ints([0, last[0], last[1], 0])
    end = builder.ints([0, 0, 0, 0])
    steps = builder.ints([1, -down.step, -across.step, 1])
    made = builder.add("STRIDED_SLICE", [tensor, begin, end, steps], stored, beginMask=0b1001, endMask=0b1111)
    return Value(made, order, sizes)


def _nothing(builder: GraphBuilder, bias: Value | None, sizes: tuple[Size, ...]) -> Value:
    """Outputs that no tap reaches: the bias alone."""
    if bias is None:
        zero = builder.constant(np.zeros((1, 1, 1, 1), np.float32))
        return Value(zero, NHWC, sizes)
    return Value(builder.reshape(builder.dense(bias), [1, 1, 1, sizes[1]]), NHWC, sizes)


def _interleave(builder: GraphBuilder, parts: Sequence[Value], axis: int) -> Value:
    """``out[.., q * len(parts) + r, ..] = parts[r][.., q, ..]`` along axis 2 or 3."""
    if len(parts) == 1:
        return parts[0]
    sizes = parts[0].sizes
    fine = [
        view(builder, _stored_nhwc(builder, part), [*sizes[: axis + 1], 1, *sizes[axis + 1 :]])
        for part in parts
    ]
    joined = concatenate(builder, fine, axis + 1, [*sizes[: axis + 1], len(parts), *sizes[axis + 1 :]])
    return view(builder, joined, [*sizes[:axis], sizes[axis] * len(parts), *sizes[axis + 1 :]])


def _stored_nhwc(builder: GraphBuilder, value: Value) -> Value:
    return Value(builder.dense(value, NHWC), NHWC, value.sizes)
