"""Reflection, replication and circular padding, rolling and repeating, from slices and concatenations.

The padded axes are the last ones, given as torch does: ``[left, right, top, bottom, ..]``, last axis first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from nagedge.graphs.decompositions.tensors import is_static, reshape

aten = torch.ops.aten

__all__ = [
    "circular_pad",
    "reflection_pad",
    "reflection_pad_backward",
    "repeat",
    "replication_pad",
    "replication_pad_backward",
    "roll",
]


def cut(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    """``x[start:stop]`` along one axis; the whole of it costs nothing."""
    if start == 0 and stop == x.shape[axis]:
        return x
    part: Tensor = aten.slice.Tensor(x, axis, start, stop)
    return part


def _axes(x: Tensor, pads: Sequence[int]) -> list[tuple[int, int, int]]:
    """(axis, before, after) for every padded axis."""
    return [(x.dim() - 1 - i // 2, pads[i], pads[i + 1]) for i in range(0, len(pads), 2)]


def _pad(pad_axis: Callable[[Tensor, int, int, int], Tensor], x: Tensor, pads: Sequence[int]) -> Tensor:
    for axis, before, after in _axes(x, pads):
        if before or after:
            x = pad_axis(x, axis, before, after)
    return x


def _shifted(part: Tensor, axis: int, start: int, length: int) -> Tensor:
    """``part`` placed at ``start`` of an axis of ``length`` zeros."""
    pads = [0, 0] * (part.dim() - 1 - axis) + [start, length - start - part.shape[axis]]
    placed: Tensor = aten.constant_pad_nd.default(part, pads, 0.0)
    return placed


def _reflect_axis(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    n = x.shape[axis]
    parts = [x]
    if before:
        parts.insert(0, aten.flip.default(cut(x, axis, 1, before + 1), [axis]))
    if after:
        parts.append(aten.flip.default(cut(x, axis, n - 1 - after, n - 1), [axis]))
    return torch.cat(parts, axis)


def reflection_pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    """Mirror about the border cell, which is not repeated."""
    return _pad(_reflect_axis, x, padding)


def reflection_pad_backward(grad: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
    """Fold the mirrored gradients back, last padded axis first."""
    for axis, before, after in reversed(_axes(x, padding)):
        n = x.shape[axis]
        total = cut(grad, axis, before, before + n)
        if before:
            mirrored = aten.flip.default(cut(grad, axis, 0, before), [axis])
            total = total + _shifted(mirrored, axis, 1, n)
        if after:
            mirrored = aten.flip.default(cut(grad, axis, before + n, before + n + after), [axis])
            total = total + _shifted(mirrored, axis, n - 1 - after, n)
        grad = total
    return grad


def _replicate_axis(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    n = x.shape[axis]
    first, last = cut(x, axis, 0, 1), cut(x, axis, n - 1, n)
    return torch.cat([first] * before + [x] + [last] * after, axis)


def replication_pad(x: Tensor, padding: Sequence[int]) -> Tensor:
    """Repeat the border cell."""
    return _pad(_replicate_axis, x, padding)


def replication_pad_backward(grad: Tensor, x: Tensor, padding: Sequence[int]) -> Tensor:
    """Add what was padded to the border cell."""
    for axis, before, after in reversed(_axes(x, padding)):
        n = x.shape[axis]
        total = cut(grad, axis, before, before + n)
        if before:
            total = total + _shifted(cut(grad, axis, 0, before).sum([axis], keepdim=True), axis, 0, n)
        if after:
            rest = cut(grad, axis, before + n, before + n + after).sum([axis], keepdim=True)
            total = total + _shifted(rest, axis, n - 1, n)
        grad = total
    return grad


def _wrap_axis(x: Tensor, axis: int, before: int, after: int) -> Tensor:
    n = x.shape[axis]
    parts = [x]
    if before:
        parts.insert(0, cut(x, axis, n - before, n))
    if after:
        parts.append(cut(x, axis, 0, after))
    return torch.cat(parts, axis)


def circular_pad(x: Tensor, pad: Sequence[int]) -> Tensor:
    """Continue with the opposite border."""
    return _pad(_wrap_axis, x, pad)


def roll(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor:
    """Move every cell by ``shifts`` along ``dims``, around the end; without ``dims`` over the flat tensor."""
    if not dims:
        shape = list(x.shape)
        return reshape(roll(reshape(x, [-1]), shifts, [0]), [-1, *shape[1:]] if shape else [])
    for shift, dim in zip(shifts, dims, strict=True):
        n = x.shape[dim]
        rest = shift % n if is_static(n) else shift
        if rest != 0:
            whole = 2**62
            x = torch.cat([aten.slice.Tensor(x, dim, -rest, whole), aten.slice.Tensor(x, dim, 0, -rest)], dim)
    return x


def repeat(x: Tensor, repeats: Sequence[int]) -> Tensor:
    """Tile: ``repeats[i]`` copies of ``x`` one after the other along axis i."""
    for _ in range(len(repeats) - x.dim()):
        x = aten.unsqueeze.default(x, 0)
    for axis, times in enumerate(repeats):
        if is_static(times) and times == 1:
            continue
        shape = list(x.shape)
        if is_static(shape[axis]) and shape[axis] == 1:
            x = aten.expand.default(x, [*[-1] * axis, times, *[-1] * (x.dim() - axis - 1)])
            continue
        tiled = aten.unsqueeze.default(x, axis)
        tiled = aten.expand.default(tiled, [*[-1] * axis, times, *[-1] * (x.dim() - axis)])
        shape[axis] = shape[axis] * times
        if sum(not is_static(s) for s in shape) == 1:
            shape = [s if is_static(s) else -1 for s in shape]
        x = reshape(tiled, shape)
    return x
