"""Activation functions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from nagedge.backends.mil_lowering.builder import ProgramBuilder, Var
from nagedge.backends.traced import argument_of, dtype_of

__all__ = ["RULES"]

Rule = Callable[[ProgramBuilder, fx.Node], Any]


def _relu(builder: ProgramBuilder, node: fx.Node) -> Var:
    dtype = dtype_of(node)
    x = builder.tensor(node.args[0])
    return (
        builder.add("relu", x=x)
        if dtype.is_floating_point
        else builder.add("maximum", x=x, y=builder.scalar(0, dtype))
    )


def _hardsigmoid(builder: ProgramBuilder, node: fx.Node) -> Var:
    return _sigmoid_hard(builder, builder.tensor(node.args[0]))


def _sigmoid_hard(builder: ProgramBuilder, x: Var) -> Var:
    dtype = torch.float32
    return builder.add(
        "sigmoid_hard", x=x, alpha=builder.scalar(1 / 6, dtype), beta=builder.scalar(0.5, dtype)
    )


def _hardswish(builder: ProgramBuilder, node: fx.Node) -> Var:
    x = builder.tensor(node.args[0])
    return builder.add("mul", x=x, y=_sigmoid_hard(builder, x))


def _elu(builder: ProgramBuilder, node: fx.Node) -> Var:
    alpha = float(argument_of(node, 1, "alpha", 1.0))
    scale, input_scale = argument_of(node, 2, "scale", 1.0), argument_of(node, 3, "input_scale", 1.0)
    x = builder.tensor(node.args[0])
    dtype = dtype_of(node)
    weight = builder.scalar(alpha, dtype)
    if input_scale == 1.0:
        result = builder.add("elu", x=x, alpha=weight)
    else:
        scaled = builder.add(
            "elu", x=builder.add("mul", x=x, y=builder.scalar(input_scale, dtype)), alpha=weight
        )
        positive = builder.add("greater", x=x, y=builder.scalar(0, dtype))
        result = builder.add("select", cond=positive, a=x, b=scaled)
    return result if scale == 1.0 else builder.add("mul", x=result, y=builder.scalar(scale, dtype))


def _leaky_relu(builder: ProgramBuilder, node: fx.Node) -> Var:
    slope = float(argument_of(node, 1, "negative_slope", 0.01))
    return builder.add(
        "leaky_relu", x=builder.tensor(node.args[0]), alpha=builder.scalar(slope, torch.float32)
    )


def _softplus(builder: ProgramBuilder, node: fx.Node) -> Var:
    dtype = dtype_of(node)
    beta = float(argument_of(node, 1, "beta", 1.0))
    threshold = float(argument_of(node, 2, "threshold", 20.0))
    x = builder.tensor(node.args[0])
    scaled = x if math.isclose(beta, 1.0) else builder.add("mul", x=x, y=builder.scalar(beta, dtype))
    soft = builder.add("softplus", x=scaled)
    if not math.isclose(beta, 1.0):
        soft = builder.add("real_div", x=soft, y=builder.scalar(beta, dtype))
    linear = builder.add("greater", x=scaled, y=builder.scalar(threshold, dtype))
    return builder.add("select", cond=linear, a=x, b=soft)


RULES: dict[str, Rule] = {
    "relu": _relu, "hardsigmoid": _hardsigmoid, "hardswish": _hardswish, "elu": _elu, "leaky_relu": _leaky_relu,
    "softplus": _softplus,
}  # fmt: skip
