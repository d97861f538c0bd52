"""Elementwise operators: arithmetic, comparisons, activations, casts and filled tensors."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from nagedge.backends.onnx_lowering.builder import GraphBuilder, Number, dtype_of

__all__ = ["RULES", "filled_value"]

Rule = Callable[[GraphBuilder, fx.Node], Any]

_FILLED = {"full", "full_like", "scalar_tensor", "zeros", "zeros_like", "ones", "ones_like", "new_zeros", "new_full"}
_KEEPS_VALUE = {"expand", "view", "reshape", "unsqueeze", "_unsafe_view", "permute", "squeeze", "slice", "clone"}


def short_name(node: fx.Node) -> str:
    """Return ``"add"`` for ``aten.add.Tensor``."""
    target = node.target
    return target.overloadpacket.__name__ if isinstance(target, torch._ops.OpOverload) else str(target)


def filled_value(argument: Any) -> Number | None:
    """Return the number that every element of an fx argument has, or None when that is not known."""
    while isinstance(argument, fx.Node) and argument.op == "call_function":
        name = short_name(argument)
        if name in _FILLED:
            if "zeros" in name:
                return 0
            if "ones" in name:
                return 1
            value = argument.args[{"full": 1, "full_like": 1, "new_full": 2}.get(name, 0)]
            return None if isinstance(value, fx.Node) else value  # type: ignore[return-value]
        if name not in _KEEPS_VALUE:
            return None
        argument = argument.args[0]
    return argument if isinstance(argument, (int, float, bool)) else None


def operands(builder: GraphBuilder, node: fx.Node, arguments: list[Any], dtype: torch.dtype) -> list[str]:
    """Return the operands' names in ``dtype``; a filled tensor becomes a scalar where broadcasting restores its shape."""
    result_shape = _shape(node)
    names = []
    for i, argument in enumerate(arguments):
        value = filled_value(argument) if isinstance(argument, fx.Node) else None
        others = [a for j, a in enumerate(arguments) if j != i]
        if value is not None and any(_shape(other) == result_shape for other in others):
            names.append(builder.scalar(value, dtype))
        else:
            names.append(builder.tensor(argument, dtype))
    return names


def _shape(argument: Any) -> tuple[str, ...] | None:
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    return tuple(str(s) for s in value.shape) if isinstance(value, torch.Tensor) else None


def _promoted(arguments: list[Any]) -> torch.dtype:
    """Return the dtype in which torch compares these operands."""
    values = []
    for argument in arguments:
        value = argument.meta["val"] if isinstance(argument, fx.Node) else argument
        if isinstance(value, torch.SymInt):
            value = 1
        elif isinstance(value, torch.SymFloat):
            value = 1.0
        values.append(torch.empty((1,) * value.dim(), dtype=value.dtype) if isinstance(value, torch.Tensor) else value)
    return torch.result_type(values[0], values[1])


def _unary(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        return builder.add(op, [builder.tensor(node.args[0], dtype_of(node))])

    return rule


def _binary(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        dtype = dtype_of(node)
        return builder.add(op, operands(builder, node, list(node.args[:2]), dtype))

    return rule


def _add_like(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        dtype = dtype_of(node)
        left, right = operands(builder, node, list(node.args[:2]), dtype)
        alpha = node.kwargs.get("alpha", node.args[2] if len(node.args) > 2 else 1)
        if alpha != 1:
            right = builder.add("Mul", [right, builder.tensor(alpha, dtype)])
        return builder.add(op, [left, right])

    return rule


def _rsub(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    left, right = operands(builder, node, list(node.args[:2]), dtype)
    return builder.add("Sub", [right, left])


def _comparison(op: str, *, negate: bool = False) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        dtype = _promoted(list(node.args[:2]))
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


def _div(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    names = operands(builder, node, list(node.args[:2]), dtype)
    quotient = builder.add("Div", names)
    mode = node.kwargs.get("rounding_mode")
    if mode is None or not dtype.is_floating_point:
        return quotient
    if mode == "floor":
        return builder.add("Floor", [quotient])
    return builder.add("Mul", [builder.add("Sign", [quotient]), builder.add("Floor", [builder.add("Abs", [quotient])])])


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
    # log1p(x) = 2 atanh(x / (x + 2)): keeps its precision near 0, unlike log(1 + x); x > -1
    dtype = dtype_of(node)
    x = builder.tensor(node.args[0], dtype)
    ratio = builder.add("Div", [x, builder.add("Add", [x, builder.scalar(2, dtype)])])
    return builder.add("Mul", [builder.add("Atanh", [ratio]), builder.scalar(2, dtype)])


def _expm1(builder: GraphBuilder, node: fx.Node) -> str:
    # expm1(x) = 2 sinh(x / 2) exp(x / 2): keeps its precision near 0, unlike exp(x) - 1
    dtype = dtype_of(node)
    half = builder.add("Mul", [builder.tensor(node.args[0], dtype), builder.scalar(0.5, dtype)])
    product = builder.add("Mul", [builder.add("Sinh", [half]), builder.add("Exp", [half])])
    return builder.add("Mul", [product, builder.scalar(2, dtype)])


def _clamp(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    result = builder.tensor(node.args[0], dtype)
    low = node.kwargs.get("min", node.args[1] if len(node.args) > 1 else None)
    high = node.kwargs.get("max", node.args[2] if len(node.args) > 2 else None)
    if not any(isinstance(bound, fx.Node) for bound in (low, high)):
        names = ["" if bound is None else builder.scalar(bound, dtype) for bound in (low, high)]
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
    names = operands(builder, node, [condition, left, right], dtype)
    return builder.add("Where", [builder.tensor(condition, torch.bool), *names[1:]])


def _masked_fill(builder: GraphBuilder, node: fx.Node) -> str:
    x, mask, value = node.args
    dtype = dtype_of(node)
    return builder.add("Where", [builder.tensor(mask, torch.bool), builder.tensor(value, dtype), builder.tensor(x, dtype)])


def _cast(builder: GraphBuilder, node: fx.Node) -> str:
    return builder.tensor(node.args[0], dtype_of(node))


def _identity(builder: GraphBuilder, node: fx.Node) -> str:
    return builder.tensor(node.args[0])


def _filled(builder: GraphBuilder, node: fx.Node) -> str:
    value = filled_value(node)
    dtype = dtype_of(node)
    if value is None:
        index = {"full": 1, "full_like": 1, "new_full": 2}.get(short_name(node), 0)
        scalar = builder.tensor(node.args[index], dtype)
    else:
        scalar = builder.scalar(value, dtype)
    sizes = list(node.meta["val"].shape)
    return builder.add("Expand", [scalar, builder.shape(sizes)]) if sizes else scalar


def _arange(builder: GraphBuilder, node: fx.Node) -> str:
    name = str(node.target)
    start, step = 0, 1
    arguments: list[Any] = list(node.args)
    if "start" in name:
        start, end = arguments[0], arguments[1]
        step = arguments[2] if len(arguments) > 2 else 1
    else:
        end = arguments[0]
    dtype = dtype_of(node)
    if not any(isinstance(a, fx.Node) for a in (start, end, step)):
        return builder.constant(torch.arange(start, end, step, dtype=dtype).numpy())
    return builder.add("Range", [builder.tensor(a, dtype) for a in (start, end, step)])


def _hardsigmoid(builder: GraphBuilder, node: fx.Node) -> str:
    return builder.add("HardSigmoid", [builder.tensor(node.args[0])], alpha=1 / 6, beta=0.5)


def _elu(builder: GraphBuilder, node: fx.Node) -> str:
    alpha, scale, input_scale = (list(node.args[1:]) + [1.0, 1.0, 1.0][len(node.args) - 1 :])[:3]
    x = builder.tensor(node.args[0])
    dtype = dtype_of(node)
    if input_scale == 1.0:
        result = builder.add("Elu", [x], alpha=float(alpha))  # type: ignore[arg-type]
    else:
        scaled = builder.add("Elu", [builder.add("Mul", [x, builder.scalar(input_scale, dtype)])], alpha=float(alpha))  # type: ignore[arg-type]
        condition = builder.add("Greater", [x, builder.scalar(0, dtype)])
        result = builder.add("Where", [condition, x, scaled])
    return result if scale == 1.0 else builder.add("Mul", [result, builder.scalar(scale, dtype)])  # type: ignore[arg-type]


def _leaky_relu(builder: GraphBuilder, node: fx.Node) -> str:
    slope = node.args[1] if len(node.args) > 1 else 0.01
    return builder.add("LeakyRelu", [builder.tensor(node.args[0])], alpha=float(slope))  # type: ignore[arg-type]


def _softplus(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    beta = float(node.args[1]) if len(node.args) > 1 else 1.0  # type: ignore[arg-type]
    threshold = float(node.args[2]) if len(node.args) > 2 else 20.0  # type: ignore[arg-type]
    x = builder.tensor(node.args[0])
    scaled = x if math.isclose(beta, 1.0) else builder.add("Mul", [x, builder.scalar(beta, dtype)])
    soft = builder.add("Softplus", [scaled])
    if not math.isclose(beta, 1.0):
        soft = builder.add("Div", [soft, builder.scalar(beta, dtype)])
    linear = builder.add("Greater", [scaled, builder.scalar(threshold, dtype)])
    return builder.add("Where", [linear, x, soft])


def _remainder(fmod: int) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        dtype = dtype_of(node)
        left, right = operands(builder, node, list(node.args[:2]), dtype)
        if fmod or not dtype.is_floating_point:
            return builder.add("Mod", [left, right], fmod=int(dtype.is_floating_point))
        floor = builder.add("Floor", [builder.add("Div", [left, right])])
        return builder.add("Sub", [left, builder.add("Mul", [floor, right])])

    return rule


def _not_equal(builder: GraphBuilder, node: fx.Node) -> str:
    result: str = _comparison("Equal", negate=True)(builder, node)
    return result


RULES: dict[str, Rule] = {
    **{name: _unary(op) for name, op in {
        "neg": "Neg", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "sign": "Sign", "tanh": "Tanh",
        "sigmoid": "Sigmoid", "erf": "Erf", "sin": "Sin", "cos": "Cos", "tan": "Tan", "atan": "Atan", "floor": "Floor",
        "ceil": "Ceil", "round": "Round", "reciprocal": "Reciprocal", "relu": "Relu", "hardswish": "HardSwish",
        "sinh": "Sinh", "cosh": "Cosh", "asinh": "Asinh", "acosh": "Acosh", "atanh": "Atanh", "asin": "Asin",
        "acos": "Acos",
    }.items()},
    "mul": _binary("Mul"), "maximum": _binary("Max"), "minimum": _binary("Min"),
    "add": _add_like("Add"), "sub": _add_like("Sub"), "rsub": _rsub, "div": _div, "pow": _pow,
    "eq": _comparison("Equal"), "ne": _not_equal, "lt": _comparison("Less"), "le": _comparison("LessOrEqual"),
    "gt": _comparison("Greater"), "ge": _comparison("GreaterOrEqual"),
    "logical_and": _logical("And"), "logical_or": _logical("Or"), "logical_xor": _logical("Xor"), "logical_not": _not,
    "bitwise_and": _logical("And"), "bitwise_or": _logical("Or"), "bitwise_xor": _logical("Xor"), "bitwise_not": _not,
    "rsqrt": _rsqrt, "log1p": _log1p, "expm1": _expm1, "clamp": _clamp, "clamp_min": _clamp_one_side("Max"),
    "clamp_max": _clamp_one_side("Min"), "where": _where, "masked_fill": _masked_fill, "_to_copy": _cast,
    "clone": _identity, "alias": _identity, "detach": _identity, "lift_fresh_copy": _identity, "contiguous": _identity,
    **dict.fromkeys(sorted(_FILLED), _filled), "empty": _filled,
    "arange": _arange, "hardsigmoid": _hardsigmoid, "elu": _elu, "leaky_relu": _leaky_relu, "softplus": _softplus,
    "remainder": _remainder(0), "fmod": _remainder(1),
}  # fmt: skip

