"""Pooling: the largest and the mean of windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import fx

from nagedge.backends.mil_lowering.builder import ProgramBuilder, Var
from nagedge.backends.mil_lowering.structure import pad_constant, slice_axis
from nagedge.backends.traced import argument_of, fake_of

__all__ = ["RULES"]

Rule = Callable[[ProgramBuilder, fx.Node], Any]
Spread = tuple[list[int], list[int], list[int], list[int]]


def _pool_geometry(node: fx.Node, *, has_dilation: bool) -> tuple[Spread, bool]:
    """Return kernel, stride, padding, dilation of a pool, and whether it has torch's ceil_mode."""
    axes = len(node.args[1])  # type: ignore[arg-type]

    def spread(values: Any) -> list[int]:
        listed = [int(v) for v in values]
        return listed * axes if len(listed) == 1 else listed

    kernel = spread(node.args[1])
    stride = spread(argument_of(node, 2, "stride", []) or kernel)
    padding = spread(argument_of(node, 3, "padding", [0]))
    dilation = spread(argument_of(node, 4, "dilation", [1])) if has_dilation else [1] * axes
    ceil = bool(argument_of(node, 5 if has_dilation else 4, "ceil_mode", False))
    return (kernel, stride, padding, dilation), ceil


def _stops(builder: ProgramBuilder, node: fx.Node, geometry: Spread) -> list[int]:
    """Return the padding behind each axis that makes every window whole, as torch's ceil_mode counts them."""
    kernel, stride, padding, dilation = geometry
    axes = len(kernel)
    source, result = builder.shape_of(node.args[0])[-axes:], builder.sizes(fake_of(node).shape)[-axes:]
    needed = [(result[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(axes)]
    return [max(needed[i] - source[i] - padding[i], 0) for i in range(axes)]


def _planes(builder: ProgramBuilder, node: fx.Node, axes: int) -> tuple[Var, Callable[[Var], Var]]:
    """Return a pool's input as ``[batch, channels, *spatial]``, and what undoes that on a result."""
    x = builder.tensor(node.args[0])
    if x.rank > axes + 1:
        return x, lambda result: result
    return builder.add("expand_dims", x=x, axes=[0]), lambda result: builder.add(
        "squeeze", x=result, axes=[0]
    )


def _max_pool(builder: ProgramBuilder, node: fx.Node) -> tuple[Var, Var]:
    geometry, _ = _pool_geometry(node, has_dilation=True)
    kernel, stride, padding, dilation = geometry
    x, restore = _planes(builder, node, len(kernel))
    stops = _stops(builder, node, geometry)
    used = any(user.args[1] == 1 for user in node.users)
    parts: list[Var] = []
    if used or any(d > 1 for d in dilation):
        parts = _taps(builder, node, x, geometry, stops)
        pooled = parts[0]
        for part in parts[1:]:
            pooled = builder.add("maximum", x=pooled, y=part)
    else:
        # MIL's padding of a maximum is minus infinity; a window behind it, as of ceil_mode, is padding like any other.
        pads = [p for pair in zip(padding, stops, strict=True) for p in pair]
        pooled = builder.add(
            "max_pool", x=x, kernel_sizes=kernel, strides=stride, pad_type="custom", pad=pads, ceil_mode=False
        )
    return restore(pooled), restore(_places(builder, node, pooled, parts, geometry)) if used else None


def _places(
    builder: ProgramBuilder, node: fx.Node, pooled: Var, parts: Sequence[Var], geometry: Spread
) -> Var:
    """Return the place of the first largest entry of each window, counted row by row over the plane."""
    kernel, stride, padding, dilation = geometry
    axes = len(kernel)
    source, result = builder.shape_of(node.args[0])[-axes:], builder.sizes(fake_of(node).shape)[-axes:]
    corners = np.zeros([1, 1, *result], np.int32)  # of the windows
    for i in range(axes):
        shape = [-1 if j == i else 1 for j in range(axes)]
        rows = (np.arange(result[i]) * stride[i] - padding[i]) * math.prod(source[i + 1 :])
        corners += rows.reshape(shape).astype(np.int32)
    shifts = [
        sum(t * d * math.prod(source[i + 1 :]) for i, (t, d) in enumerate(zip(tap, dilation, strict=True)))
        for tap in np.ndindex(*kernel)
    ]
    taps = zip(parts, shifts, strict=True)
    shift = builder.add("fill_like", ref_tensor=pooled, value=builder.scalar(shifts[-1], torch.int64))
    for part, place in reversed(list(taps)[:-1]):
        hit = builder.add("equal", x=part, y=pooled)
        shift = builder.add("select", cond=hit, a=builder.scalar(place, torch.int64), b=shift)
    return builder.add("add", x=shift, y=builder.constant(corners))


def _taps(
    builder: ProgramBuilder, node: fx.Node, x: Var, geometry: Spread, stops: Sequence[int]
) -> list[Var]:
    """Return what every window has at each position inside the kernel: MIL's pooling has no dilation and no indices."""
    kernel, stride, padding, dilation = geometry
    axes = len(kernel)
    size = builder.sizes(fake_of(node).shape)[-axes:]
    lead = [0] * (x.rank - axes)
    padded = pad_constant(builder, x, [*lead, *padding], [*lead, *stops], -math.inf)
    parts = []
    for tap in np.ndindex(*kernel):
        part = padded
        for i in range(axes):
            start = tap[i] * dilation[i]
            stop = start + (size[i] - 1) * stride[i] + 1
            part = slice_axis(builder, part, x.rank - axes + i, start, stop, stride[i])
        parts.append(part)
    return parts


def _avg_pool(builder: ProgramBuilder, node: fx.Node) -> Var:
    geometry, _ = _pool_geometry(node, has_dilation=False)
    kernel, stride, padding, _ = geometry
    axes = len(kernel)
    include_pad = bool(argument_of(node, 5, "count_include_pad", True))
    divisor = argument_of(node, 6, "divisor_override", None)
    x, restore = _planes(builder, node, axes)
    stops = _stops(builder, node, geometry)
    pads = [p for pair in zip(padding, stops, strict=True) for p in pair]
    over = any(
        stop > p for stop, p in zip(stops, padding, strict=True)
    )  # windows that ceil_mode hangs over the end
    if divisor is None and (not any(pads) or not include_pad or not over):
        pooled = builder.add(
            "avg_pool", x=x, kernel_sizes=kernel, strides=stride, pad_type="custom", pad=pads, ceil_mode=False,
            exclude_padding_from_average=not include_pad,
        )  # fmt: skip
        return restore(pooled)
    lead = [0] * (x.rank - axes)
    padded = pad_constant(builder, x, [*lead, *padding], [*lead, *stops], 0.0)
    mean = builder.add(
        "avg_pool", x=padded, kernel_sizes=kernel, strides=stride, pad_type="valid", pad=[0] * (2 * axes),
        ceil_mode=False, exclude_padding_from_average=False,
    )  # fmt: skip
    area = math.prod(kernel)
    if divisor is not None:
        return restore(builder.add("mul", x=mean, y=builder.scalar(area / float(divisor), torch.float32)))
    # torch counts the declared padding but not what ceil_mode adds behind it: one factor an axis
    source = builder.shape_of(node.args[0])[-axes:]
    result = builder.sizes(fake_of(node).shape)[-axes:]
    for i in range(axes):
        starts = np.arange(result[i]) * stride[i] - padding[i]
        cells = np.minimum(starts + kernel[i], source[i] + padding[i]) - starts
        shape = [-1 if j == i else 1 for j in range(axes)]
        factors = torch.from_numpy((kernel[i] / cells).reshape(shape).astype(np.float32))
        mean = builder.add("mul", x=mean, y=builder.tensor_constant(factors))
    return restore(mean)


RULES: dict[str, Rule] = {"max_pool2d_with_indices": _max_pool, "avg_pool2d": _avg_pool}
