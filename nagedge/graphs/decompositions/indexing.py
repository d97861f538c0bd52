"""Slicing, gathering and scattering without scatter: gradients of gathers are one-hot products.

Indices may be constants or computed; only axes of static size are indexed. What does not fit returns
``NotImplemented``, which leaves the operator in the graph, so that the exporter refuses it by name.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from nagedge.graphs.decompositions.tensors import constant, is_static, reshape
from nagedge.graphs.decompositions.windows import add_along

aten = torch.ops.aten

__all__ = [
    "copy",
    "embedding_dense_backward",
    "gather",
    "index",
    "index_put",
    "max_dim",
    "min_dim",
    "scatter_add",
    "scatter_src",
    "select_backward",
    "select_scatter",
    "slice_backward",
    "slice_scatter",
    "stack",
    "trilinear",
    "unfold",
    "unfold_backward",
]

END = 2**62


def stack(tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """``aten.stack``: a new axis of size one each, then one concatenation."""
    place = dim if dim >= 0 else dim + tensors[0].dim() + 1
    joined: Tensor = aten.cat.default([aten.unsqueeze.default(x, place) for x in tensors], place)
    return joined


def _onehot(indices: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """``[*indices.shape, classes]`` of zeros and ones; negative indices count from the end."""
    indices = aten.unsqueeze.default(indices, -1)
    wrapped = aten.where.self(aten.lt.Scalar(indices, 0), indices + classes, indices)
    onehot: Tensor = aten.eq.Tensor(wrapped, constant(range(classes), indices, indices.dtype)).to(dtype)
    return onehot


def embedding_dense_backward(
    grad: Tensor, indices: Tensor, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> Tensor:
    """``onehot(indices)^T @ grad``: ``[num_weights, features]``; the row of ``padding_idx`` gets nothing.

    Args:
        grad: ``[*indices.shape, features]``.
        indices: integers, any shape.
    """
    rows = reshape(indices, [-1, 1])
    chosen = aten.eq.Tensor(rows, constant([range(num_weights)], grad, indices.dtype))
    if padding_idx >= 0:
        chosen = aten.logical_and.default(chosen, aten.ne.Scalar(rows, padding_idx))
    onehot = chosen.to(grad.dtype)
    total = torch.mm(onehot.t(), reshape(grad, [-1, grad.shape[-1]]))
    if scale_grad_by_freq:
        total = total / torch.clamp(onehot.sum(0), min=1.0).unsqueeze(1)
    return total


def _bounds(size: int, start: int | None, end: int | None) -> tuple[int, int]:
    """Start and stop of a slice, counted from the front; ``size`` may be symbolic when both are plain."""

    def place(v: int | None, default: int) -> int:
        if v is None or v >= END:
            return default
        v = v + size if v < 0 else v
        return min(max(v, 0), size) if is_static(size) else v

    low = place(start, 0)
    return low, max(place(end, size), low) if is_static(size) else place(end, size)


def slice_backward(
    grad: Tensor, input_sizes: Sequence[int], dim: int, start: int, end: int, step: int
) -> Tensor:
    """Put the gradient of a slice back among zeros."""
    dim = dim % len(input_sizes)
    size = input_sizes[dim]
    low, _ = _bounds(size, start, end)
    if step == 1:
        pads = [0, 0] * (grad.dim() - 1 - dim) + [low, size - low - grad.shape[dim]]
        whole = all(is_static(p) and p == 0 for p in pads)
        return grad if whole else aten.constant_pad_nd.default(grad, pads, 0.0)
    return add_along([(low, grad)], dim, size, step)


def select_backward(grad: Tensor, input_sizes: Sequence[int], dim: int, index: int) -> Tensor:
    """Put the gradient of one entry back among zeros."""
    dim = dim % len(input_sizes)
    index = index if index >= 0 else index + input_sizes[dim]
    return slice_backward(aten.unsqueeze.default(grad, dim), input_sizes, dim, index, index + 1, 1)


def slice_scatter(
    x: Tensor, src: Tensor, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Tensor:
    """``x`` with a slice replaced by ``src``."""
    dim = dim % x.dim()
    size = x.shape[dim]
    low, high = _bounds(size, start, end)
    if step == 1:
        parts = [src.to(x.dtype)]
        if low != 0:
            parts.insert(0, aten.slice.Tensor(x, dim, 0, low))
        if high != size:
            parts.append(aten.slice.Tensor(x, dim, high, END))
        return parts[0] if len(parts) == 1 else aten.cat.default(parts, dim)
    placed = add_along([(low, src.to(x.dtype))], dim, size, step)
    inside = [low <= i < high and (i - low) % step == 0 for i in range(size)]
    flags = reshape(constant(inside, x, torch.bool), [size, *[1] * (x.dim() - 1 - dim)])
    out: Tensor = aten.where.self(flags, placed, x)
    return out


def select_scatter(x: Tensor, src: Tensor, dim: int, index: int) -> Tensor:
    """``x`` with one entry along ``dim`` replaced by ``src``."""
    index = index if index >= 0 else index + x.shape[dim]
    return slice_scatter(x, aten.unsqueeze.default(src, dim % x.dim()), dim, index, index + 1, 1)


def copy(x: Tensor, src: Tensor, non_blocking: bool = False) -> Tensor:
    """The functional form of ``x.copy_(src)``: ``src`` with x's shape and dtype."""
    src = src.to(x.dtype)
    return src if src.dim() == x.dim() and src.shape == x.shape else aten.expand.default(src, list(x.shape))


def _indexed_axes(x: Tensor, indices: Sequence[Tensor | None]) -> tuple[int, int, Tensor] | None:
    """First indexed axis, how many (side by side), and one flat index over them, if the indexing is of that kind."""
    places = [i for i, found in enumerate(indices) if found is not None]
    tensors = [found for found in indices if found is not None]
    if not places or places != list(range(places[0], places[-1] + 1)):
        return None
    sizes = [x.shape[i] for i in places]
    if any(t.dtype == torch.bool for t in tensors) or not all(is_static(s) for s in sizes):
        return None
    flat = None
    for tensor, size in zip(tensors, sizes, strict=True):
        wrapped = aten.where.self(aten.lt.Scalar(tensor, 0), tensor + size, tensor)
        flat = wrapped if flat is None else flat * size + wrapped
    assert flat is not None
    return places[0], len(places), flat


def index(x: Tensor, indices: Sequence[Tensor | None]) -> Any:
    """``x[.., i, j, ..]`` for index tensors on neighbouring axes: one selection along their joint axis."""
    found = _indexed_axes(x, indices)
    if found is None:
        return NotImplemented
    first, count, flat = found
    lead, tail = list(x.shape[:first]), list(x.shape[first + count :])
    lead = [-1, *lead[1:]] if lead else lead
    joint = reshape(x, [*lead, math.prod(x.shape[first : first + count]), *tail]) if count > 1 else x
    picked = aten.index_select.default(joint, first, reshape(flat, [-1]))
    sizes = list(flat.shape)
    return reshape(picked, [*lead, *sizes, *tail]) if len(sizes) != 1 else picked


def index_put(x: Tensor, indices: Sequence[Tensor | None], values: Tensor, accumulate: bool = False) -> Any:
    """Add (or, for distinct indices, put) values at index tensors on neighbouring axes, by a one-hot product."""
    found = _indexed_axes(x, indices)
    if found is None:
        return NotImplemented
    first, count, flat = found
    lead, tail = list(x.shape[:first]), list(x.shape[first + count :])
    if not all(is_static(s) for s in [*lead[1:], *tail, *flat.shape]):
        return NotImplemented
    cells, picked = math.prod(x.shape[first : first + count]), math.prod(flat.shape)
    onehot = _onehot(reshape(flat, [-1]), cells, x.dtype)
    inner = math.prod(tail)
    wide = [*x.shape[:first], *flat.shape, *tail]
    full = values if values.dim() == len(wide) and values.shape == torch.Size(wide) else values.expand(wide)
    # [outer, picked, inner] -> [outer, inner, picked] @ [picked, cells]
    moved = reshape(full, [-1, picked, inner]).transpose(1, 2)
    spread = torch.mm(reshape(moved, [-1, picked]), onehot)
    placed = reshape(spread, [-1, inner, cells]).transpose(1, 2)
    shape = [-1, *x.shape[1:]] if lead else list(x.shape)
    total = reshape(placed, shape)
    if accumulate:
        return x + total
    touched = reshape(aten.amax.default(onehot, [0]), [*x.shape[first : first + count], *[1] * len(tail)])
    return aten.where.self(aten.gt.Scalar(touched, 0.0), total, x)


def gather(x: Tensor, dim: int, indices: Tensor, sparse_grad: bool = False) -> Any:
    """``out[.., j, ..] = x[.., indices[.., j, ..], ..]`` as a sum over a one-hot axis."""
    dim = dim % x.dim() if x.dim() else 0
    if x.dim() == 0 or not is_static(x.shape[dim]):
        return NotImplemented
    for axis in range(x.dim()):
        n = indices.shape[axis]
        if axis != dim and is_static(n) and n != x.shape[axis]:
            x = aten.slice.Tensor(x, axis, 0, n)
    onehot = _onehot(indices, x.shape[dim], x.dtype)
    moved = aten.unsqueeze.default(torch.movedim(x, dim, -1), dim)
    return (onehot * moved).sum([-1])


def scatter_add(x: Tensor, dim: int, indices: Tensor, src: Tensor) -> Any:
    """``out[.., indices[.., j, ..], ..] += src[.., j, ..]``, where all axes but ``dim`` match."""
    total = _scattered(x, dim, indices, src)
    return total if total is NotImplemented else x + total


def _scattered(x: Tensor, dim: int, indices: Tensor, src: Tensor) -> Any:
    dim = dim % x.dim()
    if not is_static(x.shape[dim]):
        return NotImplemented
    if any(
        is_static(n) and n != m
        for axis, (n, m) in enumerate(zip(indices.shape, x.shape, strict=True))
        if axis != dim
    ):
        return NotImplemented
    onehot = _onehot(indices, x.shape[dim], x.dtype)
    spread = (onehot * aten.unsqueeze.default(src, -1)).sum([dim])
    return torch.movedim(spread, -1, dim)


def scatter_src(x: Tensor, dim: int, indices: Tensor, src: Tensor) -> Any:
    """``out[.., indices[.., j, ..], ..] = src[.., j, ..]`` for one index an axis, as reductions' gradients need."""
    if indices.shape[dim] != 1:
        return NotImplemented
    total = _scattered(x, dim, indices, src)
    if total is NotImplemented:
        return total
    chosen = aten.gt.Scalar(_scattered(x, dim, indices, torch.ones_like(src)), 0.0)
    return aten.where.self(chosen, total, x)


def max_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Maximum along one axis and its first index."""
    return aten.amax.default(x, [dim], keepdim), aten.argmax.default(x, dim, keepdim)


def min_dim(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    """Minimum along one axis and its first index."""
    return aten.amin.default(x, [dim], keepdim), aten.argmax.default(-x, dim, keepdim)


def unfold(x: Tensor, dimension: int, size: int, step: int) -> Tensor:
    """Sliding windows along one axis, as a new last axis."""
    dim = dimension % x.dim()
    count = (x.shape[dim] - size) // step + 1
    parts = [aten.slice.Tensor(x, dim, j, j + (count - 1) * step + 1, step) for j in range(size)]
    return stack(parts, x.dim())


def unfold_backward(grad: Tensor, input_sizes: Sequence[int], dim: int, size: int, step: int) -> Tensor:
    """Adjoint of :func:`unfold`."""
    dim = dim % len(input_sizes)
    parts = [(j, aten.select.int(grad, -1, j)) for j in range(size)]
    return add_along(parts, dim, input_sizes[dim], step)


def trilinear(
    a: Tensor, b: Tensor, c: Tensor, expand_a: Sequence[int], expand_b: Sequence[int], expand_c: Sequence[int],
    sumdim: Sequence[int], unroll_dim: int = 1,
) -> Tensor:  # fmt: skip
    """``aten._trilinear`` (bilinear layers): a product of three broadcast tensors, summed."""
    factors = []
    for x, axes in ((a, expand_a), (b, expand_b), (c, expand_c)):
        factor = x
        for axis in axes:
            factor = aten.unsqueeze.default(factor, axis)
        factors.append(factor)
    return (factors[0] * factors[1] * factors[2]).sum(list(sumdim))
