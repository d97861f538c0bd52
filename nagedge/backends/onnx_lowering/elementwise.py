"""Elementwise operators: arithmetic, comparisons, activations, casts and filled tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from nagedge.backends.onnx_lowering.builder import GraphBuilder, Number
from nagedge.backends.traced import (
    FILLED,
    argument_of,
    as_stored,
    compared_dtype,
    dtype_of,
    fill_argument,
    range_of,
    short_name,
)

__all__ = ["RULES", "filled_value"]

Rule = Callable[[GraphBuilder, fx.Node], Any]

_KEEPS_VALUE = {
    "expand",
    "view",
    "reshape",
    "unsqueeze",
    "_unsafe_view",
    "permute",
    "squeeze",
    "slice",
    "clone",
}


def filled_value(argument: Any) -> Number | None:
    """Return the number that every element of an fx argument has, or None when that is not known."""
    while isinstance(argument, fx.Node) and argument.op == "call_function":
        name = short_name(argument)
        if name in FILLED:
            value = fill_argument(argument)
            return None if isinstance(value, fx.Node) else as_stored(value, dtype_of(argument))
        if name not in _KEEPS_VALUE:
            return None
        argument = argument.args[0]
    return argument if isinstance(argument, (int, float, bool)) else None


def operands(
    builder: GraphBuilder, node: fx.Node, arguments: list[Any], dtype: torch.dtype, beside: Sequence[Any] = ()
) -> list[str]:
    """Return the operands' names in ``dtype``; a filled tensor becomes a scalar where broadcasting restores its shape.

    A scalar gets the result's rank where the result ends in an axis of one value: ONNX Runtime (1.31) broadcasts value
    by value there, ``[8, 288, 1, 1]`` by a scalar without dimensions in 19 us and by ``[1, 1, 1, 1]`` in 2.

    Args:
        builder, node, dtype: where, for what and as what.
        arguments: the operands.
        beside: further operands, of other dtypes, that broadcast with them.
    """
    result_shape = _shape(node)
    rank = len(result_shape) if result_shape and result_shape[-1] == "1" else 0
    names = []
    for i, argument in enumerate(arguments):
        value = filled_value(argument)
        others = [a for j, a in enumerate(arguments) if j != i] + list(beside)
        is_number = not isinstance(argument, fx.Node)
        if value is not None and (is_number or any(_shape(other) == result_shape for other in others)):
            names.append(builder.scalar(value, dtype, rank))
            continue
        name = builder.tensor(argument, dtype)
        sizes = _shape(argument) or ()
        has_one_value = set(sizes) <= {"1"} and len(sizes) < rank
        names.append(builder.one_value(name, rank) if has_one_value else name)
    return names


def _shape(argument: Any) -> tuple[str, ...] | None:
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    return tuple(str(s) for s in value.shape) if isinstance(value, torch.Tensor) else None


def _unary(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        return builder.add(op, [builder.tensor(node.args[0], dtype_of(node))])

    return rule


def _rounding(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        dtype = dtype_of(node)
        x = builder.tensor(node.args[0])
        if not dtype.is_floating_point:
            return x
        decimals = int(node.kwargs.get("decimals", 0))  # type: ignore[arg-type]
        if not decimals:
            return builder.add(op, [x])
        power = builder.scalar(10.0 ** abs(decimals), dtype)
        there, back = ("Mul", "Div") if decimals > 0 else ("Div", "Mul")
        return builder.add(back, [builder.add(op, [builder.add(there, [x, power])]), power])

    return rule


def _relu(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    x = builder.tensor(node.args[0])
    return (
        builder.add("Relu", [x])
        if dtype.is_floating_point
        else builder.add("Max", [x, builder.scalar(0, dtype)])
    )


_OF_FLAGS = {"Add": "Or", "Mul": "And", "Max": "Or", "Min": "And"}


def _binary(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        dtype = dtype_of(node)
        name = _OF_FLAGS[op] if dtype == torch.bool else op
        return builder.add(name, operands(builder, node, list(node.args[:2]), dtype))

    return rule


def _add_like(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        dtype = dtype_of(node)
        left, right = operands(builder, node, list(node.args[:2]), dtype)
        alpha = argument_of(node, 2, "alpha", 1)
        if alpha != 1:
            right = builder.add("Mul", [right, builder.tensor(alpha, dtype)])
        return builder.add(_OF_FLAGS[op] if dtype == torch.bool else op, [left, right])

    return rule


def _rsub(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    left, right = operands(builder, node, list(node.args[:2]), dtype)
    alpha = argument_of(node, 2, "alpha", 1)
    if alpha != 1:
        left = builder.add("Mul", [left, builder.tensor(alpha, dtype)])
    return builder.add("Sub", [right, left])


def _comparison(op: str, *, negate: bool = False) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        dtype = compared_dtype(node.args[:2])
        if dtype == torch.bool and op != "Equal":
            dtype = torch.int32
        result = builder.add(op, operands(builder, node, list(node.args[:2]), dtype))
        return builder.add("Not", [result]) if negate else result

    return rule


def _logical(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        return builder.add(op, operands(builder, node, list(node.args[:2]), torch.bool))

    return rule


def _not(builder: GraphBuilder, node: fx.Node) -> str:
    return builder.add("Not", [builder.tensor(node.args[0], torch.bool)])


def _bitwise(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        dtype = dtype_of(node)
        name = op if dtype == torch.bool else f"Bitwise{op}"
        return builder.add(name, operands(builder, node, list(node.args[:2]), dtype))

    return rule


def _bitwise_not(builder: GraphBuilder, node: fx.Node) -> str:
    name = "Not" if dtype_of(node) == torch.bool else "BitwiseNot"
    return builder.add(name, [builder.tensor(node.args[0])])


def _div(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    left, right = operands(builder, node, list(node.args[:2]), dtype)
    mode = node.kwargs.get("rounding_mode")
    if mode == "floor":  # as torch does it: the quotient of what the remainder leaves, so that 1 // 0.1 is 9
        exact = builder.add("Div", [builder.add("Sub", [left, _modulo(builder, left, right, dtype)]), right])
        return builder.add("Round", [exact]) if dtype.is_floating_point else exact
    quotient = builder.add("Div", [left, right])
    if mode is None or not dtype.is_floating_point:
        return quotient
    return builder.add(
        "Mul", [builder.add("Sign", [quotient]), builder.add("Floor", [builder.add("Abs", [quotient])])]
    )


def _pow(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    base, exponent = node.args[:2]
    if isinstance(exponent, (int, float)):
        name = builder.tensor(base, dtype)
        simple: dict[float, Callable[[], str]] = {
            1.0: lambda: name,
            2.0: lambda: builder.add("Mul", [name, name]),
            3.0: lambda: builder.add("Mul", [builder.add("Mul", [name, name]), name]),
            0.5: lambda: builder.add("Sqrt", [name]),
            -1.0: lambda: builder.add("Reciprocal", [name]),
            -0.5: lambda: builder.add("Reciprocal", [builder.add("Sqrt", [name])]),
        }
        if float(exponent) in simple and dtype.is_floating_point:
            return simple[float(exponent)]()
    return builder.add("Pow", operands(builder, node, [base, exponent], dtype))


def _rsqrt(builder: GraphBuilder, node: fx.Node) -> str:
    return builder.add("Reciprocal", [builder.add("Sqrt", [builder.tensor(node.args[0], dtype_of(node))])])


def _log1p(builder: GraphBuilder, node: fx.Node) -> str:
    # Near 0, log1p(x) = 2 atanh(x / (x + 2)) keeps the precision that log(1 + x) loses. Far from 0 the ratio rounds to
    # 1, while log(1 + x) is exact enough.
    dtype = dtype_of(node)
    x = builder.tensor(node.args[0], dtype)
    ratio = builder.add("Div", [x, builder.add("Add", [x, builder.scalar(2, dtype)])])
    near = builder.add("Mul", [builder.add("Atanh", [ratio]), builder.scalar(2, dtype)])
    far = builder.add("Log", [builder.add("Add", [x, builder.scalar(1, dtype)])])
    is_far = builder.add("Greater", [x, builder.scalar(1, dtype)])
    return builder.add("Where", [is_far, far, near])


def _expm1(builder: GraphBuilder, node: fx.Node) -> str:
    # expm1(x) = tanh(x / 2) (exp(x) + 1): keeps its precision near 0, unlike exp(x) - 1, and -1 far below it
    dtype = dtype_of(node)
    x = builder.tensor(node.args[0], dtype)
    half = builder.add("Mul", [x, builder.scalar(0.5, dtype)])
    factor = builder.add("Add", [builder.add("Exp", [x]), builder.scalar(1, dtype)])
    return builder.add("Mul", [builder.add("Tanh", [half]), factor])


def _line(argument: Any, dtype: torch.dtype) -> tuple[Any, float, float]:
    """Return ``x``, slope and offset where an argument is ``slope * x + offset``, with numbers for the two."""
    slope, offset = 1.0, 0.0
    if _is_by_number(argument, "add", dtype):
        argument, offset = argument.args[0], float(argument.args[1])
    if _is_by_number(argument, "mul", dtype):
        argument, slope = argument.args[0], float(argument.args[1])
    return argument, slope, offset


def _is_by_number(argument: Any, name: str, dtype: torch.dtype) -> bool:
    return (
        isinstance(argument, fx.Node) and argument.op == "call_function" and short_name(argument) == name
        and len(argument.args) == 2 and not argument.kwargs and isinstance(argument.args[1], (int, float))
        and isinstance(argument.args[0], fx.Node) and dtype_of(argument.args[0]) == dtype
    )  # fmt: skip


def _clamp(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    low = node.kwargs.get("min", node.args[1] if len(node.args) > 1 else None)
    high = node.kwargs.get("max", node.args[2] if len(node.args) > 2 else None)
    if (low, high) == (0, 1) and dtype.is_floating_point:
        x, slope, offset = _line(node.args[0], dtype)
        if x is not node.args[0]:
            return builder.add("HardSigmoid", [builder.tensor(x, dtype)], alpha=slope, beta=offset)
    result = builder.tensor(node.args[0], dtype)
    if not any(isinstance(bound, fx.Node) for bound in (low, high)):
        names = ["" if bound is None else builder.scalar(bound, dtype) for bound in (low, high)]  # type: ignore[arg-type]
        return builder.add("Clip", [result, *names])
    if low is not None:
        result = builder.add("Max", [result, builder.tensor(low, dtype)])
    if high is not None:
        result = builder.add("Min", [result, builder.tensor(high, dtype)])
    return result


def _clamp_one_side(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        dtype = dtype_of(node)
        return builder.add(op, [builder.tensor(node.args[0], dtype), builder.tensor(node.args[1], dtype)])

    return rule


def _where(builder: GraphBuilder, node: fx.Node) -> str:
    condition, left, right = node.args
    dtype = dtype_of(node)
    names = operands(builder, node, [left, right], dtype, beside=[condition])
    return builder.add("Where", [builder.tensor(condition, torch.bool), *names])


def _masked_fill(builder: GraphBuilder, node: fx.Node) -> str:
    x, mask, value = node.args
    dtype = dtype_of(node)
    return builder.add(
        "Where", [builder.tensor(mask, torch.bool), builder.tensor(value, dtype), builder.tensor(x, dtype)]
    )


def _cast(builder: GraphBuilder, node: fx.Node) -> str:
    return builder.tensor(node.args[0], dtype_of(node))


def _identity(builder: GraphBuilder, node: fx.Node) -> str:
    return builder.tensor(node.args[0])


def _filled(builder: GraphBuilder, node: fx.Node) -> str:
    value = filled_value(node)
    dtype = dtype_of(node)
    scalar = builder.tensor(fill_argument(node), dtype) if value is None else builder.scalar(value, dtype)
    sizes = list(node.meta["val"].shape)
    return builder.add("Expand", [scalar, builder.shape(sizes)]) if sizes else scalar


def _arange(builder: GraphBuilder, node: fx.Node) -> str:
    start, end, step = range_of(node)
    dtype = dtype_of(node)
    if not any(isinstance(a, fx.Node) for a in (start, end, step)):
        return builder.constant(torch.arange(start, end, step, dtype=dtype).numpy())
    return builder.add("Range", [builder.tensor(a, dtype) for a in (start, end, step)])


def _hardsigmoid(builder: GraphBuilder, node: fx.Node) -> str:
    return builder.add("HardSigmoid", [builder.tensor(node.args[0])], alpha=1 / 6, beta=0.5)


def _elu(builder: GraphBuilder, node: fx.Node) -> str:
    alpha = float(argument_of(node, 1, "alpha", 1.0))
    scale, input_scale = argument_of(node, 2, "scale", 1.0), argument_of(node, 3, "input_scale", 1.0)
    x = builder.tensor(node.args[0])
    dtype = dtype_of(node)
    if input_scale == 1.0:
        result = builder.add("Elu", [x], alpha=alpha)
    else:
        scaled = builder.add(
            "Elu", [builder.add("Mul", [x, builder.scalar(input_scale, dtype)])], alpha=alpha
        )
        condition = builder.add("Greater", [x, builder.scalar(0, dtype)])
        result = builder.add("Where", [condition, x, scaled])
    return result if scale == 1.0 else builder.add("Mul", [result, builder.scalar(scale, dtype)])


def _leaky_relu(builder: GraphBuilder, node: fx.Node) -> str:
    slope = float(argument_of(node, 1, "negative_slope", 0.01))
    return builder.add("LeakyRelu", [builder.tensor(node.args[0])], alpha=slope)


def _softplus(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    beta = float(argument_of(node, 1, "beta", 1.0))
    threshold = float(argument_of(node, 2, "threshold", 20.0))
    x = builder.tensor(node.args[0])
    scaled = x if math.isclose(beta, 1.0) else builder.add("Mul", [x, builder.scalar(beta, dtype)])
    soft = builder.add("Softplus", [scaled])
    if not math.isclose(beta, 1.0):
        soft = builder.add("Div", [soft, builder.scalar(beta, dtype)])
    linear = builder.add("Greater", [scaled, builder.scalar(threshold, dtype)])
    return builder.add("Where", [linear, x, soft])


def _modulo(builder: GraphBuilder, left: str, right: str, dtype: torch.dtype) -> str:
    """Return the remainder with the sign of the divisor, exactly as torch and Python have it."""
    if not dtype.is_floating_point:
        return builder.add("Mod", [left, right])
    rest = builder.add("Mod", [left, right], fmod=1)  # with the sign of the dividend
    opposite = builder.add(
        "Less", [builder.add("Mul", [builder.add("Sign", [rest]), right]), builder.scalar(0, dtype)]
    )
    return builder.add("Where", [opposite, builder.add("Add", [rest, right]), rest])


def _remainder(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    left, right = operands(builder, node, list(node.args[:2]), dtype)
    return _modulo(builder, left, right, dtype)


def _fmod(builder: GraphBuilder, node: fx.Node) -> str:
    return builder.add("Mod", operands(builder, node, list(node.args[:2]), dtype_of(node)), fmod=1)


def _not_equal(builder: GraphBuilder, node: fx.Node) -> str:
    result: str = _comparison("Equal", negate=True)(builder, node)
    return result


RULES: dict[str, Rule] = {
    **{name: _unary(op) for name, op in {
        "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "sign": "Sign", "tanh": "Tanh",
        "sigmoid": "Sigmoid", "erf": "Erf", "sin": "Sin", "cos": "Cos", "tan": "Tan", "atan": "Atan",
        "reciprocal": "Reciprocal", "hardswish": "HardSwish",
        "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh", "asin": "Asin",
        "acos": "Acos",
    }.items()},
    "floor": _rounding("Floor"), "ceil": _rounding("Ceil"), "round": _rounding("Round"), "relu": _relu,
    "mul": _binary("Mul"), "maximum": _binary("Max"), "minimum": _binary("Min"),
    "add": _add_like("Add"), "sub": _add_like("Sub"), "rsub": _rsub, "div": _div, "pow": _pow,
    "eq": _comparison("Equal"), "ne": _not_equal, "lt": _comparison("Less"), "le": _comparison("LessOrEqual"),
    "gt": _comparison("Greater"), "ge": _comparison("GreaterOrEqual"),
    "logical_and": _logical("And"), "logical_or": _logical("Or"), "logical_xor": _logical("Xor"), "logical_not": _not,
    "bitwise_and": _bitwise("And"), "bitwise_or": _bitwise("Or"), "bitwise_xor": _bitwise("Xor"),
    "bitwise_not": _bitwise_not,
    "rsqrt": _rsqrt, "log1p": _log1p, "expm1": _expm1, "clamp": _clamp, "clamp_min": _clamp_one_side("Max"),
    "clamp_max": _clamp_one_side("Min"), "where": _where, "masked_fill": _masked_fill, "_to_copy": _cast,
    "clone": _identity, "alias": _identity, "detach": _identity, "lift_fresh_copy": _identity, "contiguous": _identity,
    **dict.fromkeys(sorted(FILLED), _filled),
    "arange": _arange, "hardsigmoid": _hardsigmoid, "elu": _elu, "leaky_relu": _leaky_relu, "softplus": _softplus,
    "remainder": _remainder, "fmod": _fmod,
}  # fmt: skip
