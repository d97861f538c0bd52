"""Pooling over two axes, in ``[batch, height, width, channels]``."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import fx

from nagedge.backends.tflite_lowering.broadcasting import broadcast
from nagedge.backends.tflite_lowering.builder import GraphBuilder, Value
from nagedge.backends.tflite_lowering.plain_convolution import NHWC, window_padding
from nagedge.backends.tflite_lowering.slicing import pad, slice_axis
from nagedge.backends.tflite_lowering.views import view
from nagedge.backends.traced import argument_of
from nagedge.errors import UnsupportedOperatorError

__all__ = ["RULES"]

Rule = Callable[[GraphBuilder, fx.Node], Any]
_NEVER_NEGATIVE = {"RELU", "RELU6", "LOGISTIC", "SQUARE", "ABS"}


@dataclass(frozen=True)
class _Windows:
    kernel: list[int]
    stride: list[int]
    before: list[int]
    dilation: list[int]
    source: list[int]
    result: list[int]

    @property
    def reach(self) -> list[int]:
        return [d * (k - 1) + 1 for d, k in zip(self.dilation, self.kernel, strict=True)]


def _windows(builder: GraphBuilder, node: fx.Node, *, dilated: bool) -> _Windows:
    def two(values: Any) -> list[int]:
        listed = [int(v) for v in values]
        return listed * 2 if len(listed) == 1 else listed

    kernel = two(node.args[1])
    stride = two(argument_of(node, 2, "stride", []) or kernel)
    before = two(argument_of(node, 3, "padding", [0, 0]))
    dilation = two(argument_of(node, 4, "dilation", [1, 1])) if dilated else [1, 1]
    source = [int(s) for s in builder.sizes(node.args[0])[-2:]]
    return _Windows(kernel, stride, before, dilation, source, [int(s) for s in builder.sizes(node)[-2:]])


def _batched(builder: GraphBuilder, node: fx.Node) -> Value:
    """Return a pool's input as ``[batch, channels, height, width]``; torch pools ``[channels, height, width]`` too."""
    x = builder.of(node.args[0])
    return x if x.rank == 4 else view(builder, x, [1, *x.sizes])


def _pool(builder: GraphBuilder, kind: str, x: Value, windows: _Windows, scheme: str) -> Value:
    sizes = (*x.sizes[:2], *windows.result)
    made = builder.add(
        kind, [builder.dense(x, NHWC)], [sizes[a] for a in NHWC], padding=scheme, strideH=windows.stride[0],
        strideW=windows.stride[1], filterHeight=windows.kernel[0], filterWidth=windows.kernel[1],
    )  # fmt: skip
    return Value(made, NHWC, sizes)


def _explicit_pads(windows: _Windows) -> list[tuple[int, int]]:
    """Return what must be added before and behind each axis for the windows to need no padding of their own."""
    behind = [
        max((n - 1) * s + r - size - b, 0)
        for size, n, r, s, b in zip(
            windows.source, windows.result, windows.reach, windows.stride, windows.before, strict=True
        )
    ]
    return list(zip(windows.before, behind, strict=True))


def _max_pool(builder: GraphBuilder, node: fx.Node) -> tuple[Value, ...]:
    if any(user.args[1] == 1 and user.users for user in node.users):
        raise UnsupportedOperatorError(
            "the places of the maxima have no TensorFlow Lite operator: use the maxima only."
        )
    windows = _windows(builder, node, dilated=True)
    x = _batched(builder, node)
    scheme, pads = window_padding(
        windows.source, windows.result, windows.reach, windows.stride, windows.before
    )
    if windows.dilation != [1, 1]:
        scheme, pads = "VALID", _explicit_pads(windows)
    if any(p != (0, 0) for p in pads):
        # 0 is as good as minus infinity where nothing is negative, and does not widen the range of int8
        floor = 0.0 if _never_negative(builder, x) else float("-inf")
        x = pad(builder, x, [(0, 0), (0, 0), *pads], floor)
    made = (
        _pool(builder, "MAX_POOL_2D", x, windows, scheme)
        if windows.dilation == [1, 1]
        else _spread_max(builder, x, windows)
    )
    return (view(builder, made, builder.sizes(node)),)


def _never_negative(builder: GraphBuilder, value: Value) -> bool:
    for operation in reversed(builder.operations):
        if value.tensor in operation.outputs:
            return operation.kind in _NEVER_NEGATIVE
    return False


def _spread_max(builder: GraphBuilder, x: Value, windows: _Windows) -> Value:
    """The maximum over windows with gaps: of shifted slices."""
    result = x
    for i, axis in enumerate((2, 3)):
        parts = []
        for k in range(windows.kernel[i]):
            start = k * windows.dilation[i]
            stop = start + (windows.result[i] - 1) * windows.stride[i] + 1
            parts.append(slice_axis(builder, result, axis, start, stop, windows.stride[i]))
        result = parts[0]
        for part in parts[1:]:
            result = broadcast(builder, "MAXIMUM", [result, part])
    return result


def _avg_pool(builder: GraphBuilder, node: fx.Node) -> Value:
    windows = _windows(builder, node, dilated=False)
    counted = bool(argument_of(node, 5, "count_include_pad", True))
    divisor = argument_of(node, 6, "divisor_override", None)
    x = _batched(builder, node)
    scheme, pads = window_padding(
        windows.source, windows.result, windows.reach, windows.stride, windows.before
    )
    if scheme == "SAME" and (counted or divisor is not None):  # SAME averages over real cells only
        scheme, pads = "VALID", _explicit_pads(windows)
    if any(p != (0, 0) for p in pads):
        x = pad(builder, x, [(0, 0), (0, 0), *pads])
    made = _pool(builder, "AVERAGE_POOL_2D", x, windows, scheme)
    area = math.prod(windows.kernel)
    if divisor is not None:
        made = broadcast(builder, "MUL", [made, builder.scalar(area / float(divisor), np.float32)])
    elif scheme == "VALID":
        for i, axis in enumerate((2, 3)):
            made = _recounted(builder, made, windows, i, axis, counted=counted)
    return view(builder, made, builder.sizes(node))


def _recounted(
    builder: GraphBuilder, value: Value, windows: _Windows, i: int, axis: int, *, counted: bool
) -> Value:
    """Turn the mean over all cells of a window into the mean over those that torch counts, along one axis.

    torch counts the declared padding when asked to, but never what ceil_mode adds behind it.
    """
    starts = np.arange(windows.result[i]) * windows.stride[i] - windows.before[i]
    stops = np.minimum(starts + windows.kernel[i], windows.source[i] + windows.before[i])
    if not counted:
        starts, stops = np.maximum(starts, 0), np.minimum(stops, windows.source[i])
    factors = windows.kernel[i] / (stops - starts)
    if (factors == 1).all():
        return value
    shape = [1, 1, 1, 1]
    shape[axis] = -1
    return broadcast(
        builder, "MUL", [value, builder.plain(builder.constant(factors.reshape(shape), np.float32))]
    )


RULES: dict[str, Rule] = {"max_pool2d_with_indices": _max_pool, "avg_pool2d": _avg_pool}
