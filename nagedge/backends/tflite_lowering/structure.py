"""Operators that move data: views, slices, concatenation, padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import fx

from nagedge.backends.tflite_lowering.builder import GraphBuilder, Value, dtype_of
from nagedge.backends.tflite_lowering.model import Size
from nagedge.backends.tflite_lowering.slicing import bound, entry, pad, slice_axis
from nagedge.backends.tflite_lowering.views import view
from nagedge.backends.traced import argument_of, axis_of, fake_of, order_of, pads_of
from nagedge.errors import UnsupportedOperatorError

__all__ = ["RULES", "concatenate"]

Rule = Callable[[GraphBuilder, fx.Node], Any]

SEVERAL = 4
"""Places along an axis from which on it is merged with the next one, so that no entry has to be reshaped."""


def _view(builder: GraphBuilder, node: fx.Node) -> Value:
    return view(builder, builder.of(node.args[0]), builder.sizes(node))


def _permute(builder: GraphBuilder, node: fx.Node) -> Value:
    """Move axes: only the note of how they are stored changes."""
    value, order = builder.of(node.args[0]), order_of(node)
    back = {old: new for new, old in enumerate(order)}
    return Value(
        value.tensor, tuple(back[axis] for axis in value.order), tuple(value.sizes[old] for old in order)
    )


def _expand(builder: GraphBuilder, node: fx.Node) -> Value:
    value, sizes = builder.of(node.args[0]), builder.sizes(node)
    missing = len(sizes) - value.rank
    tensor = value.tensor
    if missing:
        tensor = builder.reshape(tensor, [1] * missing + list(builder.stored(value)))
    order = (*range(missing), *(axis + missing for axis in value.order))
    return Value(tensor, order, sizes)


def _slice(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.of(node.args[0])
    axis = axis_of(node)
    size = value.sizes[axis]
    start = bound(builder, argument_of(node, 2, "start"), size, 0)
    step = int(argument_of(node, 4, "step", 1))
    if builder.sizes(node)[axis] == size and step == 1:
        return value
    stop = bound(builder, argument_of(node, 3, "end"), size, size)
    if isinstance(start, int) and isinstance(stop, int):
        stop = max(start, stop)
    return slice_axis(builder, value, axis, start, stop, step, builder.sizes(node)[axis])


def _select(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.of(node.args[0])
    axis = axis_of(node)
    size, index = value.sizes[axis], builder.size(node.args[2])
    if isinstance(index, int) and index < 0:
        index = size + index
    if isinstance(index, int) and len(_places(node)) >= SEVERAL:
        found = entry(builder, value, axis, index)
        if found is not None:
            return found
    return _without(builder, slice_axis(builder, value, axis, index, index + 1), axis)


def _places(node: fx.Node) -> set[Any]:
    """Return the places along an axis at which the source of a ``select`` is read by itself and its like."""
    source, axis = node.args[0], axis_of(node)
    assert isinstance(source, fx.Node)
    return {user.args[2] for user in source.users if user.target is node.target and axis_of(user) == axis}


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
    return _joined(builder, [builder.of(a, dtype) for a in parts], axis, builder.sizes(node))


def _joined(builder: GraphBuilder, parts: Sequence[Value], axis: int, sizes: Sequence[Size]) -> Value:
    """Concatenate; entries of a new axis are laid side by side along the next one, which needs no reshape of each."""
    if len(parts) >= SEVERAL and axis + 1 < len(sizes) and all(part.sizes[axis] == 1 for part in parts):
        merged = [*sizes[:axis], sizes[axis + 1] * len(parts), *sizes[axis + 2 :]]
        joined = concatenate(builder, [_without(builder, part, axis) for part in parts], axis, merged)
        return view(builder, joined, sizes)
    return concatenate(builder, parts, axis, sizes)


def _stack(builder: GraphBuilder, node: fx.Node) -> Value:
    dtype, sizes = dtype_of(node), builder.sizes(node)
    axis = int(argument_of(node, 1, "dim", 0)) % len(sizes)
    row = [*sizes[:axis], 1, *sizes[axis + 1 :]]
    return _joined(builder, [view(builder, builder.of(a, dtype), row) for a in node.args[0]], axis, sizes)  # type: ignore[union-attr]


def _split(builder: GraphBuilder, node: fx.Node) -> tuple[Value, ...]:
    value = builder.of(node.args[0])
    axis = axis_of(node, 2)
    pieces: list[Value] = []
    start: Size = 0
    for fake in node.meta["val"]:
        length = builder.size(fake.shape[axis])
        pieces.append(slice_axis(builder, value, axis, start, start + length))
        start = start + length
    return tuple(pieces)


def _unbind(builder: GraphBuilder, node: fx.Node) -> tuple[Value, ...]:
    value = builder.of(node.args[0])
    axis = axis_of(node)
    return tuple(
        _without(builder, slice_axis(builder, value, axis, i, i + 1), axis)
        for i in range(len(node.meta["val"]))
    )


def _constant_pad(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.of(node.args[0], dtype_of(node))
    number = argument_of(node, 2, "value", 0)
    return pad(builder, value, pads_of(node), number)


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
    axis = axis_of(node, 2)
    if argument_of(node, 5, "step", 1) != 1:
        raise UnsupportedOperatorError(
            "aten.slice_scatter with a step has no lowering: use torch.cat instead."
        )
    size = value.sizes[axis]
    start = bound(builder, argument_of(node, 3, "start"), size, 0)
    stop = bound(builder, argument_of(node, 4, "end"), size, size)
    return _replaced(builder, value, source, axis, start, stop)


def _select_scatter(builder: GraphBuilder, node: fx.Node) -> Value:
    value, source = builder.of(node.args[0], dtype_of(node)), builder.of(node.args[1], dtype_of(node))
    axis = axis_of(node, 2)
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
    "permute": _permute, "transpose": _permute, "t": _permute, "expand": _expand, "slice": _slice,
    "select": _select, "cat": _cat, "stack": _stack, "split": _split, "split_with_sizes": _split, "unbind": _unbind,
    "constant_pad_nd": _constant_pad, "flip": _flip, "repeat": _repeat,
    "slice_scatter": _slice_scatter, "select_scatter": _select_scatter,
}  # fmt: skip
