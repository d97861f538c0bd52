"""Operators that compute over axes: matrix products, reductions, normalisation."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from nagedge.backends.mil_lowering.builder import ProgramBuilder, Var
from nagedge.backends.mil_lowering.operands import operands
from nagedge.backends.mil_lowering.structure import reshape
from nagedge.backends.traced import argument_of, axes_of, dtype_of, fake_of, order_of, short_name

__all__ = ["RULES"]

Rule = Callable[[ProgramBuilder, fx.Node], Any]
Spread = tuple[list[int], list[int], list[int], list[int]]


# --- matrix products --------------------------------------------------------------------------------------------


def _turned(argument: Any) -> tuple[Any, bool]:
    """Return a matrix and whether it is to be read transposed: MIL's products transpose by themselves."""
    if isinstance(argument, fx.Node) and argument.op == "call_function":
        source = argument.args[0]
        rank = fake_of(argument).dim()
        last = [*range(rank - 2), rank - 1, rank - 2]
        if rank > 1 and short_name(argument) in {"permute", "transpose", "t"} and order_of(argument) == last:
            return source, True
    return argument, False


def _matmul(builder: ProgramBuilder, node: fx.Node) -> Var:
    return _product(builder, node.args[0], node.args[1], dtype_of(node))


def _product(builder: ProgramBuilder, left: Any, right: Any, dtype: torch.dtype) -> Var:
    (a, turn_a), (b, turn_b) = _turned(left), _turned(right)
    if not dtype.is_floating_point:
        a, turn_a, b, turn_b = left, False, right, False
    return builder.add(
        "matmul",
        x=builder.tensor(a, dtype),
        y=builder.tensor(b, dtype),
        transpose_x=turn_a,
        transpose_y=turn_b,
    )


def _addmm(builder: ProgramBuilder, node: fx.Node) -> Var:
    dtype = dtype_of(node)
    bias, left, right = node.args[:3]
    alpha, beta = (float(node.kwargs.get(name, 1.0)) for name in ("alpha", "beta"))  # type: ignore[arg-type]
    weight, turned = _turned(right)
    offset = builder.tensor(bias, dtype)
    constant = isinstance(weight, fx.Node) and is_constant(builder.tensor(weight)) and is_constant(offset)
    plain = turned and alpha == beta == 1 and dtype.is_floating_point and offset.rank == 1
    if plain and constant and offset.shape[0] == builder.shape_of(node)[1]:
        return builder.add(
            "linear", x=builder.tensor(left, dtype), weight=builder.tensor(weight), bias=offset
        )
    product = _product(builder, left, right, dtype)
    if alpha != 1:
        product = builder.add("mul", x=product, y=builder.scalar(alpha, dtype))
    if beta != 1:
        offset = builder.add("mul", x=offset, y=builder.scalar(beta, dtype))
    return builder.add("add", x=product, y=offset)


def is_constant(var: Var) -> bool:
    """Whether a tensor is a constant of the program, compressed or not."""
    return var.op is not None and (var.op.op_type == "const" or var.op.op_type.startswith("constexpr_"))


# --- reductions -------------------------------------------------------------------------------------------------


def _reduce(op: str) -> Rule:
    def rule(builder: ProgramBuilder, node: fx.Node) -> Var:
        axes = axes_of(node)
        keep = bool(argument_of(node, 2, "keepdim", False))
        dtype = dtype_of(node)
        flags = dtype == torch.bool
        x = builder.tensor(node.args[0], torch.int32 if flags else dtype)
        if axes:
            x = builder.add(op, x=x, axes=axes, keep_dims=keep)
        return builder.cast(x, dtype)

    return rule


def _any_all(op: str) -> Rule:
    def rule(builder: ProgramBuilder, node: fx.Node) -> Var:
        keep = bool(argument_of(node, 2, "keepdim", False))
        x = builder.cast_to(builder.tensor(node.args[0], torch.bool), "int32")
        return builder.cast_to(builder.add(op, x=x, axes=axes_of(node), keep_dims=keep), "bool")

    return rule


def _arg_reduce(op: str) -> Rule:
    def rule(builder: ProgramBuilder, node: fx.Node) -> Var:
        axis = argument_of(node, 1, "dim", None)
        keep = bool(argument_of(node, 2, "keepdim", False))
        x = builder.tensor(node.args[0])
        if axis is None:
            x, axis, keep = reshape(builder, x, [math.prod(builder.shape_of(node.args[0]))]), 0, False
        options = {"output_dtype": "int32"} if builder.opset >= 17 else {}
        return builder.add(op, x=x, axis=int(axis) % x.rank, keep_dims=keep, **options)

    return rule


def _cumsum(builder: ProgramBuilder, node: fx.Node) -> Var:
    x = builder.tensor(node.args[0], dtype_of(node))
    axis = int(node.args[1]) % max(x.rank, 1)  # type: ignore[arg-type]
    return builder.add("cumsum", x=x, axis=axis, exclusive=False, reverse=False) if x.rank else x


# --- normalisation ----------------------------------------------------------------------------------------------


def _softmax(builder: ProgramBuilder, node: fx.Node) -> Var:
    x = builder.tensor(node.args[0], dtype_of(node))
    return builder.add("softmax", x=x, axis=int(node.args[1]) % x.rank)  # type: ignore[arg-type]


def _log_softmax(builder: ProgramBuilder, node: fx.Node) -> Var:
    # From the shifted logits: the logarithm of a softmax would be -inf where the softmax underflows.
    x = builder.tensor(node.args[0], dtype_of(node))
    axes = [int(node.args[1]) % x.rank]  # type: ignore[arg-type]
    largest = builder.add("reduce_max", x=x, axes=axes, keep_dims=True)
    shifted = builder.add("sub", x=x, y=largest)
    total = builder.add("reduce_sum", x=builder.add("exp", x=shifted), axes=axes, keep_dims=True)
    logarithm = builder.add("log", x=total, epsilon=builder.scalar(0.0, torch.float32))
    return builder.add("sub", x=shifted, y=logarithm)


def _batch_norm(builder: ProgramBuilder, node: fx.Node) -> tuple[Var, None, None]:
    x, weight, bias, mean, var, _, eps = node.args
    given = builder.tensor(x)
    statistics = [builder.tensor(a) for a in (mean, var)]
    affine = [None if a is None else builder.tensor(a) for a in (weight, bias)]
    constants = all(is_constant(v) for v in (*statistics, *affine) if v is not None)
    if constants and given.rank in {3, 4, 5}:
        options = {name: v for name, v in zip(("gamma", "beta"), affine, strict=True) if v is not None}
        epsilon = builder.scalar(float(eps), torch.float32)  # type: ignore[arg-type]
        result = builder.add(
            "batch_norm", x=given, mean=statistics[0], variance=statistics[1], epsilon=epsilon, **options
        )
        return result, None, None
    channels = int(fake_of(mean).shape[0])
    shape = [channels] + [1] * (given.rank - 2)
    centre, spread = (reshape(builder, v, shape) for v in statistics)
    shifted = builder.add("add", x=spread, y=builder.scalar(float(eps), torch.float32))  # type: ignore[arg-type]
    result = builder.add(
        "real_div", x=builder.add("sub", x=given, y=centre), y=builder.add("sqrt", x=shifted)
    )
    if affine[0] is not None:
        result = builder.add("mul", x=result, y=reshape(builder, affine[0], shape))
    if affine[1] is not None:
        result = builder.add("add", x=result, y=reshape(builder, affine[1], shape))
    return result, None, None


def _layer_norm(builder: ProgramBuilder, node: fx.Node) -> tuple[Var, None, None]:
    x, shape, weight, bias, eps = node.args
    given = builder.tensor(x)
    axes = list(range(given.rank - len(shape), given.rank))  # type: ignore[arg-type]
    epsilon = builder.scalar(float(eps), torch.float32)  # type: ignore[arg-type]
    affine = [None if a is None else builder.tensor(a) for a in (weight, bias)]
    if all(v is None or is_constant(v) for v in affine):
        options = {name: v for name, v in zip(("gamma", "beta"), affine, strict=True) if v is not None}
        return builder.add("layer_norm", x=given, axes=axes, epsilon=epsilon, **options), None, None
    result = builder.add("layer_norm", x=given, axes=axes, epsilon=epsilon)
    for op, v in zip(("mul", "add"), affine, strict=True):
        if v is not None:
            result = builder.add(op, x=result, y=v)
    return result, None, None


def _baddbmm(builder: ProgramBuilder, node: fx.Node) -> Var:
    dtype = dtype_of(node)
    product = _product(builder, node.args[1], node.args[2], dtype)
    (offset,) = operands(builder, node, [node.args[0]], dtype)
    for name in ("alpha", "beta"):
        factor = node.kwargs.get(name, 1)
        if factor != 1:
            scaled = builder.scalar(factor, dtype)  # type: ignore[arg-type]
            if name == "alpha":
                product = builder.add("mul", x=product, y=scaled)
            else:
                offset = builder.add("mul", x=offset, y=scaled)
    return builder.add("add", x=product, y=offset)


RULES: dict[str, Rule] = {
    "mm": _matmul, "bmm": _matmul, "matmul": _matmul, "addmm": _addmm, "baddbmm": _baddbmm,
    "sum": _reduce("reduce_sum"),
    "mean": _reduce("reduce_mean"), "amax": _reduce("reduce_max"), "amin": _reduce("reduce_min"),
    "prod": _reduce("reduce_prod"), "any": _any_all("reduce_max"), "all": _any_all("reduce_min"),
    "argmax": _arg_reduce("reduce_argmax"), "argmin": _arg_reduce("reduce_argmin"), "cumsum": _cumsum,
    "_softmax": _softmax, "_log_softmax": _log_softmax, "_native_batch_norm_legit_no_training": _batch_norm,
    "native_layer_norm": _layer_norm,
}  # fmt: skip
