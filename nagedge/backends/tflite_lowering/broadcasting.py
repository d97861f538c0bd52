"""Elementwise operations over values whose axes may be stored in different orders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from nagedge.backends.tflite_lowering.builder import FLOAT, GraphBuilder, Value
from nagedge.backends.tflite_lowering.model import Size

__all__ = ["broadcast", "broadcast_sizes", "unary"]

_BROADCAST_AXES = 4  # every builtin operator broadcasts over so many axes


def unary(
    builder: GraphBuilder, kind: str, value: Value, dtype: npt.DTypeLike = FLOAT, **options: Any
) -> Value:
    """Apply an operation to every element, in the order and with the expansions that ``value`` has."""
    made = builder.add(kind, [value.tensor], builder.stored(value), dtype, **options)
    return Value(made, value.order, value.sizes)


def broadcast_sizes(values: Sequence[Value]) -> tuple[Size, ...]:
    """Return the sizes to which values broadcast."""
    rank = max(value.rank for value in values)
    result: list[Size] = [1] * rank
    for value in values:
        for axis, size in enumerate(value.sizes, start=rank - value.rank):
            if size != 1:
                result[axis] = size
    return tuple(result)


def broadcast(
    builder: GraphBuilder,
    kind: str,
    operands: Sequence[Value],
    dtype: npt.DTypeLike = FLOAT,
    sizes: Sequence[Size] | None = None,
    **options: Any,
) -> Value:
    """Apply an elementwise operation to values that broadcast, in the order of the largest of them.

    Args:
        builder, kind, operands, dtype, options: the operation.
        sizes: of the result; None computes them from the operands.
    """
    result = broadcast_sizes(operands) if sizes is None else tuple(sizes)
    rank = len(result)
    order = _common_order(builder, operands, rank)
    tensors = [_aligned(builder, value, order, rank) for value in operands]
    stored = _stored(builder, tensors, rank)
    if (
        rank <= _BROADCAST_AXES
        or len({builder.tensors[t].sizes for t in tensors if builder.tensors[t].sizes}) <= 1
    ):
        return Value(builder.add(kind, tensors, stored, dtype, **options), order, result)
    groups = _groups(builder, tensors, rank)
    merged = [builder.reshape(t, _merged(_padded(builder, t, rank), groups)) for t in tensors]
    made = builder.add(kind, merged, _merged(stored, groups), dtype, **options)
    return Value(builder.reshape(made, stored), order, result)


def _common_order(builder: GraphBuilder, operands: Sequence[Value], rank: int) -> tuple[int, ...]:
    """Return the order of the operand with most elements, not a constant, where there is a choice.

    Of several such orders it is the one in which most operands are stored already, in itself or beside another.
    """
    orders: list[tuple[int, ...]] = []
    best: tuple[bool, int] | None = None
    for value in operands:
        if not value.rank:
            continue
        score = (not builder.is_constant(value), builder.elements(value))
        if best is None or score > best:
            best, orders = score, []
        if score == best:
            missing = rank - value.rank
            orders.append((*range(missing), *(axis + missing for axis in value.order)))
    if not orders:
        return tuple(range(rank))

    def moved(order: tuple[int, ...]) -> int:
        return sum(not builder.is_stored_in(value, _own(order, rank - value.rank)) for value in operands)

    return min(orders, key=moved)  # the first of equals


def _own(order: Sequence[int], missing: int) -> list[int]:
    """Return the order of a value's own axes, where it lacks the first ``missing``."""
    return [axis - missing for axis in order if axis >= missing]


def _aligned(builder: GraphBuilder, value: Value, order: Sequence[int], rank: int) -> int:
    """Return the tensor of ``value`` with its axes in ``order``; axes that it lacks are 1, leading ones left out."""
    missing = rank - value.rank
    tensor = builder.in_order(value, _own(order, missing))
    own = iter(builder.tensors[tensor].sizes)
    sizes: list[Size] = [1 if axis < missing else next(own) for axis in order]
    if list(builder.tensors[tensor].sizes) == sizes[missing:] and all(s == 1 for s in sizes[:missing]):
        return tensor
    while sizes and sizes[0] == 1:
        sizes.pop(0)
    return builder.reshape(tensor, sizes)


def _padded(builder: GraphBuilder, tensor: int, rank: int) -> list[Size]:
    own = list(builder.tensors[tensor].sizes)
    return [1] * (rank - len(own)) + own


def _stored(builder: GraphBuilder, tensors: Sequence[int], rank: int) -> list[Size]:
    result: list[Size] = [1] * rank
    for tensor in tensors:
        for axis, size in enumerate(_padded(builder, tensor, rank)):
            if size != 1:
                result[axis] = size
    return result


def _groups(builder: GraphBuilder, tensors: Sequence[int], rank: int) -> list[list[int]]:
    """Group neighbouring axes over which the same tensors repeat: they can be merged."""
    rows = [_padded(builder, tensor, rank) for tensor in tensors]
    groups: list[list[int]] = []
    pattern: tuple[bool, ...] | None = None
    for axis in range(rank):
        column = [row[axis] for row in rows]
        if all(s == 1 for s in column) and groups:
            groups[-1].append(axis)
            continue
        here = tuple(s == 1 for s in column)
        if groups and pattern is not None and here == pattern:
            groups[-1].append(axis)
        else:
            groups.append([axis])
        pattern = here
    return groups


def _merged(sizes: Sequence[Size], groups: Sequence[Sequence[int]]) -> list[Size]:
    result: list[Size] = []
    for group in groups:
        size: Size = 1
        for axis in group:
            size = size * sizes[axis]
        result.append(size)
    return result
