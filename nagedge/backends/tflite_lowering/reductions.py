"""Reductions, arg-reductions, cumulative sums and softmax, over axes in any stored order."""

from __future__ import annotations

from collections.abc import Callable

from torch import fx

from nagedge.backends.tflite_lowering.broadcasting import broadcast
from nagedge.backends.tflite_lowering.builder import BOOL, FLOAT, INT, GraphBuilder, Value, dtype_of
from nagedge.backends.tflite_lowering.model import Size, product_of
from nagedge.backends.tflite_lowering.views import view
from nagedge.backends.traced import argument_of, axes_of

__all__ = ["RULES", "reduce"]

Rule = Callable[[GraphBuilder, fx.Node], Value]


def reduce(builder: GraphBuilder, kind: str, value: Value, axes: list[int], *, keep: bool) -> Value:
    """Reduce ``axes``; along an expanded axis a sum is a product, and means and extremes are what they are."""
    dtype = builder.dtype(value)
    stored = builder.stored(value)
    place = {axis: j for j, axis in enumerate(value.order)}
    repeated = [a for a in axes if stored[place[a]] == 1]
    real = [a for a in axes if a not in repeated]
    tensor, order = value.tensor, value.order
    kept: list[Size] = list(stored)
    if real:
        for axis in real:
            kept[place[axis]] = 1
        places = builder.ints(sorted(place[a] for a in real))
        if keep:
            tensor = builder.add(kind, [tensor, places], kept, dtype, keepDims=True)
        else:
            left = [size for size, axis in zip(stored, order, strict=True) if axis not in real]
            tensor = builder.add(kind, [tensor, places], left, dtype, keepDims=False)
    made = Value(tensor, order, value.sizes)
    if not keep:
        left_axes = [axis for axis in order if axis not in real]
        left = [stored[place[axis]] for axis in left_axes if axis not in repeated]
        tensor = builder.reshape(tensor, left)
        remaining = [axis for axis in left_axes if axis not in repeated]
        renumbered = {axis: i for i, axis in enumerate(sorted(remaining))}
        made = Value(
            tensor, tuple(renumbered[a] for a in remaining), tuple(value.sizes[a] for a in sorted(remaining))
        )
    else:
        made = Value(tensor, order, tuple(1 if a in axes else s for a, s in enumerate(value.sizes)))
    if kind in ("SUM", "REDUCE_PROD"):
        made = _repeat(builder, kind, made, [value.sizes[a] for a in repeated])
    return made


def _repeat(builder: GraphBuilder, kind: str, value: Value, times: list[Size]) -> Value:
    """Account for equal entries along expanded axes."""
    count = product_of(times)
    if count == 1:
        return value
    dtype = builder.dtype(value)
    if isinstance(count, int):
        number = builder.scalar(count, dtype)
    else:
        number = builder.cast(Value(builder.reshape(builder.shape([count]), ()), (), ()), dtype)
    return broadcast(builder, "MUL" if kind == "SUM" else "POW", [value, number], dtype, value.sizes)


def _reduction(kind: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> Value:
        value = builder.of(node.args[0], dtype_of(node))
        axes = axes_of(node)
        keep = bool(argument_of(node, 2, "keepdim", False))
        return reduce(builder, kind, value, axes, keep=keep) if axes else value

    return rule


def _any_all(kind: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> Value:
        value = builder.of(node.args[0], BOOL)
        axes = axes_of(node)
        return (
            reduce(builder, kind, value, axes, keep=bool(argument_of(node, 2, "keepdim", False)))
            if axes
            else value
        )

    return rule


def _arg_reduce(kind: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> Value:
        value = builder.of(node.args[0])
        axis = argument_of(node, 1, "dim", None)
        if axis is None:
            value, axis = view(builder, value, [product_of(value.sizes)]), 0
        if builder.dtype(value) == BOOL:
            value = builder.cast(value, INT)
        value = builder.whole(value)
        place = value.order.index(int(axis) % value.rank)
        stored = list(builder.stored(value))
        del stored[place]
        made = builder.add(
            kind, [value.tensor, builder.constant(place, INT)], stored, INT, outputType="INT32"
        )
        order = [a - (a > value.order[place]) for a in value.order if a != value.order[place]]
        sizes = tuple(s for a, s in enumerate(value.sizes) if a != value.order[place])
        return view(builder, Value(made, tuple(order), sizes), builder.sizes(node))

    return rule


def _cumsum(builder: GraphBuilder, node: fx.Node) -> Value:
    value = builder.whole(builder.of(node.args[0], dtype_of(node)))
    if not value.rank:
        return value
    place = value.order.index(int(node.args[1]) % value.rank)  # type: ignore[arg-type]
    dtype = builder.dtype(value)
    made = builder.add("CUMSUM", [value.tensor, builder.constant(place, INT)], builder.stored(value), dtype)
    return Value(made, value.order, value.sizes)


def _softmax(kind: str, **options: float) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> Value:
        value = builder.of(node.args[0], FLOAT)
        if not value.rank:
            value = view(builder, value, [1])
        axis = int(node.args[1]) % value.rank  # type: ignore[arg-type]
        order = (*(a for a in value.order if a != axis), axis)
        tensor = builder.dense(value, order)
        made = builder.add(kind, [tensor], builder.tensors[tensor].sizes, FLOAT, **options)
        return view(builder, Value(made, order, value.sizes), builder.sizes(node))

    return rule


RULES: dict[str, Rule] = {
    "sum": _reduction("SUM"), "mean": _reduction("MEAN"), "amax": _reduction("REDUCE_MAX"),
    "amin": _reduction("REDUCE_MIN"), "prod": _reduction("REDUCE_PROD"), "any": _any_all("REDUCE_ANY"),
    "all": _any_all("REDUCE_ALL"), "argmax": _arg_reduce("ARG_MAX"), "argmin": _arg_reduce("ARG_MIN"),
    "cumsum": _cumsum, "_softmax": _softmax("SOFTMAX", beta=1.0), "_log_softmax": _softmax("LOG_SOFTMAX"),
}  # fmt: skip
