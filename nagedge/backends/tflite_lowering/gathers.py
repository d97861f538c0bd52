"""Gathers: operators that read at places given by a tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import fx

from nagedge.backends.tflite_lowering.broadcasting import broadcast
from nagedge.backends.tflite_lowering.builder import BOOL, INT, GraphBuilder, Value, dtype_of
from nagedge.backends.tflite_lowering.model import Size, product_of
from nagedge.backends.tflite_lowering.views import view
from nagedge.errors import UnsupportedOperatorError

__all__ = ["RULES", "flat_places"]

Rule = Callable[[GraphBuilder, fx.Node], Value]


def _gather_along(builder: GraphBuilder, value: Value, indices: Value, axis: int) -> Value:
    """``value`` with one axis replaced by the axes of ``indices``."""
    source = builder.whole(value)
    places = builder.dense(indices)
    place = source.order.index(axis)
    count = indices.rank
    stored = list(builder.stored(source))
    made_sizes = [*stored[:place], *indices.sizes, *stored[place + 1 :]]
    made = builder.add("GATHER", [source.tensor, places], made_sizes, builder.dtype(source), axis=place)
    order: list[int] = []
    for a in source.order:
        if a == axis:
            order += list(range(axis, axis + count))
        else:
            order.append(a if a < axis else a + count - 1)
    sizes = (*value.sizes[:axis], *indices.sizes, *value.sizes[axis + 1 :])
    return Value(made, tuple(order), sizes)


def _wrapped(builder: GraphBuilder, indices: Value, size: Size) -> Value:
    """Count negative indices from the end, as torch does."""
    data = builder.tensors[indices.tensor].data
    if data is not None and (data >= 0).all():
        return indices
    if data is not None and isinstance(size, int):
        return Value(
            builder.constant(np.where(data < 0, data + size, data), INT), indices.order, indices.sizes
        )
    length = (
        builder.scalar(size, INT)
        if isinstance(size, int)
        else Value(builder.reshape(builder.shape([size]), ()), (), ())
    )
    return broadcast(builder, "FLOOR_MOD", [indices, length], INT)


def _index_select(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.of(node.args[0])
    axis = int(node.args[1]) % value.rank  # type: ignore[arg-type]
    return _gather_along(builder, value, builder.of(node.args[2], INT), axis)


def _embedding(builder: GraphBuilder, node: fx.Node) -> Value:
    return _gather_along(builder, builder.of(node.args[0]), builder.of(node.args[1], INT), 0)


def _index(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.of(node.args[0])
    indices: list[Any] = list(node.args[1])  # type: ignore[arg-type]
    given = [i for i, index in enumerate(indices) if index is not None]
    flags = any(dtype_of(indices[i]) == BOOL for i in given)
    if len(given) == 1 and not flags:
        axis = given[0]
        found = _wrapped(builder, builder.of(indices[axis], INT), value.sizes[axis])
        return _gather_along(builder, value, found, axis)
    if flags or given != list(range(len(given))):
        raise UnsupportedOperatorError(
            "indexing with several index tensors that are not the leading ones, or with a mask, has no lowering: "
            "use torch.where, or index one axis at a time."
        )
    return _gather_many(builder, value, [builder.of(indices[i], INT) for i in given], builder.sizes(node))


def _gather_many(
    builder: GraphBuilder, value: Value, indices: Sequence[Value], sizes: tuple[Size, ...]
) -> Value:
    """Index the leading axes at once: one gather over them merged."""
    count = len(indices)
    flat = _wrapped(builder, indices[0], value.sizes[0])
    for index, size in zip(indices[1:], value.sizes[1:count], strict=True):
        scaled = broadcast(builder, "MUL", [flat, builder.scalar(int(size), INT)], INT)
        flat = broadcast(builder, "ADD", [scaled, _wrapped(builder, index, size)], INT)
    rows = view(builder, value, [product_of(value.sizes[:count]), *value.sizes[count:]])
    found = _gather_along(builder, rows, flat, 0)
    return Value(found.tensor, found.order, sizes)


def _gather(builder: GraphBuilder, node: fx.Node) -> Value:
    """``torch.gather``: the other axes' own places are computed, then everything is one gather of a flat tensor."""
    value, indices = builder.of(node.args[0]), builder.of(node.args[2], INT)
    if not value.rank:
        return value
    axis = int(node.args[1]) % value.rank  # type: ignore[arg-type]
    places = flat_places(builder, value.sizes, indices, axis)
    source = builder.reshape(builder.dense(value), [product_of(value.sizes)])
    return builder.plain(builder.add("GATHER", [source, places], indices.sizes, builder.dtype(value), axis=0))


def flat_places(builder: GraphBuilder, sizes: Sequence[Size], indices: Value, axis: int) -> int:
    """Return for every index along ``axis`` its place in a flat tensor of ``sizes``: int32, of the indices' sizes."""
    flat: Value | None = None
    for a, size in enumerate(sizes):
        if a == axis:
            place = indices
        else:
            length = indices.sizes[a]
            bounds = [builder.scalar(0, INT), _number(builder, length), builder.scalar(1, INT)]
            line = builder.add("RANGE", [b.tensor for b in bounds], [length], INT)
            row = [length if b == a else 1 for b in range(len(sizes))]
            place = Value(builder.reshape(line, row), tuple(range(len(sizes))), tuple(row))
        if flat is None:
            flat = place
        else:
            scaled = broadcast(builder, "MUL", [flat, _number(builder, size)], INT)
            flat = broadcast(builder, "ADD", [scaled, place], INT)
    assert flat is not None
    return builder.dense(Value(flat.tensor, flat.order, indices.sizes))


def _number(builder: GraphBuilder, size: Size) -> Value:
    if isinstance(size, int):
        return builder.scalar(size, INT)
    return Value(builder.reshape(builder.shape([size]), ()), (), ())


RULES: dict[str, Rule] = {
    "index_select": _index_select, "gather": _gather, "embedding": _embedding, "index": _index, "_unsafe_index": _index,
}  # fmt: skip
