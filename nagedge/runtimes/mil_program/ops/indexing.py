"""Slices, gathering and scattering (``scatter_gather.py`` and the slices of coremltools' opsets).

Negative indices count from the end up to iOS 16; from iOS 17 on they are out of range, as are too large ones always.
Core ML leaves the result of an index out of range undefined where ``validate_indices`` is false; here it is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["OPS"]

Flags = tuple[bool, ...] | None


def slice_by_index(
    x: Tensor,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Tensor:
    """Return ``x[begin:end:stride, ...]`` as numpy does; masked ends are left out, a squeezed begin is an index."""
    positions = _positions(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis, taken in enumerate(positions):
        if taken.step == 1:
            x = x.narrow(axis, taken.start, len(taken))
        else:
            x = x.index_select(axis, torch.tensor(list(taken), dtype=torch.int64))
    kept = [size for i, size in enumerate(x.shape) if not (squeeze_mask and squeeze_mask[i])]
    return x.reshape(kept)


def slice_update(
    x: Tensor,
    update: Tensor,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None = None,
    begin_mask: tuple[bool, ...] | None = None,
    end_mask: tuple[bool, ...] | None = None,
    squeeze_mask: tuple[bool, ...] | None = None,
) -> Tensor:
    """Return ``x`` with the slice of :func:`slice_by_index` replaced by ``update``."""
    positions = _positions(x, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    grid = torch.meshgrid(*[torch.tensor(list(p), dtype=torch.int64) for p in positions], indexing="ij")
    result = x.clone()
    result[grid] = update.reshape(grid[0].shape)
    return result


def slice_by_size(x: Tensor, begin: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """Return ``size`` values from ``begin`` on along each dimension; -1 takes all that are left."""
    for axis, (start, count) in enumerate(zip(begin, size, strict=True)):
        first = start + x.shape[axis] if start < 0 else start
        x = x.narrow(axis, first, x.shape[axis] - first if count == -1 else count)
    return x


def gather(
    x: Tensor,
    indices: Tensor,
    axis: int = 0,
    batch_dims: int = 0,
    validate_indices: bool = False,
    *,
    opset: int,
) -> Tensor:
    """Return the slices of ``x`` along ``axis`` at ``indices``, separately for each of the batch dimensions."""
    del validate_indices
    at = axis % x.dim()
    rows = _in_range(indices, x.shape[at], opset)
    if batch_dims == 0:
        return x.index_select(at, rows.reshape(-1)).reshape([*x.shape[:at], *rows.shape, *x.shape[at + 1 :]])
    batch = x.shape[:batch_dims]
    parts = [
        part.index_select(at - batch_dims, row.reshape(-1))
        for part, row in zip(
            x.reshape(-1, *x.shape[batch_dims:]), rows.reshape(-1, *rows.shape[batch_dims:]), strict=True
        )
    ]
    return torch.stack(parts).reshape(
        *batch, *x.shape[batch_dims:at], *rows.shape[batch_dims:], *x.shape[at + 1 :]
    )


def gather_along_axis(
    x: Tensor, indices: Tensor, axis: int = 0, validate_indices: bool = False, *, opset: int
) -> Tensor:
    """Return ``x[..., indices[..., i, ...], ...]``, in the shape of ``indices``."""
    del validate_indices
    return torch.gather(x, axis, _in_range(indices, x.shape[axis], opset))


def gather_nd(
    x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: bool = False, *, opset: int
) -> Tensor:
    """Return the slices of ``x`` at the vectors on the last dimension of ``indices``."""
    del validate_indices
    depth = indices.shape[-1]
    columns = [_in_range(indices[..., i], x.shape[batch_dims + i], opset) for i in range(depth)]
    lead = [
        torch.arange(x.shape[i]).reshape([-1 if j == i else 1 for j in range(indices.dim() - 1)])
        for i in range(batch_dims)
    ]
    return x[tuple(lead + columns)] if lead or columns else x.expand(*indices.shape[:-1], *x.shape)


def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
    *,
    opset: int,
) -> Tensor:
    """Put slices of ``updates`` into ``data`` along ``axis`` at ``indices``, a vector."""
    del validate_indices
    at = axis % data.dim()
    rows = _in_range(indices, data.shape[at], opset)
    along = rows.reshape([-1 if i == at else 1 for i in range(data.dim())]).expand(updates.shape)
    return _scattered(data, along, updates, at, mode)


def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = "add",
    validate_indices: bool = False,
    *,
    opset: int,
) -> Tensor:
    """Put each value of ``updates`` into ``data`` along ``axis`` at the index of the same position."""
    del validate_indices
    return _scattered(data, _in_range(indices, data.shape[axis], opset), updates, axis, mode)


def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = "add",
    validate_indices: bool = False,
    *,
    opset: int,
) -> Tensor:
    """Put slices of ``updates`` into ``data`` at the vectors on the last dimension of ``indices``."""
    del validate_indices
    depth = indices.shape[-1]
    position = torch.zeros(indices.shape[:-1], dtype=torch.int64)
    for i in range(depth):
        position = position * data.shape[i] + _in_range(indices[..., i], data.shape[i], opset)
    flat = data.reshape(-1, *data.shape[depth:]).flatten(1) if depth < data.dim() else data.reshape(-1, 1)
    rows = position.reshape(-1, 1).expand(-1, flat.shape[1])
    return _scattered(flat, rows, updates.reshape(rows.shape), 0, mode).reshape(data.shape)


def _scattered(data: Tensor, indices: Tensor, updates: Tensor, axis: int, mode: str) -> Tensor:
    """Return ``data`` changed along ``axis`` at ``indices``, which has the shape of ``updates``."""
    reductions = {"add": "sum", "sub": "sum", "mul": "prod", "div": "prod", "max": "amax", "min": "amin"}
    if mode == "update":
        return data.scatter(axis, indices, updates)
    if mode not in reductions:
        raise ValueError(f"mode is {mode!r}, expected update, {', '.join(reductions)}")
    if mode == "div" and not data.is_floating_point():
        divisor = torch.ones_like(data).scatter_reduce(axis, indices, updates, "prod")
        return torch.div(data, divisor, rounding_mode="trunc")
    values = {"sub": torch.neg, "div": torch.reciprocal}.get(mode, lambda values: values)(updates)
    return data.scatter_reduce(axis, indices, values, reductions[mode])


def _in_range(indices: Tensor, size: int, opset: int) -> Tensor:
    lowest = 0 if opset >= 17 else -size
    wide = indices.to(torch.int64)
    if wide.numel() and (int(wide.min()) < lowest or int(wide.max()) >= size):
        raise IndexError(
            f"indices reach from {int(wide.min())} to {int(wide.max())}, expected {lowest} to {size - 1}: what Core ML "
            "does with others is undefined"
        )
    return torch.where(wide < 0, wide + size, wide)


def _positions(
    x: Tensor,
    begin: tuple[int, ...],
    end: tuple[int, ...],
    stride: tuple[int, ...] | None,
    begin_mask: Flags,
    end_mask: Flags,
    squeeze_mask: Flags,
) -> list[range]:
    """Return the positions that a slice takes along each dimension."""
    rank = x.dim()
    if len(begin) != rank or len(end) != rank:
        raise ValueError(f"begin has {len(begin)} and end {len(end)} values, expected {rank}, the rank of x")
    taken = []
    for i, size in enumerate(x.shape):
        first = None if begin_mask and begin_mask[i] else begin[i]
        last = None if end_mask and end_mask[i] else end[i]
        step = stride[i] if stride else 1
        if squeeze_mask and squeeze_mask[i]:
            index = (first or 0) + size if (first or 0) < 0 else first or 0
            if not 0 <= index < size:
                raise IndexError(f"begin is {first} along dimension {i}, which has {size} values")
            taken.append(range(index, index + 1))
        else:
            taken.append(range(size)[first:last:step])
    return taken


OPS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        gather, gather_along_axis, gather_nd, scatter, scatter_along_axis, scatter_nd, slice_by_index, slice_by_size,
        slice_update,
    )
}  # fmt: skip
"""Op type -> its function."""
