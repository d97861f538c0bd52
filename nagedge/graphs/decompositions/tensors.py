"""Reshapes and constants that keep a traced graph free of batch arithmetic and of in-place construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

aten = torch.ops.aten

__all__ = ["as_strided", "constant", "is_static", "reshape"]


def reshape(x: Tensor, sizes: Sequence[int]) -> Tensor:
    """``x.reshape(sizes)`` that records ``sizes`` as they are.

    ``Tensor.reshape`` works a -1 out during tracing, which pins a symbolic batch to its example value where the
    data has to be copied.
    """
    copied = not x.is_contiguous()
    flat = aten.clone.default(x, memory_format=torch.contiguous_format) if copied else x
    out: Tensor = (aten._unsafe_view if copied else aten.view).default(flat, list(sizes))
    return out


def is_static(size: object) -> bool:
    """Whether a size is a plain int and not an expression in the batch size."""
    return isinstance(size, int)


def constant(values: Sequence[Any], like: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A constant with ``like``'s dtype (or ``dtype``), made outside the tracing, so that it is one attribute."""
    with _disable_current_modes():
        return torch.tensor(values, dtype=dtype or like.dtype)


def as_strided(
    x: Tensor, size: Sequence[int], stride: Sequence[int], storage_offset: int | None = None
) -> Any:
    """An identity where only the memory layout is restated, as torch does for channels-last global pooling."""
    same = x.dim() == len(size) and x.shape == torch.Size(size) and storage_offset in (None, 0)
    if not same or any(n != 1 and a != b for n, a, b in zip(size, x.stride(), stride, strict=True)):
        return NotImplemented
    return aten.alias.default(x)
