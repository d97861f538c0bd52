"""Convolutions: ``[batch, height, width, channels]`` with weights ``[outputs, height, width, inputs]``.

One spatial axis becomes two. A transposed convolution becomes one plain convolution for every remainder of an output
position by the stride, their results interleaved: TRANSPOSE_CONV needs its whole output size as a constant, the batch
included. Weights may be constants or computed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import gcd
from typing import Any

import numpy as np
from torch import fx

from nagedge.backends.tflite_lowering.builder import FLOAT, GraphBuilder, Value
from nagedge.backends.tflite_lowering.model import Size
from nagedge.backends.tflite_lowering.products import fully_connected
from nagedge.backends.tflite_lowering.structure import concatenate, pad, slice_axis
from nagedge.backends.tflite_lowering.views import view
from nagedge.errors import UnsupportedOperatorError

__all__ = ["RULES", "window_padding"]

Rule = Callable[[GraphBuilder, fx.Node], Value]
Pair = tuple[int, int]

NHWC = (0, 2, 3, 1)
_OHWI = (0, 2, 3, 1)
_1HWO = (1, 2, 3, 0)


@dataclass(frozen=True)
class _Geometry:
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


def _pairs(values: Any, axes: int, filler: int) -> Pair:
    listed = [int(v) for v in values]
    listed = listed * axes if len(listed) == 1 else listed
    return (filler, listed[0]) if axes == 1 else (listed[0], listed[1])


def _convolution(builder: GraphBuilder, node: fx.Node) -> Value:
    x, weight = builder.of(node.args[0], FLOAT), builder.of(node.args[1], FLOAT)
    bias = None if node.args[2] is None else builder.of(node.args[2], FLOAT)
    stride, padding, dilation, transposed, output_padding, groups = node.args[3:9]
    axes = x.rank - 2
    if axes > 2:
        raise UnsupportedOperatorError(
            "over three axes it has no lowering to the operators that every TensorFlow Lite runtime has: use convolutions "
            "over two axes."
        )
    if axes == 1:  # the new axis comes first, so that the other one lies beside the channels
        x = view(builder, x, [*x.sizes[:2], 1, x.sizes[2]])
        weight = view(builder, weight, [*weight.sizes[:2], 1, weight.sizes[2]])
    strides, spread = _pairs(stride, axes, 1), _pairs(dilation, axes, 1)
    pads, extra = _pairs(padding, axes, 0), _pairs(output_padding, axes, 0)
    if transposed:
        made = _transposed(builder, x, weight, bias, strides, pads, spread, extra, int(groups))  # type: ignore[arg-type]
    else:
        geometry = _Geometry(strides, ((pads[0], pads[0]), (pads[1], pads[1])), spread, int(groups))  # type: ignore[arg-type]
        made = _plain(builder, x, weight, bias, geometry)
    return view(builder, made, builder.sizes(node)) if axes == 1 else made


def _plain(builder: GraphBuilder, x: Value, weight: Value, bias: Value | None, geometry: _Geometry) -> Value:
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
    if any(before < 0 for before, _ in geometry.padding):
        scheme, pads = "VALID", _cropping(source, result, reach, geometry)
    if any(p != (0, 0) for p in pads):
        x = pad(builder, x, [(0, 0), (0, 0), *pads])
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
        inputs = [rows, builder.dense(weight, _1HWO), *given]
        made = builder.add(
            "DEPTHWISE_CONV_2D", inputs, stored, depthMultiplier=outputs // channels, **options
        )
        return Value(made, NHWC, sizes)
    constant = builder.is_constant(weight)
    if groups > 1 and not constant:
        return _by_group(
            builder,
            x,
            weight,
            bias,
            _Geometry(geometry.stride, _split_pads(scheme, geometry), geometry.dilation, groups),
        )
    filters = builder.dense(weight, _OHWI)
    if kernel == [1, 1] and not constant and geometry.stride == (1, 1):
        matrix = builder.reshape(filters, [outputs, channels])
        return Value(fully_connected(builder, rows, matrix, None if bias is None else given[0]), NHWC, sizes)
    return Value(builder.add("CONV_2D", [rows, filters, *given], stored, **options), NHWC, sizes)


def _cropping(
    source: Sequence[int], result: Sequence[int], reach: Sequence[int], geometry: _Geometry
) -> list[Pair]:
    """Return padding or cropping after which the windows fit exactly."""
    found = []
    for size, n, r, s, (before, _) in zip(
        source, result, reach, geometry.stride, geometry.padding, strict=True
    ):
        found.append((before, (n - 1) * s + r - size - before))
    return found


def _split_pads(scheme: str, geometry: _Geometry) -> tuple[Pair, Pair]:
    """Return the padding that is left to do once explicit padding is done."""
    return geometry.padding if scheme == "SAME" else ((0, 0), (0, 0))


def _by_group(
    builder: GraphBuilder, x: Value, weight: Value, bias: Value | None, geometry: _Geometry
) -> Value:
    """One convolution a group: runtimes group constant weights only."""
    groups = geometry.groups
    inputs, outputs = int(x.sizes[1]) // groups, int(weight.sizes[0]) // groups
    one = _Geometry(geometry.stride, geometry.padding, geometry.dilation, 1)
    parts = []
    for g in range(groups):
        part = slice_axis(builder, x, 1, g * inputs, (g + 1) * inputs)
        own = slice_axis(builder, weight, 0, g * outputs, (g + 1) * outputs)
        given = None if bias is None else slice_axis(builder, bias, 0, g * outputs, (g + 1) * outputs)
        parts.append(_plain(builder, part, own, given, one))
    return concatenate(builder, parts, 1, (parts[0].sizes[0], groups * outputs, *parts[0].sizes[2:]))


# --- transposed -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Phase:
    """The taps of one axis that reach output positions of one remainder: ``first, first + step, ..``, ``count`` of them.

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


def _transposed(
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
            geometry = _Geometry(
                (1, 1), (down.padding, across.padding), (down.dilation, across.dilation), groups
            )
            cells.append(_plain(builder, x, taps, bias, geometry))
        lines.append(_interleave(builder, cells, 3))
    whole = _interleave(builder, lines, 2)
    for axis in (2, 3):
        whole = slice_axis(builder, whole, axis, 0, size[axis - 2])
    return whole


def _phase(
    remainder: int, source: int, kernel: int, stride: int, padding: int, dilation: int, count: int
) -> _Phase | None:
    """Return the taps for outputs ``t = remainder + stride n``, or None when no tap reaches them.

    Output ``t`` reads input ``m - j`` at tap ``k`` where ``stride j = dilation k - a`` and ``a``, ``m`` are remainder and
    quotient of ``t + padding`` by the stride.
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
        moved = (0, 2, 1, 3, 4)
    else:
        moved = (1, 0, 2, 3)
    back = {old: new for new, old in enumerate(moved)}
    swapped = Value(
        weight.tensor, tuple(back[a] for a in weight.order), tuple(weight.sizes[old] for old in moved)
    )
    return view(builder, swapped, [groups * outputs, channels // groups, *kernel])


def _taps(builder: GraphBuilder, filters: Value, down: _Phase, across: _Phase) -> Value:
    """Choose the taps of two axes, in reverse."""
    sizes = (*filters.sizes[:2], down.count, across.count)
    order = _1HWO if filters.sizes[1] == 1 else _OHWI
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


RULES: dict[str, Rule] = {"convolution": _convolution}
