"""Ops that move values without computing (``tensor_transformation.py`` of coremltools' opsets)."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 # as everybody calls it
from torch import Tensor

from nagedge.runtimes.mil_program.dtypes import checked_sizes

__all__ = ["OPS"]


def reshape(x: Tensor, shape: tuple[int, ...], *, opset: int) -> Tensor:
    """Return ``x`` in another shape.

    A size of 0 stands for that of ``x``: at the same position, or from iOS 17 on counted from the right (1 where ``x``
    has none). A size of -1 stands for what is left.
    """
    sizes = list(shape)
    if 0 in sizes and x.numel() > 0:
        if opset < 17 and len(sizes) != x.dim():
            raise ValueError(f"shape {list(shape)} has a 0, and not the rank of x, {x.dim()}")
        shift = x.dim() - len(sizes)
        sizes = [s if s != 0 else x.shape[i + shift] if i + shift >= 0 else 1 for i, s in enumerate(sizes)]
    return x.reshape(sizes)


def reshape_like(
    x: Tensor,
    ref_tensors: Sequence[Tensor],
    begins: Sequence[int],
    ends: Sequence[int],
    end_masks: Sequence[bool],
) -> Tensor:
    """Return ``x`` in a shape put together from parts of the shapes of other tensors."""
    sizes: list[int] = []
    for ref, begin, end, to_end in zip(ref_tensors, begins, ends, end_masks, strict=True):
        sizes += ref.shape[begin:] if to_end else ref.shape[begin:end]
    return x.reshape(sizes)


def expand_dims(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Insert dimensions of size 1, at positions in the result."""
    rank = x.dim() + len(axes)
    sizes = list(x.shape)
    for axis in sorted(axis % rank for axis in axes):
        sizes.insert(axis, 1)
    return x.reshape(sizes)


def squeeze(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Remove dimensions of size 1; others among ``axes`` stay."""
    chosen = range(x.dim()) if axes is None else {axis % x.dim() for axis in axes}
    return x.reshape([size for i, size in enumerate(x.shape) if i not in chosen or size != 1])


def transpose(x: Tensor, perm: tuple[int, ...]) -> Tensor:
    """Permute the dimensions."""
    return x.permute(perm)


def reverse(x: Tensor, axes: tuple[int, ...] | None = None) -> Tensor:
    """Reverse the order along ``axes``, along all unless given."""
    return x.flip(tuple(range(x.dim())) if axes is None else axes)


def reverse_sequence(x: Tensor, lengths: tuple[int, ...], seq_axis: int = 0, batch_axis: int = 0) -> Tensor:
    """Reverse the first ``lengths[i]`` elements along ``seq_axis`` of the i-th slice along ``batch_axis``."""
    moved = x.movedim((batch_axis, seq_axis), (0, 1))
    rows = [
        torch.cat([row[:length].flip(0), row[length:]]) for row, length in zip(moved, lengths, strict=True)
    ]
    return torch.stack(rows).movedim((0, 1), (batch_axis, seq_axis))


def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """Return a matrix: dimensions before ``axis`` by those from it on."""
    return x.reshape(math.prod(x.shape[:axis]), math.prod(x.shape[axis:]))


def shape(x: Tensor) -> Tensor:
    """Return the sizes of ``x``."""
    return torch.tensor(x.shape, dtype=torch.int32)


def identity(x: Any) -> Any:
    """Return ``x``."""
    return x


def concat(values: Sequence[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """Join tensors along ``axis``, one after another or element by element."""
    whole = [value.reshape(1) if value.dim() == 0 else value for value in values]
    if not interleave:
        return torch.cat(whole, axis)
    at = axis % whole[0].dim()
    return torch.stack(whole, at + 1).flatten(at, at + 1)


def stack(values: Sequence[Tensor], axis: int) -> Tensor:
    """Join tensors along a new dimension."""
    return torch.stack(list(values), axis)


def split(
    x: Tensor, axis: int, num_splits: int | None = None, split_sizes: tuple[int, ...] | None = None
) -> tuple[Tensor, ...]:
    """Cut ``x`` along ``axis`` into parts of given sizes, or into equal ones."""
    if split_sizes is not None:
        return torch.split(x, list(split_sizes), axis)
    if num_splits is None or x.shape[axis] % num_splits:
        raise ValueError(f"{x.shape[axis]} values cannot be split into {num_splits} equal parts")
    return torch.split(x, x.shape[axis] // num_splits, axis)


def tile(x: Tensor, reps: tuple[int, ...]) -> Tensor:
    """Repeat ``x`` along each dimension."""
    checked_sizes((*x.shape, *reps))
    return torch.tile(x, reps)


def pad(x: Tensor, pad: tuple[int, ...], mode: str = "constant", constant_val: float = 0.0) -> Tensor:
    """Pad the last ``len(pad) / 2`` dimensions: before and after the first of them, and so on.

    ``reflect`` mirrors without the border, ``replicate`` repeats the border.
    """
    pairs = list(zip(pad[::2], pad[1::2], strict=True))
    lead = x.dim() - len(pairs)
    checked_sizes(
        (*x.shape[:lead], *(sum(pair) + size for pair, size in zip(pairs, x.shape[lead:], strict=True)))
    )
    if mode == "constant":
        value = constant_val if x.is_floating_point() else int(constant_val)
        return F.pad(x, [size for pair in reversed(pairs) for size in pair], value=value)
    if mode not in {"reflect", "replicate"}:
        raise ValueError(f"mode is {mode!r}, expected constant, reflect or replicate")
    for axis, (before, after) in enumerate(pairs, start=x.dim() - len(pairs)):
        size = x.shape[axis]
        if mode == "reflect" and max(before, after) >= size:
            raise ValueError(
                f"pad {list(pad)} reflects more than there is along dimension {axis}, {size} values"
            )
        position = torch.arange(-before, size + after)
        mirrored = (size - 1) - ((size - 1) - position.abs()).abs()
        x = x.index_select(axis, mirrored if mode == "reflect" else position.clamp(0, size - 1))
    return x


def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """Move blocks of channels into space, the position in the block being the outer part of the channel."""
    n, c, h, w = x.shape
    b = block_size
    return (
        x.reshape(n, b, b, c // (b * b), h, w)
        .permute(0, 3, 4, 1, 5, 2)
        .reshape(n, c // (b * b), h * b, w * b)
    )


def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """Undo :func:`depth_to_space`."""
    n, c, h, w = x.shape
    b = block_size
    return (
        x.reshape(n, c, h // b, b, w // b, b).permute(0, 3, 5, 1, 2, 4).reshape(n, c * b * b, h // b, w // b)
    )


def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """Move blocks of channels into space, the position in the block being the inner part of the channel."""
    return F.pixel_shuffle(x, upscale_factor)


def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """Undo :func:`pixel_shuffle`."""
    return F.pixel_unshuffle(x, downscale_factor)


def space_to_batch(x: Tensor, block_shape: tuple[int, ...], paddings: Tensor) -> Tensor:
    """Pad the two spatial dimensions, then move blocks of them into the batch."""
    (top, bottom), (left, right) = paddings.tolist()
    padded = F.pad(x, [left, right, top, bottom])
    n, c, h, w = padded.shape
    bh, bw = block_shape
    return (
        padded.reshape(n, c, h // bh, bh, w // bw, bw)
        .permute(3, 5, 0, 1, 2, 4)
        .reshape(n * bh * bw, c, h // bh, w // bw)
    )


def batch_to_space(x: Tensor, block_shape: tuple[int, ...], crops: Tensor) -> Tensor:
    """Undo :func:`space_to_batch`; ``crops`` are cut off the spatial dimensions afterwards."""
    (top, bottom), (left, right) = crops.tolist()
    bh, bw = block_shape
    n, c, h, w = x.shape
    whole = x.reshape(bh, bw, n // (bh * bw), c, h, w).permute(2, 3, 4, 0, 5, 1)
    whole = whole.reshape(n // (bh * bw), c, h * bh, w * bw)
    return whole[:, :, top : h * bh - bottom, left : w * bw - right]


def sliding_windows(x: Tensor, axis: int, size: int, stride: int = 1) -> Tensor:
    """Return all windows along ``axis``; their elements lie on a new dimension after it."""
    at = axis % x.dim()
    return x.unfold(at, size, stride).movedim(-1, at + 1)


OPS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        batch_to_space, concat, depth_to_space, expand_dims, flatten2d, identity, pad, pixel_shuffle, pixel_unshuffle,
        reshape, reshape_like, reverse, reverse_sequence, shape, sliding_windows, space_to_batch, space_to_depth, split,
        squeeze, stack, tile, transpose,
    )
}  # fmt: skip
"""Op type -> its function."""
