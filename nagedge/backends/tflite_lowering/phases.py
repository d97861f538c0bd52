"""Slices with steps, as slices without: the cells of one remainder by the step lie side by side after a reshape.

The builtin kernel of STRIDED_SLICE copies cell by cell, and XNNPACK takes it without steps only. LiteRT 2.3 on one
thread of x86-64, 8 images of 24x24, 40 channels, every second row and column: 180 us; SPACE_TO_DEPTH 21 us, which all
slices of a tensor share, and 6 us a SLICE.
"""

from __future__ import annotations

from collections.abc import Sequence

from nagedge.backends.tflite_lowering.builder import FLOAT, GraphBuilder
from nagedge.backends.tflite_lowering.model import Size

__all__ = ["strided_slice"]

_MOST_AXES = 5  # that SLICE handles
_IMAGES = 4  # axes


def strided_slice(
    builder: GraphBuilder, tensor: int, begins: Sequence[Size], sizes: Sequence[Size], steps: Sequence[int]
) -> int | None:
    """Return ``sizes`` cells of a stored tensor, from ``begins`` in ``steps``; None where this way has too many axes.

    Sizes that depend on the batch have no such way either: SLICE is then sized anew at every call.
    """
    own = builder.tensors[tensor]
    whole = [n for n in own.sizes if isinstance(n, int)]
    first = [n for n in begins if isinstance(n, int)]
    count = [n for n in sizes if isinstance(n, int)]
    if min(len(whole), len(first), len(count)) < len(own.sizes):
        return None
    missing = [-n % step for n, step in zip(whole, steps, strict=True)]
    if any(missing):
        if own.dtype != FLOAT:
            return None
        whole = [n + more for n, more in zip(whole, missing, strict=True)]
        tensor = _padded(builder, tensor, missing, whole)
    if len(whole) == _IMAGES and steps[0] == steps[3] == 1 and steps[1] == steps[2] and own.dtype == FLOAT:
        return _of_blocks(builder, tensor, whole, first, count, steps[1])
    return _of_rows(builder, tensor, whole, first, count, steps)


def _padded(builder: GraphBuilder, tensor: int, missing: Sequence[int], sizes: Sequence[int]) -> int:
    key = ("PAD", tensor, tuple(missing))
    if key not in builder.made:
        table = builder.constant([[0, more] for more in missing], "int32")
        builder.made[key] = builder.add("PAD", [tensor, table], sizes, FLOAT)
    return builder.made[key]


def _of_blocks(
    builder: GraphBuilder, tensor: int, whole: Sequence[int], first: Sequence[int], count: Sequence[int], step: int
) -> int:  # fmt: skip
    """Of ``[batch, height, width, channels]``, equal steps: blocks of cells become channels."""
    blocks = [whole[0], whole[1] // step, whole[2] // step, step * step * whole[3]]
    key = ("SPACE_TO_DEPTH", tensor, step)
    if key not in builder.made:
        builder.made[key] = builder.add("SPACE_TO_DEPTH", [tensor], blocks, FLOAT, blockSize=step)
    phase = first[1] % step * step + first[2] % step
    begin = [first[0], first[1] // step, first[2] // step, phase * whole[3] + first[3]]
    return builder.add("SLICE", [builder.made[key], builder.ints(begin), builder.ints(count)], count, FLOAT)


def _of_rows(
    builder: GraphBuilder, tensor: int, whole: Sequence[int], first: Sequence[int], count: Sequence[int],
    steps: Sequence[int],
) -> int | None:  # fmt: skip
    """Every stepped axis is cut into two; the second one merges with the axis behind it, where that has no steps."""
    split: list[int] = []
    begin: list[int] = []
    length: list[int] = []
    inner, phase = 1, 0  # of an axis that waits for the one behind it
    for n, start, taken, step in zip(whole, first, count, steps, strict=True):
        if step == 1:
            split.append(inner * n)
            begin.append(phase * n + start)
            length.append(taken)
            inner, phase = 1, 0
            continue
        if inner > 1:
            split.append(inner)
            begin.append(phase)
            length.append(1)
        split.append(n // step)
        begin.append(start // step)
        length.append(taken)
        inner, phase = step, start % step
    if inner > 1:
        split.append(inner)
        begin.append(phase)
        length.append(1)
    while len(split) > _MOST_AXES and begin[0] == begin[1] == 0 and length[:2] == split[:2]:
        split[:2], begin[:2], length[:2] = [split[0] * split[1]], [0], [length[0] * length[1]]
    if len(split) > _MOST_AXES:
        return None
    dtype = builder.tensors[tensor].dtype
    cells = builder.reshape(tensor, split)
    made = builder.add("SLICE", [cells, builder.ints(begin), builder.ints(length)], length, dtype)
    return builder.reshape(made, count)
