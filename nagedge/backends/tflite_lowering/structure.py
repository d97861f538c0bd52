"""Operators that move data: views, slices, concatenation, padding, gathers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import fx

from nagedge.backends.tflite_lowering.broadcasting import broadcast
from nagedge.backends.tflite_lowering.builder import (
    BOOL,
    INT,
    GraphBuilder,
    Value,
    argument_of,
    dtype_of,
    fake_of,
)
from nagedge.backends.tflite_lowering.model import Size
from nagedge.backends.tflite_lowering.views import view
from nagedge.errors import UnsupportedOperatorError

__all__ = ["RULES", "pad", "slice_axis"]

Rule = Callable[[GraphBuilder, fx.Node], Any]

_SLICED_AXES = 4  # that every runtime slices and pads


def _view(builder: GraphBuilder, node: fx.Node) -> Value:
    return view(builder, builder.of(node.args[0]), builder.sizes(node))


def _permuted(value: Value, order: Sequence[int]) -> Value:
    """Move axes: only the note of how they are stored changes."""
    back = {old: new for new, old in enumerate(order)}
    return Value(
        value.tensor, tuple(back[axis] for axis in value.order), tuple(value.sizes[old] for old in order)
    )


def _permute(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.of(node.args[0])
    return _permuted(value, [int(d) % value.rank for d in node.args[1]])  # type: ignore[union-attr,arg-type]


def _transpose(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.of(node.args[0])
    if value.rank < 2:
        return value
    order = list(range(value.rank))
    a, b = (0, 1) if len(node.args) == 1 else (int(d) % value.rank for d in node.args[1:3])  # type: ignore[arg-type]
    order[a], order[b] = order[b], order[a]
    return _permuted(value, order)


def _expand(builder: GraphBuilder, node: fx.Node) -> Value:
    value, sizes = builder.of(node.args[0]), builder.sizes(node)
    missing = len(sizes) - value.rank
    tensor = value.tensor
    if missing:
        tensor = builder.reshape(tensor, [1] * missing + list(builder.stored(value)))
    order = (*range(missing), *(axis + missing for axis in value.order))
    return Value(tensor, order, sizes)


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
    whole = [
        b == 0 and n == size and t == 1 for b, n, size, t in zip(begins, sizes, own.sizes, steps, strict=True)
    ]
    key = ("SLICE", tensor, tuple(begins), tuple(sizes), tuple(steps))
    if key in builder.made:
        return builder.made[key]
    # LiteRT sizes a SLICE of a tensor with a free axis anew at every call, and all that follows: not a STRIDED_SLICE
    if all(t == 1 for t in steps) and all(isinstance(n, int) for n in own.sizes):
        bounds = [builder.ints([int(n) for n in values]) for values in (begins, sizes)]
        result = builder.add("SLICE", [tensor, *bounds], sizes, own.dtype)
    else:
        masks = sum(1 << i for i, w in enumerate(whole) if w)
        ends = [
            0 if w else b + (n - 1) * t + 1 for b, n, t, w in zip(begins, sizes, steps, whole, strict=True)
        ]
        bounds = [builder.shape(begins), builder.shape(ends), builder.ints(steps)]
        result = builder.add(
            "STRIDED_SLICE", [tensor, *bounds], sizes, own.dtype, beginMask=masks, endMask=masks
        )
    builder.made[key] = result
    builder.cuts[result] = (tensor, tuple(begins), tuple(steps))
    return result


def _around(builder: GraphBuilder, tensor: int, place: int) -> tuple[int, list[Size], int]:
    """Merge the axes before and behind one, where there are too many."""
    stored = list(builder.tensors[tensor].sizes)
    if len(stored) <= _SLICED_AXES:
        return tensor, stored, place
    before: Size = 1
    behind: Size = 1
    for size in stored[:place]:
        before = before * size
    for size in stored[place + 1 :]:
        behind = behind * size
    merged = [before, stored[place], behind]
    return builder.reshape(tensor, merged), merged, 1


def _bound(builder: GraphBuilder, argument: Any, size: Size, default: Size) -> Size:
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


def _slice(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.of(node.args[0])
    axis = int(argument_of(node, 1, "dim", 0)) % value.rank
    size = value.sizes[axis]
    start = _bound(builder, argument_of(node, 2, "start"), size, 0)
    step = int(argument_of(node, 4, "step", 1))
    if builder.sizes(node)[axis] == size and step == 1:
        return value
    stop = _bound(builder, argument_of(node, 3, "end"), size, size)
    if isinstance(start, int) and isinstance(stop, int):
        stop = max(start, stop)
    return slice_axis(builder, value, axis, start, stop, step, builder.sizes(node)[axis])


def _select(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.of(node.args[0])
    axis = int(node.args[1]) % value.rank  # type: ignore[arg-type]
    size, index = value.sizes[axis], builder.size(node.args[2])
    if isinstance(index, int) and index < 0:
        index = size + index
    return _without(builder, slice_axis(builder, value, axis, index, index + 1), axis)


def _without(builder: GraphBuilder, value: Value, axis: int) -> Value:
    """Drop an axis of size 1."""
    return view(builder, value, value.sizes[:axis] + value.sizes[axis + 1 :])


def concatenate(builder: GraphBuilder, values: Sequence[Value], axis: int, sizes: Sequence[Size]) -> Value:
    """Concatenate along one axis, in the stored order of the first value that has most elements."""
    if len(values) == 1:
        return values[0]
    leading = max(values, key=lambda v: (not builder.is_constant(v), builder.elements(v)))
    order = leading.order
    tensors = []
    for value in values:
        tensor = builder.in_order(value, order)
        own = builder.tensors[tensor].sizes
        # what is expanded in all of them may stay so
        wanted = [
            1 if a != axis and all(_stored_size(builder, v, a) == 1 for v in values) else value.sizes[a]
            for a in order
        ]
        tensors.append(tensor if list(own) == wanted else builder.expanded(tensor, wanted))
    stored = list(builder.tensors[tensors[0]].sizes)
    place = order.index(axis)
    stored[place] = sizes[axis]
    dtype = builder.tensors[tensors[0]].dtype
    made = builder.add("CONCATENATION", tensors, stored, dtype, axis=place)
    return Value(made, order, tuple(sizes))


def _stored_size(builder: GraphBuilder, value: Value, axis: int) -> Size:
    return builder.stored(value)[value.order.index(axis)]


def _cat(builder: GraphBuilder, node: fx.Node) -> Value:
    dtype = dtype_of(node)
    axis = int(argument_of(node, 1, "dim", 0)) % fake_of(node).dim()
    # torch ignores legacy empty tensors of shape [0], and empty parts add nothing
    parts = [a for a in node.args[0] if 0 not in builder.sizes(a)]  # type: ignore[union-attr]
    return concatenate(builder, [builder.of(a, dtype) for a in parts], axis, builder.sizes(node))


def _stack(builder: GraphBuilder, node: fx.Node) -> Value:
    dtype, sizes = dtype_of(node), builder.sizes(node)
    axis = int(argument_of(node, 1, "dim", 0)) % len(sizes)
    row = [*sizes[:axis], 1, *sizes[axis + 1 :]]
    return concatenate(builder, [view(builder, builder.of(a, dtype), row) for a in node.args[0]], axis, sizes)  # type: ignore[union-attr]


def _split(builder: GraphBuilder, node: fx.Node) -> tuple[Value, ...]:
    value = builder.of(node.args[0])
    axis = int(argument_of(node, 2, "dim", 0)) % value.rank
    pieces: list[Value] = []
    start: Size = 0
    for fake in node.meta["val"]:
        length = builder.size(fake.shape[axis])
        pieces.append(slice_axis(builder, value, axis, start, start + length))
        start = start + length
    return tuple(pieces)


def _unbind(builder: GraphBuilder, node: fx.Node) -> tuple[Value, ...]:
    value = builder.of(node.args[0])
    axis = int(argument_of(node, 1, "dim", 0)) % value.rank
    return tuple(
        _without(builder, slice_axis(builder, value, axis, i, i + 1), axis)
        for i in range(len(node.meta["val"]))
    )


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
        return builder.add("PAD", [tensor, table], grown, dtype)
    return builder.add("PADV2", [tensor, table, builder.constant(np.asarray(number, dtype))], grown, dtype)


def _constant_pad(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.of(node.args[0], dtype_of(node))
    given: list[int] = [int(p) for p in node.args[1]]  # type: ignore[union-attr,arg-type]
    number = argument_of(node, 2, "value", 0)
    pads = [(0, 0)] * value.rank
    for i in range(len(given) // 2):
        pads[value.rank - 1 - i] = (given[2 * i], given[2 * i + 1])
    return pad(builder, value, pads, number)


def flip(builder: GraphBuilder, value: Value, axes: Sequence[int]) -> Value:
    """Reverse axes, one after another: every runtime reverses one."""
    for axis in axes:
        place = value.order.index(axis)
        stored = builder.stored(value)
        if stored[place] == 1:
            continue
        data = builder.tensors[value.tensor].data
        if data is not None:
            made = builder.constant(np.flip(data, place))
        else:
            made = builder.add(
                "REVERSE_V2", [value.tensor, builder.ints([place])], stored, builder.dtype(value)
            )
        value = Value(made, value.order, value.sizes)
    return value


def _flip(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.of(node.args[0])
    return flip(builder, value, [int(a) % value.rank for a in node.args[1]])  # type: ignore[union-attr,arg-type]


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
    merged: Size = 1
    for size in value.sizes[:count]:
        merged = merged * size
    rows = view(builder, value, [merged, *value.sizes[count:]])
    found = _gather_along(builder, rows, flat, 0)
    return Value(found.tensor, found.order, sizes)


def _gather(builder: GraphBuilder, node: fx.Node) -> Value:
    """``torch.gather``: the other axes' own places are computed, then everything is one gather of a flat tensor."""
    value, indices = builder.of(node.args[0]), builder.of(node.args[2], INT)
    if not value.rank:
        return value
    axis = int(node.args[1]) % value.rank  # type: ignore[arg-type]
    flat: Value | None = None
    for a, size in enumerate(value.sizes):
        if a == axis:
            place = indices
        else:
            length = indices.sizes[a]
            bounds = [builder.scalar(0, INT), _number(builder, length), builder.scalar(1, INT)]
            line = builder.add("RANGE", [b.tensor for b in bounds], [length], INT)
            row = [length if b == a else 1 for b in range(value.rank)]
            place = Value(builder.reshape(line, row), tuple(range(value.rank)), tuple(row))
        if flat is None:
            flat = place
        else:
            scaled = broadcast(builder, "MUL", [flat, _number(builder, size)], INT)
            flat = broadcast(builder, "ADD", [scaled, place], INT)
    assert flat is not None
    total: Size = 1
    for size in value.sizes:
        total = total * size
    source = builder.reshape(builder.dense(value), [total])
    places = builder.dense(Value(flat.tensor, flat.order, indices.sizes))
    return builder.plain(builder.add("GATHER", [source, places], indices.sizes, builder.dtype(value), axis=0))


def _number(builder: GraphBuilder, size: Size) -> Value:
    if isinstance(size, int):
        return builder.scalar(size, INT)
    return Value(builder.reshape(builder.shape([size]), ()), (), ())


def _repeat(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.of(node.args[0])
    repeats = [builder.size(r) for r in node.args[1]]  # type: ignore[union-attr]
    sizes = builder.sizes(node)
    plain = builder.reshape(builder.dense(value), [*[1] * (len(repeats) - value.rank), *value.sizes])
    return Value(
        builder.add("TILE", [plain, builder.shape(repeats)], sizes, builder.dtype(value)),
        tuple(range(len(sizes))),
        sizes,
    )


def _slice_scatter(builder: GraphBuilder, node: fx.Node) -> Value:
    value, source = builder.of(node.args[0], dtype_of(node)), builder.of(node.args[1], dtype_of(node))
    axis = int(argument_of(node, 2, "dim", 0)) % value.rank
    if argument_of(node, 5, "step", 1) != 1:
        raise UnsupportedOperatorError(
            "aten.slice_scatter with a step has no lowering: use torch.cat instead."
        )
    size = value.sizes[axis]
    start = _bound(builder, argument_of(node, 3, "start"), size, 0)
    stop = _bound(builder, argument_of(node, 4, "end"), size, size)
    return _replaced(builder, value, source, axis, start, stop)


def _select_scatter(builder: GraphBuilder, node: fx.Node) -> Value:
    value, source = builder.of(node.args[0], dtype_of(node)), builder.of(node.args[1], dtype_of(node))
    axis = int(node.args[2]) % value.rank  # type: ignore[arg-type]
    index = builder.size(node.args[3])
    if isinstance(index, int) and index < 0:
        index = value.sizes[axis] + index
    row = view(builder, source, [*value.sizes[:axis], 1, *value.sizes[axis + 1 :]])
    return _replaced(builder, value, row, axis, index, index + 1)


def _replaced(
    builder: GraphBuilder, value: Value, source: Value, axis: int, start: Size, stop: Size
) -> Value:
    """Replace ``[start, stop)`` of one axis by ``source``, by concatenation."""
    parts = [source]
    if start != 0:
        parts.insert(0, slice_axis(builder, value, axis, 0, start))
    if stop != value.sizes[axis]:
        parts.append(slice_axis(builder, value, axis, stop, value.sizes[axis]))
    return concatenate(builder, parts, axis, value.sizes)


RULES: dict[str, Rule] = {
    **dict.fromkeys(
        ["view", "reshape", "_unsafe_view", "_reshape_copy", "view_copy", "unsqueeze", "squeeze"], _view
    ),
    "permute": _permute, "transpose": _transpose, "t": _transpose, "expand": _expand, "slice": _slice,
    "select": _select, "cat": _cat, "stack": _stack, "split": _split, "split_with_sizes": _split, "unbind": _unbind,
    "constant_pad_nd": _constant_pad, "flip": _flip, "index_select": _index_select, "gather": _gather,
    "embedding": _embedding, "index": _index, "_unsafe_index": _index, "repeat": _repeat,
    "slice_scatter": _slice_scatter, "select_scatter": _select_scatter,
}  # fmt: skip
