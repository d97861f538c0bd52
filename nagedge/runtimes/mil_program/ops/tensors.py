"""Ops that make, sort, select and count (``tensor_operation.py`` of coremltools' opsets)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nagedge.runtimes.mil_program.dtypes import DataType, checked_sizes

__all__ = ["OPS"]


def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """Keep ``lower`` diagonals below and ``upper`` above the main one of each matrix; all where negative."""
    rows, columns = x.shape[-2:]
    distance = torch.arange(rows).unsqueeze(1) - torch.arange(columns)
    kept = ((distance <= lower) | (lower < 0)) & ((-distance <= upper) | (upper < 0))
    return torch.where(kept, x, torch.zeros_like(x))


def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Return running sums along ``axis``, of what comes before only if exclusive, from the end if reverse."""
    ordered = x.flip(axis) if reverse else x
    sums = torch.cumsum(ordered, axis, dtype=x.dtype)
    if exclusive:
        zero = torch.zeros_like(sums.narrow(axis, 0, min(1, sums.shape[axis])))
        sums = torch.cat([zero, sums.narrow(axis, 0, max(0, sums.shape[axis] - 1))], axis)
    return sums.flip(axis) if reverse else sums


def fill(shape: tuple[int, ...], value: Tensor | None = None, *, dtypes: tuple[DataType, ...]) -> Tensor:
    """Return a tensor of one value, 0 unless given."""
    return torch.full(checked_sizes(shape), 0 if value is None else value.item(), dtype=dtypes[0].carrier)


def fill_like(ref_tensor: Tensor, value: Tensor | None = None, *, dtypes: tuple[DataType, ...]) -> Tensor:
    """Return a tensor of one value, 0 unless given, in the shape of another."""
    return fill(tuple(ref_tensor.shape), value, dtypes=dtypes)


def non_zero(x: Tensor) -> Tensor:
    """Return the positions of what is not 0, one a row."""
    return torch.nonzero(x).to(torch.int32)


def one_hot(
    indices: Tensor,
    one_hot_vector_size: int,
    axis: int = -1,
    on_value: Tensor | None = None,
    off_value: Tensor | None = None,
    *,
    dtypes: tuple[DataType, ...],
) -> Tensor:
    """Return vectors of ``off_value`` with one ``on_value``, on a new dimension; indices out of range give none."""
    rank = indices.dim() + 1
    at = axis % rank
    checked_sizes((*indices.shape, one_hot_vector_size))
    place = torch.arange(one_hot_vector_size).reshape([-1 if i == at else 1 for i in range(rank)])
    on = fill((), on_value if on_value is not None else torch.tensor(1), dtypes=dtypes)
    off = fill((), off_value, dtypes=dtypes)
    return torch.where(indices.unsqueeze(at) == place, on, off)


def range_1d(start: Tensor, end: Tensor, step: Tensor) -> Tensor:
    """Return ``start, start + step, ...`` before ``end``."""
    first, last, stride = start.item(), end.item(), step.item()
    if stride == 0:
        raise ValueError("step is 0, expected another number")
    (count,) = checked_sizes([max(0, math.ceil((last - first) / stride))])
    return start + step * torch.arange(count, dtype=start.dtype)


def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Return the order of the values along ``axis``, largest first unless ascending; equals keep their order."""
    return torch.argsort(x, dim=axis, descending=not ascending, stable=True).to(torch.int32)


def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    sort: bool = True,
    return_indices: bool = True,
    output_indices_dtype: str = "int32",
) -> Tensor | tuple[Tensor, Tensor]:
    """Return the ``k`` largest values along ``axis`` and where they are; the smallest if ascending, all for -1.

    Where they need no order they have one all the same: which one Core ML gives is not known.
    """
    del sort, output_indices_dtype
    count = x.shape[axis] if k == -1 else k
    if count > x.shape[axis]:
        raise ValueError(f"k is {k}, along an axis of {x.shape[axis]} values")
    values, indices = torch.sort(x, dim=axis, descending=not ascending, stable=True)
    values, indices = values.narrow(axis, 0, count), indices.narrow(axis, 0, count)
    return (values, indices.to(torch.int32)) if return_indices else values


def select(cond: Tensor, a: Tensor | None = None, b: Tensor | None = None) -> Tensor:
    """Return ``a`` where ``cond`` holds, ``b`` elsewhere; without both, the positions where it holds."""
    if a is None or b is None:
        return non_zero(cond)
    return torch.where(cond, a, b)


OPS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        argsort, band_part, cumsum, fill, fill_like, non_zero, one_hot, range_1d, select, topk,
    )
}  # fmt: skip
"""Op type -> its function."""
