"""Reductions (``iOS15/reduction.py`` and ``iOS17/reduction.py`` of coremltools)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["OPS"]


def _over(
    x: Tensor, axes: tuple[int, ...] | None, keep_dims: bool, reduce: Callable[[Tensor], Tensor]
) -> Tensor:
    """Reduce ``axes`` of ``x`` (None: all) with a function that reduces the last dimension."""
    reduced = range(x.dim()) if axes is None else sorted({axis % x.dim() for axis in axes})
    kept = [axis for axis in range(x.dim()) if axis not in reduced]
    result = reduce(x.permute(*kept, *reduced).reshape(*[x.shape[axis] for axis in kept], -1))
    if keep_dims:
        return result.reshape([1 if axis in reduced else x.shape[axis] for axis in range(x.dim())])
    return result


def _reduction(reduce: Callable[[Tensor], Tensor], *, is_real: bool = False) -> Callable[..., Tensor]:
    """Return the op of a function that reduces the last dimension.

    Args:
        reduce: the function.
        is_real: whether its results are real numbers; those of integers are truncated toward zero, as coremltools does.
    """

    def op(x: Tensor, axes: tuple[int, ...] | None = None, keep_dims: bool = False) -> Tensor:
        if is_real and not x.is_floating_point():
            return _over(x.double(), axes, keep_dims, reduce).to(x.dtype)
        return _over(x, axes, keep_dims, reduce)

    return op


def _argument(find: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def op(x: Tensor, axis: int = -1, keep_dims: bool = False, output_dtype: str = "int32") -> Tensor:
        if output_dtype.lower() not in {"int32", "uint16"}:
            raise ValueError(f"output_dtype is {output_dtype!r}, expected 'int32' or 'uint16'")
        return find(x, dim=axis, keepdim=keep_dims).to(torch.int32)

    return op


OPS: dict[str, Callable[..., Any]] = {
    "reduce_argmax": _argument(torch.argmax),
    "reduce_argmin": _argument(torch.argmin),
    "reduce_l1_norm": _reduction(lambda x: x.abs().sum(-1)),
    "reduce_l2_norm": _reduction(lambda x: x.square().sum(-1).sqrt(), is_real=True),
    "reduce_log_sum": _reduction(lambda x: x.sum(-1).log(), is_real=True),
    "reduce_log_sum_exp": _reduction(lambda x: torch.logsumexp(x, -1), is_real=True),
    "reduce_max": _reduction(lambda x: x.amax(-1)),
    "reduce_mean": _reduction(lambda x: x.mean(-1), is_real=True),
    "reduce_min": _reduction(lambda x: x.amin(-1)),
    "reduce_prod": _reduction(lambda x: x.prod(-1)),
    "reduce_sum": _reduction(lambda x: x.sum(-1)),
    "reduce_sum_square": _reduction(lambda x: x.square().sum(-1)),
}
"""Op type -> its function."""
