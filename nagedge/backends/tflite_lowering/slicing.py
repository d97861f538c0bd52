"""Slices and padding of values, in any stored order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nagedge.backends.tflite_lowering.builder import BOOL, INT, GraphBuilder, Value
from nagedge.backends.tflite_lowering.model import Size, product_of
from nagedge.backends.tflite_lowering.phases import without_steps, zeros_around

__all__ = ["bound", "entry", "pad", "slice_axis"]

_SLICED_AXES = 4  # that every runtime slices and pads


def slice_axis(
    builder: GraphBuilder,
    value: Value,
    axis: int,
    start: Size,
    stop: Size,
    step: int = 1,
    length: Size | None = None,
) -> Value:
    """Return entries ``start``, ``start + step``, ... below ``stop`` of one axis; 0 <= start <= stop <= size.

    ``length`` is their number, for steps over sizes that depend on the batch.
    """
    size = value.sizes[axis]
    if start == 0 and stop == size and step == 1:
        return value
    if length is None:
        length = -((start - stop) // step) if step != 1 else stop - start
    sizes = list(value.sizes)
    sizes[axis] = length
    place = value.order.index(axis)
    stored = list(builder.stored(value))
    if stored[place] == 1 and size != 1:  # an expanded axis has nothing to choose from
        return Value(value.tensor, value.order, tuple(sizes))
    tensor, around, at = _around(builder, value.tensor, place)
    begins: list[Size] = [0] * len(around)
    steps = [1] * len(around)
    begins[at], steps[at] = start, step
    around[at] = length
    made = _cut(builder, tensor, begins, around, steps)
    stored[place] = length
    return Value(builder.reshape(made, stored), value.order, tuple(sizes))


def entry(builder: GraphBuilder, value: Value, axis: int, index: int) -> Value | None:
    """Return the entry ``index`` of an axis, without the axis, as a slice of the tensor with two axes merged.

    That needs no reshape of the entry. None where the axis is not the first that is stored, a slice of the next one has
    been taken, or a size depends on the batch.
    """
    own = builder.stored(value)
    if value.rank < 2 or value.order[0] != axis or own[0] != value.sizes[axis]:
        return None
    none = (value.tensor, (0,) * len(own), (1,) * len(own))
    tensor, begins, steps = builder.cuts.get(value.tensor, none)
    whole = builder.tensors[tensor].sizes
    if len(whole) != len(own) or not all(isinstance(n, int) for n in (*whole, *own, *begins)):
        return None
    if whole[1] != own[1] or steps[:2] != (1, 1):
        return None
    merged = builder.reshape(tensor, [whole[0] * own[1], *whole[2:]])
    first = (begins[0] + index) * own[1]
    made = _cut(builder, merged, [first, *begins[2:]], [*own[1:]], [1, *steps[2:]])
    order = tuple(a if a < axis else a - 1 for a in value.order[1:])
    return Value(made, order, (*value.sizes[:axis], *value.sizes[axis + 1 :]))


def _cut(
    builder: GraphBuilder, tensor: int, begins: Sequence[Size], sizes: Sequence[Size], steps: Sequence[int]
) -> int:
    """Slice a stored tensor; a slice of a slice is a slice of the whole."""
    if tensor in builder.cuts:
        tensor, outer, strides = builder.cuts[tensor]
        begins = [o + b * s for o, b, s in zip(outer, begins, strides, strict=True)]
        steps = [s * t for s, t in zip(strides, steps, strict=True)]
    own = builder.tensors[tensor]
    if own.data is not None and all(isinstance(n, int) for n in (*begins, *sizes)):
        spans = zip(begins, sizes, steps, strict=True)
        return builder.constant(own.data[tuple(slice(b, b + (n - 1) * t + 1, t) for b, n, t in spans)])
    key = ("SLICE", tensor, tuple(begins), tuple(sizes), tuple(steps))
    if key not in builder.made:
        found = without_steps(builder, tensor, begins, sizes, steps) if max(steps) > 1 else None
        if found is None:
            builder.made[key] = _slice(builder, tensor, begins, sizes, steps)
        else:
            builder.made[key] = builder.reshape(_slice(builder, *found, [1] * len(found[1])), sizes)
        builder.cuts[builder.made[key]] = (tensor, tuple(begins), tuple(steps))
    return builder.made[key]


def _slice(
    builder: GraphBuilder, tensor: int, begins: Sequence[Size], sizes: Sequence[Size], steps: Sequence[int]
) -> int:
    own = builder.tensors[tensor]
    # LiteRT sizes a SLICE of a tensor with a free axis anew at every call, and all that follows: not a STRIDED_SLICE
    if all(t == 1 for t in steps) and all(isinstance(n, int) for n in own.sizes):
        bounds = [builder.ints([int(n) for n in values]) for values in (begins, sizes)]
        return builder.add("SLICE", [tensor, *bounds], sizes, own.dtype)
    spans = list(zip(begins, sizes, own.sizes, steps, strict=True))
    whole = [b == 0 and n == size and t == 1 for b, n, size, t in spans]
    masks = sum(1 << i for i, w in enumerate(whole) if w)
    ends = [0 if w else b + (n - 1) * t + 1 for w, (b, n, _, t) in zip(whole, spans, strict=True)]
    bounds = [builder.shape(begins), builder.shape(ends), builder.ints(steps)]
    return builder.add("STRIDED_SLICE", [tensor, *bounds], sizes, own.dtype, beginMask=masks, endMask=masks)


def _around(builder: GraphBuilder, tensor: int, place: int) -> tuple[int, list[Size], int]:
    """Merge the axes before and behind one, where there are too many."""
    stored = list(builder.tensors[tensor].sizes)
    if len(stored) <= _SLICED_AXES:
        return tensor, stored, place
    merged = [product_of(stored[:place]), stored[place], product_of(stored[place + 1 :])]
    return builder.reshape(tensor, merged), merged, 1


def bound(builder: GraphBuilder, argument: Any, size: Size, default: Size) -> Size:
    """Return a slice's bound as a place within the axis."""
    if argument is None:
        return default
    given = builder.size(argument)
    if isinstance(given, int) and isinstance(size, int):
        return min(max(given + size if given < 0 else given, 0), size)
    if isinstance(given, int):
        if given < 0:
            return size + given
        return size if given >= np.iinfo(np.int64).max else given
    return given


def pad(
    builder: GraphBuilder, value: Value, pads: Sequence[tuple[int, int]], number: float | bool = 0
) -> Value:
    """Pad (or crop, where negative) every axis by ``(before, behind)`` with a number."""
    for axis, (before, behind) in enumerate(pads):
        if before < 0 or behind < 0:
            size = value.sizes[axis]
            value = slice_axis(builder, value, axis, max(-before, 0), size + min(behind, 0))
    grown = [(max(before, 0), max(behind, 0)) for before, behind in pads]
    if not any(before or behind for before, behind in grown):
        return value
    sizes = tuple(size + sum(grow) for size, grow in zip(value.sizes, grown, strict=True))
    # an expanded axis that is padded must be carried out, others may stay noted
    needed = [
        size if any(grown[axis]) else stored
        for axis, size, stored in zip(
            value.order, [value.sizes[a] for a in value.order], builder.stored(value), strict=True
        )
    ]
    tensor = builder.expanded(value.tensor, needed)
    stored = [size + sum(grown[axis]) for axis, size in zip(value.order, needed, strict=True)]
    rows = [grown[axis] for axis in value.order]
    made = _pad(builder, tensor, needed, rows, number)
    return Value(builder.reshape(made, stored), value.order, sizes)


def _pad(
    builder: GraphBuilder,
    tensor: int,
    sizes: Sequence[Size],
    rows: Sequence[tuple[int, int]],
    number: float | bool,
) -> int:
    """Pad a stored tensor; axes that are not padded merge with their neighbours where there are too many."""
    merged: list[Size] = list(sizes)
    kept = list(rows)
    place = len(merged) - 1
    while len(merged) > _SLICED_AXES and place > 0:
        if not any(kept[place]) and not any(kept[place - 1]):
            merged[place - 1 : place + 1] = [merged[place - 1] * merged[place]]
            kept[place - 1 : place + 1] = [(0, 0)]
        place -= 1
    tensor = builder.reshape(tensor, merged)
    dtype = builder.tensors[tensor].dtype
    table = builder.constant(np.asarray(kept, np.int32).reshape(-1, 2))
    grown = [size + sum(row) for size, row in zip(merged, kept, strict=True)]
    if dtype == BOOL:
        numbers = builder.cast(builder.plain(tensor), INT).tensor
        padded = builder.add("PADV2", [numbers, table, builder.constant(np.int32(number))], grown, INT)
        return builder.cast(builder.plain(padded), BOOL).tensor
    if number == 0:
        return zeros_around(builder, tensor, kept, grown)
    return builder.add("PADV2", [tensor, table, builder.constant(np.asarray(number, dtype))], grown, dtype)
