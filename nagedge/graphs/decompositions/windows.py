"""Sliding windows over the spatial axes, taken apart and put back with slices, pads and additions.

Notation: ``x`` is ``[batch, channels, *spatial]``; a *tap* is one position ``(i_1, ..)`` inside the kernel; output
``o`` of a window reads ``x[o * stride + i * dilation]`` of the padded input. The batch size may be symbolic, so axis 0
is only ever written as -1; every other size is a plain int.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from nagedge.graphs.decompositions.tensors import reshape

aten = torch.ops.aten

__all__ = [
    "Windows",
    "add_along",
    "add_windows",
    "interleave",
    "pad_spatial",
    "per_axis",
    "repeat_cells",
    "taps",
    "window",
    "windows_by_slices",
]


Windows = Callable[[Tensor, Sequence[int], Sequence[int], Sequence[int], Sequence[int]], Sequence[Tensor]]
"""``(padded input, kernel, size, stride, dilation)`` to what the windows read at every tap of the kernel."""


def per_axis(values: Sequence[int], axes: int, default: int | None = None) -> list[int]:
    """One value an axis: torch's argument lists may be empty (``default``) or hold a single value for all axes."""
    given = list(values)
    if not given and default is not None:
        return [default] * axes
    return given * axes if len(given) == 1 else given


def taps(kernel: Sequence[int]) -> list[tuple[int, ...]]:
    """Every position inside the kernel, last axis fastest."""
    return list(itertools.product(*(range(k) for k in kernel)))


def pad_spatial(x: Tensor, before: Sequence[int], after: Sequence[int], value: float = 0.0) -> Tensor:
    """Pad (or crop, where negative) the last ``len(before)`` axes."""
    if not any(before) and not any(after):
        return x
    first = x.dim() - len(before)
    for axis, (low, high) in enumerate(zip(before, after, strict=True), start=first):
        if low < 0 or high < 0:
            x = aten.slice.Tensor(x, axis, max(-low, 0), x.shape[axis] + min(high, 0))
    pads = [max(p, 0) for pair in reversed(list(zip(before, after, strict=True))) for p in pair]
    return aten.constant_pad_nd.default(x, pads, value) if any(pads) else x


def window(
    x: Tensor, tap: Sequence[int], size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> Tensor:
    """What every output position reads at one tap: ``[batch, channels, *size]`` of the padded input ``x``."""
    first = x.dim() - len(tap)
    axes = enumerate(zip(tap, size, stride, dilation, strict=True), start=first)
    for axis, (i, n, s, d) in reversed(list(axes)):  # the slow cut, of columns, first: taps share it
        start, stop = i * d, i * d + (n - 1) * s + 1
        if start != 0 or stop != x.shape[axis] or s != 1:
            x = aten.slice.Tensor(x, axis, start, stop, s)
    return x


def windows_by_slices(
    x: Tensor, kernel: Sequence[int], size: Sequence[int], stride: Sequence[int], dilation: Sequence[int]
) -> list[Tensor]:
    """Return :func:`window` at every tap of ``kernel``."""
    return [window(x, tap, size, stride, dilation) for tap in taps(kernel)]


def _merge(x: Tensor, axis: int) -> Tensor:
    """Join ``axis`` and the one behind it."""
    shape = list(x.shape)
    if axis == 0:
        return reshape(x, [-1, *shape[2:]])
    return reshape(x, [-1, *shape[1:axis], shape[axis] * shape[axis + 1], *shape[axis + 2 :]])


def interleave(phases: Sequence[Tensor], axis: int) -> Tensor:
    """``out[.., q * len(phases) + r, ..] = phases[r][.., q, ..]`` along one spatial axis."""
    if len(phases) == 1:
        return phases[0]
    return _merge(torch.stack(list(phases), axis + 1), axis)


def repeat_cells(x: Tensor, axis: int, times: int) -> Tensor:
    """Every cell ``times`` times in a row along one spatial axis."""
    if times == 1:
        return x
    sizes = [-1] * (x.dim() + 1)
    sizes[axis + 1] = times
    return _merge(x.unsqueeze(axis + 1).expand(sizes), axis)


def add_along(parts: Sequence[tuple[int, Tensor]], axis: int, length: int, stride: int) -> Tensor:
    """``out[.., offset + stride * o, ..] += part[.., o, ..]`` for every (offset, part); other cells are zero."""
    count = parts[0][1].shape[axis]
    quotas = max(-(-length // stride), max(offset // stride for offset, _ in parts) + count)
    behind = parts[0][1].dim() - 1 - axis
    phases: list[Tensor | None] = [None] * stride
    for offset, part in parts:
        shift, phase = divmod(offset, stride)
        pads = [0, 0] * behind + [shift, quotas - count - shift]
        shifted = aten.constant_pad_nd.default(part, pads, 0.0) if any(pads) else part
        known = phases[phase]
        phases[phase] = shifted if known is None else known + shifted
    some = next(p for p in phases if p is not None)
    out = interleave([torch.zeros_like(some) if p is None else p for p in phases], axis)
    return out if out.shape[axis] == length else aten.slice.Tensor(out, axis, 0, length)


def add_windows(
    parts: Mapping[tuple[int, ...], Tensor],
    length: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Adjoint of :func:`window`, summed over taps: the gradient of the padded input.

    Args:
        parts: tap -> ``[batch, channels, *size]``; taps that contribute nothing may be left out.
        length: spatial size of the padded input.
        stride, dilation: of the windows.

    Returns:
        ``[batch, channels, *length]``.
    """
    axes = len(length)
    groups = dict(parts)
    for axis in reversed(range(axes)):
        by_head: dict[tuple[int, ...], list[tuple[int, Tensor]]] = {}
        for tap, part in groups.items():
            by_head.setdefault(tap[:-1], []).append((tap[-1] * dilation[axis], part))
        groups = {
            head: add_along(found, found[0][1].dim() - axes + axis, length[axis], stride[axis])
            for head, found in by_head.items()
        }
    return groups[()]
