"""Slices with steps, as slices without: the cells of one remainder by the step lie side by side after a reshape.

The builtin kernel of STRIDED_SLICE copies cell by cell, and XNNPACK takes it without steps only. LiteRT 2.3 on one
thread of x86-64, 8 images of 24x24, 40 channels, every second row and column: 180 us; SPACE_TO_DEPTH 21 us, which all
slices of a tensor share, and 6 us a SLICE.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nagedge.backends.tflite_lowering.builder import FLOAT, GraphBuilder
from nagedge.backends.tflite_lowering.model import Size

__all__ = ["Cut", "without_steps", "zeros_around"]

_MOST_AXES = 5  # that SLICE handles
_IMAGES = 4  # axes

Cut = tuple[int, list[Size], list[Size]]
"""A stored tensor, where a slice of it begins, and its sizes."""


def without_steps(
    builder: GraphBuilder, tensor: int, begins: Sequence[Size], sizes: Sequence[Size], steps: Sequence[int]
) -> Cut | None:
    """Return the slice that has the cells of a slice with steps, perhaps in other axes; None where there is none.

    Args:
        builder: of the subgraph.
        tensor: stored.
        begins, sizes, steps: of the slice, one an axis.
    """
    own = builder.tensors[tensor]
    whole = list(own.sizes)
    missing = [0] * len(whole)
    for axis, (n, begin, step) in enumerate(zip(whole, begins, steps, strict=True)):
        if step > 1:
            if not (isinstance(n, int) and isinstance(begin, int)):
                return None
            missing[axis] = -n % step
            whole[axis] = n + missing[axis]
    if any(missing):
        if own.dtype != FLOAT:
            return None
        tensor = _padded(builder, tensor, missing, whole)
    if len(whole) == _IMAGES and steps[0] == steps[3] == 1 and steps[1] == steps[2] and own.dtype == FLOAT:
        return _of_blocks(builder, tensor, whole, begins, sizes, steps[1])
    return _of_rows(builder, tensor, whole, begins, sizes, steps)


def _padded(builder: GraphBuilder, tensor: int, missing: Sequence[int], sizes: Sequence[Size]) -> int:
    key = ("PAD", tensor, tuple(missing))
    if key not in builder.made:
        builder.made[key] = zeros_around(builder, tensor, [(0, more) for more in missing], sizes)
    return builder.made[key]


def zeros_around(
    builder: GraphBuilder, tensor: int, rows: Sequence[tuple[int, int]], sizes: Sequence[Size]
) -> int:
    """Return a stored tensor with zeros before and behind every axis; around zeros these are one PAD with them."""
    source, inner = builder.padded.get(tensor, (tensor, ((0, 0),) * len(rows)))
    together = tuple((a + c, b + d) for (a, b), (c, d) in zip(rows, inner, strict=True))
    table = builder.constant(np.asarray(together, np.int32).reshape(-1, 2))
    made = builder.add("PAD", [source, table], sizes, builder.tensors[source].dtype)
    builder.padded[made] = (source, together)
    return made


def _of_blocks(
    builder: GraphBuilder, tensor: int, whole: Sequence[Size], begins: Sequence[Size], sizes: Sequence[Size], step: int
) -> Cut:  # fmt: skip
    """Of ``[batch, height, width, channels]``, equal steps: blocks of cells become channels."""
    blocks = [whole[0], whole[1] // step, whole[2] // step, step * step * whole[3]]
    key = ("SPACE_TO_DEPTH", tensor, step)
    if key not in builder.made:
        builder.made[key] = builder.add("SPACE_TO_DEPTH", [tensor], blocks, FLOAT, blockSize=step)
    phase = begins[1] % step * step + begins[2] % step
    begin = [begins[0], begins[1] // step, begins[2] // step, phase * whole[3] + begins[3]]
    return builder.made[key], begin, list(sizes)


def _of_rows(
    builder: GraphBuilder, tensor: int, whole: Sequence[Size], begins: Sequence[Size], sizes: Sequence[Size],
    steps: Sequence[int],
) -> Cut | None:  # fmt: skip
    """Every stepped axis is cut into two; the second one merges with the axis behind it, where that has no steps."""
    split: list[Size] = []
    begin: list[Size] = []
    length: list[Size] = []
    inner: Size = 1  # of an axis that waits for the one behind it
    phase: Size = 0
    for n, start, taken, step in zip(whole, begins, sizes, steps, strict=True):
        if step == 1:
            split.append(inner * n)
            begin.append(phase * n + start)
            length.append(taken)
            inner, phase = 1, 0
            continue
        if inner != 1:
            split.append(inner)
            begin.append(phase)
            length.append(1)
        split.append(n // step)
        begin.append(start // step)
        length.append(taken)
        inner, phase = step, start % step
    if inner != 1:
        split.append(inner)
        begin.append(phase)
        length.append(1)
    while len(split) > _MOST_AXES and begin[0] == begin[1] == 0 and length[:2] == split[:2]:
        split[:2], begin[:2], length[:2] = [split[0] * split[1]], [0], [length[0] * length[1]]
    if len(split) > _MOST_AXES:
        return None
    return builder.reshape(tensor, split), begin, length
