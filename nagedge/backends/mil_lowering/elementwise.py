"""Elementwise operators: arithmetic, comparisons, casts and filled tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from nagedge.backends.mil_lowering.builder import ProgramBuilder, Var
from nagedge.backends.mil_lowering.operands import filled_value, materialized, operands, selected
from nagedge.backends.traced import (
    FILLED,
    argument_of,
    compared_dtype,
    dtype_of,
    fill_argument,
    range_of,
)

__all__ = ["RULES"]

Rule = Callable[[ProgramBuilder, fx.Node], Any]


def _unary(op: str) -> Rule:
    def rule(builder: ProgramBuilder, node: fx.Node) -> Var:
        return builder.add(op, x=builder.tensor(node.args[0], dtype_of(node)))

    return rule


def _neg(builder: ProgramBuilder, node: fx.Node) -> Var:
    dtype = dtype_of(node)
    return builder.add("mul", x=builder.tensor(node.args[0], dtype), y=builder.scalar(-1, dtype))


def _rounding(op: str) -> Rule:
    def rule(builder: ProgramBuilder, node: fx.Node) -> Var:
        dtype = dtype_of(node)
        x = builder.tensor(node.args[0])
        if not dtype.is_floating_point:
            return x
        decimals = int(node.kwargs.get("decimals", 0))  # type: ignore[arg-type]
        if not decimals:
            return builder.add(op, x=x)
        power = builder.scalar(10.0 ** abs(decimals), dtype)
        there, back = ("mul", "real_div") if decimals > 0 else ("real_div", "mul")
        return builder.add(back, x=builder.add(op, x=builder.add(there, x=x, y=power)), y=power)

    return rule


_OF_FLAGS = {"add": "logical_or", "mul": "logical_and", "maximum": "logical_or", "minimum": "logical_and"}


def _binary(op: str) -> Rule:
    def rule(builder: ProgramBuilder, node: fx.Node) -> Var:
        dtype = dtype_of(node)
        left, right = operands(builder, node, node.args[:2], dtype)
        return builder.add(_OF_FLAGS[op] if dtype == torch.bool else op, x=left, y=right)

    return rule


def _add_like(op: str, *, swapped: bool = False) -> Rule:
    def rule(builder: ProgramBuilder, node: fx.Node) -> Var:
        dtype = dtype_of(node)
        left, right = operands(builder, node, node.args[:2], dtype)
        alpha = argument_of(node, 2, "alpha", 1)
        if swapped:
            left, right = right, left
        if alpha != 1:
            right = builder.add("mul", x=right, y=builder.tensor(alpha, dtype))
        return builder.add(_OF_FLAGS[op] if dtype == torch.bool else op, x=left, y=right)

    return rule


def _comparison(op: str) -> Rule:
    def rule(builder: ProgramBuilder, node: fx.Node) -> Var:
        dtype = compared_dtype(node.args[:2])
        if dtype == torch.bool:
            dtype = torch.int32
        left, right = operands(builder, node, node.args[:2], dtype)
        return builder.add(op, x=left, y=right)

    return rule


def _logical(op: str) -> Rule:
    def rule(builder: ProgramBuilder, node: fx.Node) -> Var:
        left, right = operands(builder, node, node.args[:2], torch.bool)
        return builder.add(op, x=left, y=right)

    return rule


def _not(builder: ProgramBuilder, node: fx.Node) -> Var:
    return builder.add("logical_not", x=builder.tensor(node.args[0], torch.bool))


def _div(builder: ProgramBuilder, node: fx.Node) -> Var:
    dtype = dtype_of(node)
    left, right = operands(builder, node, node.args[:2], dtype)
    mode = node.kwargs.get("rounding_mode")
    if mode is None:
        return builder.add("real_div", x=left, y=right)
    if not dtype.is_floating_point:
        if mode == "floor":
            return builder.add("floor_div", x=left, y=right)
        magnitude = builder.add("floor_div", x=builder.add("abs", x=left), y=builder.add("abs", x=right))
        signs = builder.add("mul", x=builder.add("sign", x=left), y=builder.add("sign", x=right))
        return builder.add("mul", x=magnitude, y=signs)
    if mode == "floor":  # as torch does it: the quotient of what the remainder leaves, so that 1 // 0.1 is 9
        rest = builder.add("sub", x=left, y=_modulo(builder, left, right))
        return builder.add("round", x=builder.add("real_div", x=rest, y=right))
    quotient = builder.add("real_div", x=left, y=right)
    whole = builder.add("floor", x=builder.add("abs", x=quotient))
    return builder.add("mul", x=builder.add("sign", x=quotient), y=whole)


def _modulo(builder: ProgramBuilder, left: Var, right: Var) -> Var:
    return builder.add("mod", x=left, y=right)


def _remainder(builder: ProgramBuilder, node: fx.Node) -> Var:
    left, right = operands(builder, node, node.args[:2], dtype_of(node))
    return _modulo(builder, left, right)


def _pow(builder: ProgramBuilder, node: fx.Node) -> Var:
    dtype = dtype_of(node)
    base, exponent = node.args[:2]
    if isinstance(exponent, (int, float)):
        x = builder.tensor(base, dtype)
        simple: dict[float, Callable[[], Var]] = {
            1.0: lambda: x,
            2.0: lambda: builder.add("mul", x=x, y=x),
            3.0: lambda: builder.add("mul", x=builder.add("mul", x=x, y=x), y=x),
            0.5: lambda: builder.add("sqrt", x=x),
            -1.0: lambda: reciprocal(builder, x),
            -0.5: lambda: reciprocal(builder, builder.add("sqrt", x=x)),
        }
        if float(exponent) in simple and dtype.is_floating_point:
            return simple[float(exponent)]()
    left, right = operands(builder, node, [base, exponent], dtype)
    if dtype.is_floating_point:
        return builder.add("pow", x=left, y=right)
    power = builder.add("pow", x=builder.cast(left, torch.float32), y=builder.cast(right, torch.float32))
    return builder.cast(builder.add("round", x=power), dtype)


def reciprocal(builder: ProgramBuilder, x: Var) -> Var:
    """Return ``1 / x``; MIL's own ``inverse`` adds an epsilon to ``x``."""
    return builder.add("real_div", x=builder.scalar(1.0, torch.float32), y=x)


def _reciprocal(builder: ProgramBuilder, node: fx.Node) -> Var:
    return reciprocal(builder, builder.tensor(node.args[0], dtype_of(node)))


def _rsqrt(builder: ProgramBuilder, node: fx.Node) -> Var:
    return reciprocal(builder, builder.add("sqrt", x=builder.tensor(node.args[0], dtype_of(node))))


def _log(builder: ProgramBuilder, x: Var) -> Var:
    """Logarithm without MIL's default epsilon, by which log(0) would be -103."""
    return builder.add("log", x=x, epsilon=builder.scalar(0.0, torch.float32))


def _log_rule(builder: ProgramBuilder, node: fx.Node) -> Var:
    return _log(builder, builder.tensor(node.args[0], dtype_of(node)))


def _log1p(builder: ProgramBuilder, node: fx.Node) -> Var:
    # Near 0, log1p(x) = 2 atanh(x / (x + 2)) keeps the precision that log(1 + x) loses. Far from 0 the ratio rounds to
    # 1, while log(1 + x) is exact enough.
    dtype = dtype_of(node)
    x = builder.tensor(node.args[0], dtype)
    one, two = builder.scalar(1, dtype), builder.scalar(2, dtype)
    ratio = builder.add("real_div", x=x, y=builder.add("add", x=x, y=two))
    near = builder.add("mul", x=builder.add("atanh", x=ratio), y=two)
    far = _log(builder, builder.add("add", x=x, y=one))
    return builder.add("select", cond=builder.add("greater", x=x, y=one), a=far, b=near)


def _expm1(builder: ProgramBuilder, node: fx.Node) -> Var:
    # expm1(x) = tanh(x / 2) (exp(x) + 1): keeps its precision near 0, unlike exp(x) - 1, and -1 far below it
    dtype = dtype_of(node)
    x = builder.tensor(node.args[0], dtype)
    half = builder.add("mul", x=x, y=builder.scalar(0.5, dtype))
    factor = builder.add("add", x=builder.add("exp", x=x), y=builder.scalar(1, dtype))
    return builder.add("mul", x=builder.add("tanh", x=half), y=factor)


def _clamp(builder: ProgramBuilder, node: fx.Node) -> Var:
    dtype = dtype_of(node)
    result = builder.tensor(node.args[0], dtype)
    for op, name, index in (("maximum", "min", 1), ("minimum", "max", 2)):
        bound = argument_of(node, index, name)
        if bound is not None:
            result = builder.add(op, x=result, y=builder.tensor(bound, dtype))
    return result


def _where(builder: ProgramBuilder, node: fx.Node) -> Var:
    return selected(builder, node, *node.args)


def _masked_fill(builder: ProgramBuilder, node: fx.Node) -> Var:
    x, mask, value = node.args
    return selected(builder, node, mask, value, x)


def _cast(builder: ProgramBuilder, node: fx.Node) -> Var:
    return builder.tensor(node.args[0], dtype_of(node))


def _identity(builder: ProgramBuilder, node: fx.Node) -> Var:
    return builder.tensor(node.args[0])


def _filled(builder: ProgramBuilder, node: fx.Node) -> Var:
    value = filled_value(node)
    dtype = dtype_of(node)
    sizes = list(node.meta["val"].shape)
    if value is None:
        scalar = builder.tensor(fill_argument(node), dtype)
        return materialized(builder, scalar, [], builder.sizes(sizes))
    if not sizes:
        return builder.scalar(value, dtype)
    return builder.add("fill", shape=builder.vector(sizes), value=builder.scalar(value, dtype))


def _arange(builder: ProgramBuilder, node: fx.Node) -> Var:
    start, end, step = (builder.tensor(bound, dtype_of(node)) for bound in range_of(node))
    return builder.add("range_1d", start=start, end=end, step=step)


RULES: dict[str, Rule] = {
    **{name: _unary(name) for name in (
        "exp", "sqrt", "abs", "sign", "tanh", "sigmoid", "erf", "sin", "cos", "tan", "atan", "sinh", "cosh", "atanh",
        "asin", "acos",
    )},
    "neg": _neg, "floor": _rounding("floor"), "ceil": _rounding("ceil"), "round": _rounding("round"),
    "mul": _binary("mul"), "maximum": _binary("maximum"), "minimum": _binary("minimum"), "add": _add_like("add"),
    "sub": _add_like("sub"), "rsub": _add_like("sub", swapped=True), "div": _div, "pow": _pow,
    "eq": _comparison("equal"), "ne": _comparison("not_equal"), "lt": _comparison("less"),
    "le": _comparison("less_equal"), "gt": _comparison("greater"), "ge": _comparison("greater_equal"),
    "logical_and": _logical("logical_and"), "logical_or": _logical("logical_or"),
    "logical_xor": _logical("logical_xor"), "logical_not": _not, "reciprocal": _reciprocal, "rsqrt": _rsqrt,
    "log": _log_rule, "log1p": _log1p, "expm1": _expm1, "clamp": _clamp, "where": _where, "masked_fill": _masked_fill,
    "_to_copy": _cast, "clone": _identity, "alias": _identity, "detach": _identity, "lift_fresh_copy": _identity,
    "contiguous": _identity, **dict.fromkeys(sorted(FILLED), _filled), "arange": _arange,
    "remainder": _remainder,
}  # fmt: skip
