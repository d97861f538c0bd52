"""Elementwise operators: arithmetic, comparisons, logic, casts and filled tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from nagedge.backends.tflite_lowering.broadcasting import broadcast, unary
from nagedge.backends.tflite_lowering.builder import (
    BOOL,
    FLOAT,
    INT,
    GraphBuilder,
    Value,
    dtype_of,
    stored_dtype,
)
from nagedge.backends.traced import FILLED, argument_of, compared_dtype, fill_argument, range_of
from nagedge.errors import UnsupportedOperatorError

__all__ = ["RULES"]

Rule = Callable[[GraphBuilder, fx.Node], Any]

_OF_FLAGS = {"ADD": "LOGICAL_OR", "MUL": "LOGICAL_AND", "MAXIMUM": "LOGICAL_OR", "MINIMUM": "LOGICAL_AND"}


def _unary(kind: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> Value:
        return unary(builder, kind, builder.of(node.args[0], dtype_of(node)), dtype_of(node))

    return rule


def _rounding(kind: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> Value:
        value = builder.of(node.args[0])
        if dtype_of(node) != FLOAT:
            return value
        decimals = int(node.kwargs.get("decimals", 0))  # type: ignore[arg-type]
        if not decimals:
            return unary(builder, kind, value)
        power = builder.scalar(10.0 ** abs(decimals), FLOAT)
        there, back = ("MUL", "DIV") if decimals > 0 else ("DIV", "MUL")
        scaled = unary(builder, kind, broadcast(builder, there, [value, power]))
        return broadcast(builder, back, [scaled, power])

    return rule


def _sign(builder: GraphBuilder, node: fx.Node) -> Value:
    return builder.cast(unary(builder, "SIGN", builder.of(node.args[0], FLOAT)), dtype_of(node))


def _reciprocal(builder: GraphBuilder, node: fx.Node) -> Value:
    return broadcast(builder, "DIV", [builder.scalar(1, FLOAT), builder.of(node.args[0], FLOAT)])


def _binary(kind: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> Value:
        dtype = dtype_of(node)
        operands = [builder.of(argument, dtype) for argument in node.args[:2]]
        name = _OF_FLAGS[kind] if dtype == BOOL else kind
        return broadcast(builder, name, operands, dtype, builder.sizes(node))

    return rule


def _add_like(kind: str, *, reverse: bool = False) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> Value:
        dtype = dtype_of(node)
        left, right = (builder.of(argument, dtype) for argument in node.args[:2])
        alpha = argument_of(node, 2, "alpha", 1)
        scaled = left if reverse else right
        if alpha != 1:
            scaled = broadcast(builder, "MUL", [scaled, builder.of(alpha, dtype)], dtype)
        operands = [right, scaled] if reverse else [left, scaled]
        name = _OF_FLAGS[kind] if dtype == BOOL else kind
        return broadcast(builder, name, operands, dtype, builder.sizes(node))

    return rule


def _mul(builder: GraphBuilder, node: fx.Node) -> Value:
    left, right = node.args[:2]
    if left is right and dtype_of(node) == FLOAT:
        return unary(builder, "SQUARE", builder.of(left, FLOAT))
    for factor, other in ((left, right), (right, left)):
        if factor == 1 and isinstance(other, fx.Node) and dtype_of(other) == dtype_of(node):
            return builder.of(other)  # of torch's own decompositions: a whole pass for nothing
    result: Value = _binary("MUL")(builder, node)
    return result


def _div(builder: GraphBuilder, node: fx.Node) -> Value:
    dtype = dtype_of(node)
    left, right = (builder.of(argument, dtype) for argument in node.args[:2])
    mode = node.kwargs.get("rounding_mode")
    if mode is None:
        return broadcast(builder, "DIV", [left, right], dtype, builder.sizes(node))
    if mode == "floor" and dtype == FLOAT:
        # as torch does it: the quotient of what the remainder leaves, so that 1 // 0.1 is 9
        rest = broadcast(builder, "FLOOR_MOD", [left, right], dtype)
        exact = broadcast(builder, "DIV", [broadcast(builder, "SUB", [left, rest], dtype), right], dtype)
        return unary(builder, "ROUND", exact)
    if mode == "floor":
        return broadcast(builder, "FLOOR_DIV", [left, right], dtype, builder.sizes(node))
    quotient = broadcast(builder, "DIV", [left, right], dtype, builder.sizes(node))
    if dtype != FLOAT:
        return quotient  # towards zero, as in C
    down = unary(builder, "FLOOR", unary(builder, "ABS", quotient))
    return broadcast(builder, "MUL", [unary(builder, "SIGN", quotient), down])


def _remainder(builder: GraphBuilder, node: fx.Node) -> Value:
    dtype = dtype_of(node)
    operands = [builder.of(argument, dtype) for argument in node.args[:2]]
    return broadcast(builder, "FLOOR_MOD", operands, dtype, builder.sizes(node))


def _fmod(builder: GraphBuilder, node: fx.Node) -> Value:
    """The remainder with the sign of the dividend: that of the absolute values, which is exact."""
    dtype = dtype_of(node)
    left, right = (builder.of(argument, dtype) for argument in node.args[:2])

    def absolute(value: Value) -> Value:
        if dtype == FLOAT:
            return unary(builder, "ABS", value)
        return broadcast(builder, "MAXIMUM", [value, unary(builder, "NEG", value, dtype)], dtype)

    rest = broadcast(builder, "FLOOR_MOD", [absolute(left), absolute(right)], dtype)
    negative = broadcast(builder, "LESS", [left, builder.scalar(0, dtype)], BOOL)
    chosen = [negative, unary(builder, "NEG", rest, dtype), rest]
    return broadcast(builder, "SELECT_V2", chosen, dtype, builder.sizes(node))


def _comparison(kind: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> Value:
        dtype = stored_dtype(compared_dtype(node.args[:2]))
        if dtype == BOOL and kind not in ("EQUAL", "NOT_EQUAL"):
            dtype = INT
        operands = [builder.of(argument, dtype) for argument in node.args[:2]]
        return broadcast(builder, kind, operands, BOOL, builder.sizes(node))

    return rule


def _logical(kind: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> Value:
        operands = [builder.of(argument, BOOL) for argument in node.args[:2]]
        return broadcast(builder, kind, operands, BOOL, builder.sizes(node))

    return rule


def _bitwise(kind: str, of_integers: str | None = None) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> Value:
        dtype = dtype_of(node)
        if dtype == BOOL:
            result: Value = _logical(kind)(builder, node)
            return result
        if of_integers is None:
            raise UnsupportedOperatorError(
                "of integers it has no TensorFlow Lite operator: use flags (bool)."
            )
        operands = [builder.of(argument, dtype) for argument in node.args[:2]]
        return broadcast(builder, of_integers, operands, dtype, builder.sizes(node))

    return rule


def _bitwise_not(builder: GraphBuilder, node: fx.Node) -> Value:
    dtype = dtype_of(node)
    if dtype == BOOL:
        return _not(builder, node)
    return broadcast(builder, "SUB", [builder.scalar(-1, dtype), builder.of(node.args[0])], dtype)


def _not(builder: GraphBuilder, node: fx.Node) -> Value:
    return unary(builder, "LOGICAL_NOT", builder.of(node.args[0], BOOL), BOOL)


def _pow(builder: GraphBuilder, node: fx.Node) -> Value:
    dtype = dtype_of(node)
    base, exponent = node.args[:2]
    if isinstance(exponent, (int, float)) and dtype == FLOAT:
        x = builder.of(base, dtype)
        one = builder.scalar(1, FLOAT)
        simple: dict[float, Callable[[], Value]] = {
            1.0: lambda: x,
            2.0: lambda: unary(builder, "SQUARE", x),
            3.0: lambda: broadcast(builder, "MUL", [unary(builder, "SQUARE", x), x]),
            0.5: lambda: unary(builder, "SQRT", x),
            -1.0: lambda: broadcast(builder, "DIV", [one, x]),
            -2.0: lambda: broadcast(builder, "DIV", [one, unary(builder, "SQUARE", x)]),
            -0.5: lambda: broadcast(builder, "DIV", [one, unary(builder, "SQRT", x)]),
        }
        if float(exponent) in simple:
            return simple[float(exponent)]()
    operands = [builder.of(base, dtype), builder.of(exponent, dtype)]
    return broadcast(builder, "POW", operands, dtype, builder.sizes(node))


def _rsqrt(builder: GraphBuilder, node: fx.Node) -> Value:
    root = unary(builder, "SQRT", builder.of(node.args[0], FLOAT))
    return broadcast(builder, "DIV", [builder.scalar(1, FLOAT), root])


def _clamp(builder: GraphBuilder, node: fx.Node) -> Value:
    dtype = dtype_of(node)
    result = builder.of(node.args[0], dtype)
    low, high = argument_of(node, 1, "min"), argument_of(node, 2, "max")
    if dtype == FLOAT and low == 0 and (high is None or high == 6) and not isinstance(low, fx.Node):
        return unary(builder, "RELU" if high is None else "RELU6", result)
    if (
        dtype == FLOAT and low == 0 and not isinstance(low, fx.Node)
    ):  # what computes the argument may apply RELU
        result, low = unary(builder, "RELU", result), None
    for kind, bound in (("MAXIMUM", low), ("MINIMUM", high)):
        if bound is not None:
            result = broadcast(builder, kind, [result, builder.of(bound, dtype)], dtype)
    return Value(result.tensor, result.order, builder.sizes(node))


def _relu(builder: GraphBuilder, node: fx.Node) -> Value:
    dtype = dtype_of(node)
    x = builder.of(node.args[0])
    return (
        unary(builder, "RELU", x)
        if dtype == FLOAT
        else broadcast(builder, "MAXIMUM", [x, builder.scalar(0, dtype)], dtype)
    )


def _where(builder: GraphBuilder, node: fx.Node) -> Value:
    condition, left, right = node.args
    return _select(builder, node, condition, left, right)


def _masked_fill(builder: GraphBuilder, node: fx.Node) -> Value:
    x, mask, value = node.args
    return _select(builder, node, mask, value, x)


def _select(builder: GraphBuilder, node: fx.Node, condition: Any, left: Any, right: Any) -> Value:
    dtype = dtype_of(node)
    operands = [builder.of(condition, BOOL), builder.of(left, dtype), builder.of(right, dtype)]
    return broadcast(builder, "SELECT_V2", operands, dtype, builder.sizes(node))


def _cast(builder: GraphBuilder, node: fx.Node) -> Value:
    return builder.of(node.args[0], dtype_of(node))


def _filled(builder: GraphBuilder, node: fx.Node) -> Value:
    """A tensor of one number: stored as that number, expanded."""
    dtype, sizes = dtype_of(node), builder.sizes(node)
    argument = fill_argument(node)
    value = builder.of(argument, dtype) if isinstance(argument, fx.Node) else builder.scalar(argument, dtype)
    return Value(builder.reshape(value.tensor, [1] * len(sizes)), tuple(range(len(sizes))), sizes)


def _arange(builder: GraphBuilder, node: fx.Node) -> Value:
    dtype = dtype_of(node)
    bounds = [builder.of(bound, dtype).tensor for bound in range_of(node)]
    return builder.plain(builder.add("RANGE", bounds, builder.sizes(node), dtype))


RULES: dict[str, Rule] = {
    **{name: _unary(kind) for name, kind in {
        "neg": "NEG", "exp": "EXP", "log": "LOG", "sqrt": "SQRT", "abs": "ABS", "tanh": "TANH", "sigmoid": "LOGISTIC",
        "sin": "SIN", "cos": "COS", "hardswish": "HARD_SWISH", "square": "SQUARE",
    }.items()},
    "floor": _rounding("FLOOR"), "ceil": _rounding("CEIL"), "round": _rounding("ROUND"), "sign": _sign,
    "reciprocal": _reciprocal, "rsqrt": _rsqrt, "relu": _relu, "pow": _pow, "mul": _mul, "div": _div,
    "add": _add_like("ADD"), "sub": _add_like("SUB"), "rsub": _add_like("SUB", reverse=True),
    "maximum": _binary("MAXIMUM"), "minimum": _binary("MINIMUM"), "remainder": _remainder, "fmod": _fmod,
    "atan2": _binary("ATAN2"),
    "eq": _comparison("EQUAL"), "ne": _comparison("NOT_EQUAL"), "lt": _comparison("LESS"),
    "le": _comparison("LESS_EQUAL"), "gt": _comparison("GREATER"), "ge": _comparison("GREATER_EQUAL"),
    "logical_and": _logical("LOGICAL_AND"), "logical_or": _logical("LOGICAL_OR"), "logical_xor": _logical("NOT_EQUAL"),
    "logical_not": _not, "bitwise_and": _bitwise("LOGICAL_AND"), "bitwise_or": _bitwise("LOGICAL_OR"),
    "bitwise_xor": _bitwise("NOT_EQUAL", "BITWISE_XOR"), "bitwise_not": _bitwise_not,
    "clamp": _clamp, "clamp_min": _binary("MAXIMUM"), "clamp_max": _binary("MINIMUM"),
    "where": _where, "masked_fill": _masked_fill, "_to_copy": _cast,
    **dict.fromkeys(["clone", "alias", "detach", "lift_fresh_copy", "contiguous"], _cast),
    **dict.fromkeys([*sorted(FILLED), "new_ones", "empty_like", "new_empty"], _filled),
    "arange": _arange,
}  # fmt: skip
