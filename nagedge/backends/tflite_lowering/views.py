"""Reshapes that keep the stored order of axes where they can, so that data moves as seldom as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nagedge.backends.tflite_lowering.builder import GraphBuilder, Value
from nagedge.backends.tflite_lowering.model import Size

__all__ = ["view"]


def view(builder: GraphBuilder, value: Value, sizes: Sequence[Size]) -> Value:
    """Return ``value`` with other sizes, elements in the order of its own axes (``torch.reshape``).

    Axes of both sides are matched in groups of equal size: an axis that stays, some that are merged, one that is split.
    Where the axes of every group lie side by side in memory, in their own order, the stored order stays.
    """
    sizes = tuple(sizes)
    if value.sizes == sizes:
        return value
    groups = _groups(value.sizes, sizes)
    if groups is not None:
        kept = _keep_order(builder, value, sizes, groups)
        if kept is not None:
            return kept
    plain = builder.dense(value)
    return Value(builder.reshape(plain, sizes), tuple(range(len(sizes))), sizes)


def _groups(old: Sequence[Size], new: Sequence[Size]) -> list[tuple[list[int], list[int]]] | None:
    """Match runs of old axes with runs of new axes of the same total size; axes of size 1 are left out."""
    left = [axis for axis, size in enumerate(old) if size != 1]
    right = [axis for axis, size in enumerate(new) if size != 1]
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        mine, theirs = [left[i]], [right[j]]
        a, b = old[left[i]], new[right[j]]
        while a != b:
            grow = _smaller(a, b)
            if grow is None:
                return None
            if grow == "left":
                i += 1
                if i == len(left):
                    return None
                mine.append(left[i])
                a = a * old[left[i]]
            else:
                j += 1
                if j == len(right):
                    return None
                theirs.append(right[j])
                b = b * new[right[j]]
        groups.append((mine, theirs))
        i, j = i + 1, j + 1
    return groups if i == len(left) and j == len(right) else None


def _smaller(a: Size, b: Size) -> str | None:
    """Say on which side the next axis must be taken in."""
    if isinstance(a, int) and isinstance(b, int):
        return "left" if a < b else "right"
    ratio: Any = a / b  # of expressions in the batch
    if ratio.is_number:
        return "left" if ratio < 1 else "right"
    return "left" if isinstance(a, int) else "right" if isinstance(b, int) else None


def _keep_order(
    builder: GraphBuilder, value: Value, sizes: Sequence[Size], groups: Sequence[tuple[list[int], list[int]]]
) -> Value | None:
    stored = builder.stored(value)
    place = {axis: j for j, axis in enumerate(value.order)}
    present = [axis for axis in value.order if value.sizes[axis] != 1]
    firsts: dict[int, tuple[list[int], list[int]]] = {}
    for mine, theirs in groups:
        spots = [present.index(axis) for axis in mine]
        if spots != list(range(spots[0], spots[0] + len(spots))):
            return None
        expanded = [stored[place[axis]] == 1 for axis in mine]
        if any(expanded) and not (all(expanded) or (len(mine) == len(theirs) == 1)):
            return None
        firsts[mine[0]] = (mine, theirs)
    order: list[int] = []
    new_stored: dict[int, Size] = {}
    for axis in present:
        if axis in firsts:
            mine, theirs = firsts[axis]
            order += theirs
            repeated = stored[place[mine[0]]] == 1
            new_stored |= {new: 1 if repeated else sizes[new] for new in theirs}
    for axis, size in enumerate(sizes):  # new axes of size 1: beside the axis before them
        if size == 1:
            order.insert(order.index(axis - 1) + 1 if axis > 0 else 0, axis)
            new_stored[axis] = 1
    return Value(
        builder.reshape(value.tensor, [new_stored[axis] for axis in order]), tuple(order), tuple(sizes)
    )
