"""Normalisations that inference graphs keep whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from nagedge.backends.tflite_lowering.broadcasting import broadcast, unary
from nagedge.backends.tflite_lowering.builder import FLOAT, GraphBuilder, Value
from nagedge.backends.tflite_lowering.reductions import reduce
from nagedge.backends.tflite_lowering.views import view

__all__ = ["RULES"]

Rule = Callable[[GraphBuilder, fx.Node], Any]


def _batch_norm(builder: GraphBuilder, node: fx.Node) -> tuple[Value, ...]:
    """One multiplication and one addition; scale and offset are computed now where they are constants."""
    x, weight, bias, mean, var, _, eps = node.args
    value = builder.of(x, FLOAT)
    row = [1, -1] + [1] * (value.rank - 2)
    given = [a for a in (weight, bias, mean, var) if a is not None]
    if all(a in builder.known for a in given):
        known = [None if a is None else builder.known[a] for a in (weight, bias, mean, var)]  # type: ignore[index]
        own_mean, own_var = known[2], known[3]
        assert own_mean is not None
        assert own_var is not None
        scale = torch.rsqrt(own_var.double() + float(eps))  # type: ignore[arg-type]
        scale = scale if known[0] is None else scale * known[0].double()
        offset = -own_mean.double() * scale + (0 if known[1] is None else known[1].double())
        factors = [builder.plain(builder.constant(t.reshape(row).numpy(), FLOAT)) for t in (scale, offset)]
    else:
        channels = value.sizes[1]
        shape = [1, channels] + [1] * (value.rank - 2)
        deviation = broadcast(builder, "ADD", [builder.of(var, FLOAT), builder.scalar(float(eps), FLOAT)])  # type: ignore[arg-type]
        factor = broadcast(builder, "DIV", [builder.scalar(1, FLOAT), unary(builder, "SQRT", deviation)])
        if weight is not None:
            factor = broadcast(builder, "MUL", [factor, builder.of(weight, FLOAT)])
        shift = unary(builder, "NEG", broadcast(builder, "MUL", [builder.of(mean, FLOAT), factor]))
        if bias is not None:
            shift = broadcast(builder, "ADD", [shift, builder.of(bias, FLOAT)])
        factors = [view(builder, t, shape) for t in (factor, shift)]
    scaled = broadcast(builder, "MUL", [value, factors[0]], FLOAT, value.sizes)
    return (broadcast(builder, "ADD", [scaled, factors[1]], FLOAT, value.sizes),)


def _layer_norm(builder: GraphBuilder, node: fx.Node) -> tuple[Value, ...]:
    x, shape, weight, bias, eps = node.args
    value = builder.of(x, FLOAT)
    axes = list(range(value.rank - len(shape), value.rank))  # type: ignore[arg-type]
    centred = broadcast(builder, "SUB", [value, reduce(builder, "MEAN", value, axes, keep=True)])
    variance = reduce(builder, "MEAN", unary(builder, "SQUARE", centred), axes, keep=True)
    root = unary(builder, "SQRT", broadcast(builder, "ADD", [variance, builder.scalar(float(eps), FLOAT)]))  # type: ignore[arg-type]
    result = broadcast(builder, "DIV", [centred, root])
    if weight is not None:
        result = broadcast(builder, "MUL", [result, builder.of(weight, FLOAT)])
    if bias is not None:
        result = broadcast(builder, "ADD", [result, builder.of(bias, FLOAT)])
    return (result,)


RULES: dict[str, Rule] = {
    "_native_batch_norm_legit_no_training": _batch_norm, "native_layer_norm": _layer_norm,
}  # fmt: skip
