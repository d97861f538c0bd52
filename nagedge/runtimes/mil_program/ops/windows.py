"""Convolution and pooling (``iOS15/conv.py``, ``iOS15/pool.py`` of coremltools); layout ``[N, C, *spatial]``."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 # as everybody calls it
from torch import Tensor

__all__ = ["OPS"]

Ints = tuple[int, ...]

_CONV: dict[int, Callable[..., Tensor]] = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Callable[..., Tensor]] = {
    1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d,
}  # fmt: skip
_MAX_POOL: dict[int, Callable[..., Tensor]] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVG_POOL: dict[int, Callable[..., Tensor]] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    strides: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    pad: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    """Return the cross-correlation of ``x`` with ``weight``, ``[C_out, C_in / groups, *kernel]``."""
    rank = _spatial_rank(x)
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    extents = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations, strict=True)]
    pairs = _pads(pad_type, pad, tuple(x.shape[2:]), extents, strides)
    symmetric = all(before == after for before, after in pairs)
    padding = tuple(before for before, _ in pairs) if symmetric else (0,) * rank
    padded = x if symmetric else F.pad(x, _torch_pad(pairs))
    cast_bias = None if bias is None else bias.to(x.dtype)
    return _CONV[rank](padded, weight.to(x.dtype), cast_bias, strides, padding, dilations, groups)


def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    pad: tuple[int, ...] | None = None,
    output_shape: tuple[int, ...] | None = None,
    pad_type: str = "valid",
    strides: tuple[int, ...] | None = None,
    dilations: tuple[int, ...] | None = None,
    groups: int = 1,
) -> Tensor:
    """Return the transposed convolution with ``weight``, ``[C_in, C_out / groups, *kernel]``.

    The full result is cut down, at its start by ``pad`` (custom) or by half of what exceeds the output (same), at its
    end to the size of the output; a requested output that is larger than that gets zeros at its end.
    """
    rank = _spatial_rank(x)
    strides, dilations = strides or (1,) * rank, dilations or (1,) * rank
    full = _CONV_TRANSPOSE[rank](
        x, weight.to(x.dtype), None, strides, (0,) * rank, (0,) * rank, groups, dilations
    )
    kind, given = pad_type.lower(), pad or (0,) * 2 * rank
    crops: list[tuple[int, int]] = []
    for i in range(rank):
        size, wanted = full.shape[2 + i], output_shape[2 + i] if output_shape is not None else None
        if kind in {"same", "same_lower"}:
            target = x.shape[2 + i] * strides[i] if wanted is None else wanted
            excess = max(size - target, 0)
            start = excess // 2 if kind == "same" else excess - excess // 2
        elif kind in {"valid", "custom"}:
            start = given[2 * i] if kind == "custom" else 0
            end = given[2 * i + 1] if kind == "custom" else 0
            target = size - start - end if wanted is None else wanted
        else:
            raise ValueError(f"pad_type is {pad_type!r}, expected valid, same or custom")
        crops.append((-start, target - (size - start)))
    result = F.pad(full, _torch_pad(crops))
    return result if bias is None else result + bias.to(x.dtype).reshape(1, -1, *[1] * rank)


def max_pool(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    pad_type: str = "valid",
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the largest value of each window; padding never wins."""
    rank = _spatial_rank(x)
    steps = strides or (1,) * rank
    pairs, extra = _pool_pads(x, kernel_sizes, pad_type, steps, pad, ceil_mode)
    padded = F.pad(
        x, _torch_pad([(b, a + e) for (b, a), e in zip(pairs, extra, strict=True)]), value=-math.inf
    )
    return _MAX_POOL[rank](padded, kernel_sizes, steps)


def avg_pool(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    pad_type: str = "valid",
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the mean of each window; padding counts as zeros unless it is excluded.

    What a window reaches beyond the padding (``ceil_mode``) never counts, as in torch.
    """
    rank = _spatial_rank(x)
    steps = strides or (1,) * rank
    pairs, extra = _pool_pads(x, kernel_sizes, pad_type, steps, pad, ceil_mode)
    beyond = [(0, e) for e in extra]
    sums = _window_sum(F.pad(F.pad(x, _torch_pad(pairs)), _torch_pad(beyond)), kernel_sizes, steps)
    inside = F.pad(
        torch.ones_like(x[:1, :1]), _torch_pad(pairs), value=0.0 if exclude_padding_from_average else 1.0
    )
    return sums / _window_sum(F.pad(inside, _torch_pad(beyond)), kernel_sizes, steps)


def l2_pool(
    x: Tensor,
    kernel_sizes: tuple[int, ...],
    pad_type: str = "valid",
    strides: tuple[int, ...] | None = None,
    pad: tuple[int, ...] | None = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the root of the sum of squares of each window."""
    steps = strides or (1,) * _spatial_rank(x)
    pairs, extra = _pool_pads(x, kernel_sizes, pad_type, steps, pad, ceil_mode)
    padded = F.pad(x, _torch_pad([(b, a + e) for (b, a), e in zip(pairs, extra, strict=True)]))
    return _window_sum(padded.square(), kernel_sizes, steps).sqrt()


def _window_sum(x: Tensor, kernel_sizes: Ints, steps: Ints) -> Tensor:
    return _AVG_POOL[len(kernel_sizes)](x, kernel_sizes, steps) * math.prod(kernel_sizes)


def _spatial_rank(x: Tensor) -> int:
    rank = x.dim() - 2
    if rank not in _CONV:
        raise ValueError(f"x has rank {x.dim()}, expected 3 to 5")
    return rank


def _pads(
    pad_type: str, pad: Ints | None, sizes: Ints, extents: list[int], strides: Ints
) -> list[tuple[int, int]]:
    """Return the padding before and after each spatial dimension.

    Args:
        pad_type: ``valid``, ``custom``, or ``same`` (the odd one goes to the end) or ``same_lower`` (to the start).
        pad: of ``custom``: before and after the first dimension, before and after the second, ...
        sizes: of the input.
        extents: of the dilated kernel.
        strides: of the windows.
    """
    kind = pad_type.lower()
    if kind == "valid":
        return [(0, 0)] * len(sizes)
    if kind == "custom":
        given = pad or (0,) * 2 * len(sizes)
        if len(given) != 2 * len(sizes):
            raise ValueError(f"pad has {len(given)} values, expected {2 * len(sizes)}")
        return [(given[2 * i], given[2 * i + 1]) for i in range(len(sizes))]
    if kind not in {"same", "same_lower"}:
        raise ValueError(f"pad_type is {pad_type!r}, expected valid, same, same_lower or custom")
    totals = [
        max(0, (math.ceil(size / stride) - 1) * stride + extent - size)
        for size, extent, stride in zip(sizes, extents, strides, strict=True)
    ]
    if kind == "same":
        return [(total // 2, total - total // 2) for total in totals]
    return [(total - total // 2, total // 2) for total in totals]


def _pool_pads(
    x: Tensor, kernel_sizes: Ints, pad_type: str, strides: Ints, pad: Ints | None, ceil_mode: bool
) -> tuple[list[tuple[int, int]], list[int]]:
    """Return the padding of each dimension, and how far the last window reaches beyond it (``ceil_mode``)."""
    sizes = tuple(x.shape[2:])
    pairs = _pads(pad_type, pad, sizes, list(kernel_sizes), strides)
    extra = []
    for size, (before, after), kernel, stride in zip(sizes, pairs, kernel_sizes, strides, strict=True):
        total = size + before + after
        count = (total - kernel) // stride + 1
        if ceil_mode:
            count = -(-(total - kernel) // stride) + 1
            if before + after > 0 and (count - 1) * stride >= size + before:
                count -= 1  # the last window would start in the padding at the end
        extra.append(max(0, (count - 1) * stride + kernel - total))
    return pairs, extra


def _torch_pad(pairs: list[tuple[int, int]]) -> list[int]:
    """Return padding as torch takes it, the last dimension first."""
    return [value for pair in reversed(pairs) for value in pair]


OPS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (conv, conv_transpose, max_pool, avg_pool, l2_pool)
}
"""Op type -> its function."""
