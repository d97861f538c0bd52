"""Sums of scattered values: SCATTER_ND adds what meets, in the order of the indices, on one thread."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from nagedge.backends.tflite_lowering.broadcasting import broadcast
from nagedge.backends.tflite_lowering.builder import FLOAT, INT, GraphBuilder, Value
from nagedge.backends.tflite_lowering.gathers import flat_places
from nagedge.backends.tflite_lowering.model import Size, product_of
from nagedge.backends.traced import axis_of

__all__ = ["RULES"]

Rule = Callable[[GraphBuilder, fx.Node], Value]


def _scatter_add(builder: GraphBuilder, node: fx.Node) -> Value:
    """``torch.scatter_add``: whole rows where each has one index, else value by value into a flat tensor."""
    x, indices, source = builder.of(node.args[0]), builder.of(node.args[2], INT), builder.of(node.args[3])
    axis = axis_of(node)
    if axis == 0 and _one_a_row(builder, indices):
        places = builder.reshape(indices.tensor, [indices.sizes[0], 1])
        made = _scattered(builder, places, builder.dense(source), x.sizes)
    else:
        total, count = product_of(x.sizes), product_of(indices.sizes)
        places = builder.reshape(flat_places(builder, x.sizes, indices, axis), [count, 1])
        flat = _scattered(builder, places, builder.reshape(builder.dense(source), [count]), [total])
        made = builder.reshape(flat, x.sizes)
    total_value = Value(made, tuple(range(x.rank)), x.sizes)
    data = builder.tensors[x.tensor].data
    if data is not None and not data.any():
        return total_value
    return broadcast(builder, "ADD", [x, total_value], FLOAT)


def _one_a_row(builder: GraphBuilder, indices: Value) -> bool:
    """Whether the indices are one column, expanded."""
    stored = builder.stored(indices)
    return all(axis == 0 or stored[place] == 1 for place, axis in enumerate(indices.order))


def _scattered(builder: GraphBuilder, places: int, values: int, sizes: tuple[Size, ...] | list[Size]) -> int:
    return builder.add("SCATTER_ND", [places, values, builder.shape(sizes)], sizes, FLOAT)


RULES: dict[str, Rule] = {"scatter_add": _scatter_add}
