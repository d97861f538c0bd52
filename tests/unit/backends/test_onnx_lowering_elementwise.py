"""Elementwise lowerings: each operator on ONNX Runtime as torch computes it, awkward arguments included."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from lowering_harness import Lowering, case, check, flags, ints, lowered, normal, one_of, uniform

from nagedge.backends.onnx_lowering.elementwise import RULES

aten = torch.ops.aten
EDGES = (0.0, -0.0, 1.0, -1.0, 0.5, -0.5, 1.5, 2.5, -2.5, 1e-30, -1e-6, 3e4, -3e4, math.inf, -math.inf)

WHOLE_LINE = {
    "neg": aten.neg.default, "exp": aten.exp.default, "abs": aten.abs.default, "sign": aten.sign.default,
    "tanh": aten.tanh.default, "sigmoid": aten.sigmoid.default, "atan": aten.atan.default, "relu": aten.relu.default,
    "floor": aten.floor.default, "ceil": aten.ceil.default, "round": aten.round.default,
    "hardsigmoid": aten.hardsigmoid.default, "erf": aten.erf.default,
}  # fmt: skip
PART_OF_THE_LINE = {
    "log": (aten.log.default, 1e-6, 50.0), "sqrt": (aten.sqrt.default, 0.0, 50.0),
    "sin": (aten.sin.default, -6.0, 6.0), "cos": (aten.cos.default, -6.0, 6.0), "tan": (aten.tan.default, -1.4, 1.4),
    "reciprocal": (aten.reciprocal.default, 0.1, 9.0), "rsqrt": (aten.rsqrt.default, 1e-3, 9.0),
    "sinh": (aten.sinh.default, -5.0, 5.0), "cosh": (aten.cosh.default, -5.0, 5.0),
    "asinh": (aten.asinh.default, -5.0, 5.0), "acosh": (aten.acosh.default, 1.1, 9.0),
    "atanh": (aten.atanh.default, -0.9, 0.9), "asin": (aten.asin.default, -0.95, 0.95),
    "acos": (aten.acos.default, -0.95, 0.95), "hardswish": (aten.hardswish.default, -6.0, 6.0),
}  # fmt: skip

CASES: list[Lowering] = [
    *(case(name, "edges", op, one_of(EDGES, 7)) for name, op in WHOLE_LINE.items()),
    *(
        case(name, "inside", op, uniform(low, high, 5, 2), rtol=1e-5)
        for name, (op, low, high) in PART_OF_THE_LINE.items()
    ),
    case("exp", "of whole numbers", aten.exp.default, ints(-3, 4, 5)),
    case("sqrt", "of booleans", aten.sqrt.default, flags(5)),
    case("abs", "whole numbers", aten.abs.default, ints(-9, 9, 5)),
    case("floor", "whole numbers", aten.floor.default, ints(-9, 9, 5)),
    case("round", "two decimals", lambda x: aten.round.decimals(x, decimals=2), uniform(-3, 3, 9)),
    case("round", "hundreds", lambda x: aten.round.decimals(x, decimals=-2), uniform(-900, 900, 9)),
    case("relu", "whole numbers", aten.relu.default, ints(-9, 9, 5)),
    case(
        "log1p",
        "near zero",
        aten.log1p.default,
        one_of((0.0, 1e-8, -1e-8, 1e-4, -1e-4, -0.5, -0.99, 0.9, 1.0), 9),
        rtol=1e-6,
        atol=0,
    ),
    case(
        "log1p",
        "far from zero",
        aten.log1p.default,
        one_of((1.1, 10.0, 2e4, 1e6, 5e8, 1e30, math.inf, -1.0), 9),
        rtol=1e-6,
        atol=0,
    ),
    case(
        "expm1",
        "near zero",
        aten.expm1.default,
        one_of((0.0, 1e-8, -1e-8, 1e-4, -1e-4, 0.3, -0.3, 2.0), 9),
        rtol=2e-6,
        atol=0,
    ),
    case(
        "expm1",
        "far from zero",
        aten.expm1.default,
        one_of((80.0, -20.0, -100.0, -180.0, -1e4, -math.inf, math.inf), 9),
        atol=0,
    ),
    # arithmetic
    case("mul", "broadcast", aten.mul.Tensor, normal(1, 4), normal(3, 1)),
    case("mul", "number", lambda x: aten.mul.Tensor(x, -2.5), normal(4)),
    case("mul", "whole by fraction", aten.mul.Tensor, ints(-4, 5, 3), normal(3)),
    case("mul", "flag by float", aten.mul.Tensor, flags(3), normal(3)),
    case(
        "mul",
        "filled broadcasts the other",
        lambda x: aten.mul.Tensor(x, aten.full.default([2, 3], 2.0)),
        normal(1, 3),
    ),
    case(
        "mul",
        "filled of the result's shape",
        lambda x: aten.mul.Tensor(x, aten.full_like.default(x, 3.0)),
        normal(2, 3),
    ),
    case(
        "mul",
        "filled and viewed",
        lambda x: aten.mul.Tensor(
            x, aten.expand.default(aten.unsqueeze.default(aten.full.default([3], 4.0), 0), [2, 3])
        ),
        normal(2, 3),
    ),
    case("mul", "batch size", lambda x: aten.mul.Tensor(x, x.shape[0]), normal(2)),
    case(
        "mul",
        "images of one value by the batch size",
        lambda x: aten.mul.Tensor(x, x.shape[0]),
        normal(3, 1, 1),
    ),
    case("mul", "images of one value by their sum", lambda x: x * aten.sum.default(x), normal(3, 1, 1)),
    case("mul", "fraction of the batch size", lambda x: aten.mul.Tensor(x, 3.0 / x.shape[0]), normal(2)),
    case(
        "mul",
        "filled whole number truncates",
        lambda x: aten.mul.Tensor(x, aten.full.default([2], 2.7, dtype=torch.int64)),
        normal(2),
    ),
    case("add", "alpha", lambda x, y: aten.add.Tensor(x, y, alpha=-0.5), normal(4), normal(4)),
    case(
        "add",
        "alpha of whole numbers",
        lambda x, y: aten.add.Tensor(x, y, alpha=3),
        ints(-5, 5, 4),
        ints(-5, 5, 4),
    ),
    case("add", "number and alpha", lambda x: aten.add.Scalar(x, 2.0, 3.0), normal(4)),
    case("add", "flags", aten.add.Tensor, flags(6), flags(6)),
    case("add", "float64", aten.add.Tensor, normal(3, dtype=torch.float64), normal(3)),
    case("add", "int32 and int64", aten.add.Tensor, ints(0, 9, 3, dtype=torch.int32), ints(0, 9, 3)),
    case("add", "sizes", lambda x: aten.add.Tensor(x, (x.shape[0] * 2 + 1) // 3), ints(0, 9, 3)),
    case("sub", "alpha", lambda x, y: aten.sub.Tensor(x, y, alpha=2), normal(4), normal(1)),
    case("sub", "from zeros", lambda x: aten.sub.Tensor(aten.zeros_like.default(x), x), normal(4)),
    case("rsub", "number", lambda x: aten.rsub.Scalar(x, 1.0), normal(4)),
    case("rsub", "alpha", lambda x: aten.rsub.Scalar(x, 1.0, 2.5), normal(4)),
    case("rsub", "tensors", lambda x, y: aten.rsub.Tensor(x, y, alpha=2), normal(4), normal(4)),
    case("div", "true, of whole numbers", aten.div.Tensor, ints(-9, 9, 4), ints(1, 5, 4)),
    case("div", "number", lambda x: aten.div.Tensor(x, 3), normal(4)),
    case(
        "div",
        "floor",
        lambda x, y: aten.div.Tensor_mode(x, y, rounding_mode="floor"),
        one_of((1.0, -1.0, 7.5, -7.5, 0.3), 6),
        one_of((0.1, -0.1, 2.0, -2.0, 0.7), 6),
    ),
    case(
        "div",
        "trunc",
        lambda x, y: aten.div.Tensor_mode(x, y, rounding_mode="trunc"),
        uniform(-9, 9, 5),
        uniform(0.4, 3, 5),
    ),
    case(
        "div",
        "floor of whole numbers",
        lambda x, y: aten.div.Tensor_mode(x, y, rounding_mode="floor"),
        ints(-9, 10, 9),
        one_of((2, -2, 3, -3), 9),
    ),
    case(
        "div",
        "trunc of whole numbers",
        lambda x, y: aten.div.Tensor_mode(x, y, rounding_mode="trunc"),
        ints(-9, 10, 9),
        one_of((2, -2, 3, -3), 9),
    ),
    case(
        "remainder",
        "signs",
        aten.remainder.Tensor,
        one_of((5.5, -5.5, 6.0, -6.0, 1.0), 7),
        one_of((2.0, -2.0, 0.1, -0.3), 7),
    ),
    case("remainder", "whole numbers", aten.remainder.Tensor, ints(-9, 10, 9), one_of((2, -2, 3, -3), 9)),
    case("remainder", "number", lambda x: aten.remainder.Scalar(x, 3), ints(-9, 10, 9)),
    case("fmod", "signs", aten.fmod.Tensor, one_of((5.5, -5.5, 6.0, -6.0), 7), one_of((2.0, -2.0, 0.3), 7)),
    case("fmod", "whole numbers", aten.fmod.Tensor, ints(-9, 10, 9), one_of((2, -2, 3, -3), 9)),
    *(
        case(
            "pow",
            f"to the {exponent}",
            lambda x, e=exponent: aten.pow.Tensor_Scalar(x, e),
            uniform(0.2, 3, 5),
        )
        for exponent in (0, 1, 2, 3, -1, 0.5, -0.5, 1.7, -3)
    ),
    case("pow", "square of negatives", lambda x: aten.pow.Tensor_Scalar(x, 2), normal(5)),
    case("pow", "whole numbers", lambda x: aten.pow.Tensor_Scalar(x, 3), ints(-4, 5, 5)),
    case("pow", "whole to a fraction", lambda x: aten.pow.Tensor_Scalar(x, 0.5), ints(0, 9, 5)),
    case("pow", "number to a tensor", lambda x: aten.pow.Scalar(2.0, x), normal(5)),
    case("pow", "tensors", aten.pow.Tensor_Tensor, uniform(0.2, 3, 5), uniform(-2, 2, 5)),
    case("mul", "flags", aten.mul.Tensor, flags(6), flags(6)),
    case("maximum", "flags", aten.maximum.default, flags(6), flags(6)),
    case("minimum", "flags", aten.minimum.default, flags(6), flags(6)),
    case("maximum", "mixed", aten.maximum.default, ints(-3, 4, 5), normal(5)),
    case("minimum", "broadcast", aten.minimum.default, normal(1, 5), normal(2, 1)),
    # comparisons
    *(
        case(name, label, op, *draws)
        for name, tensor, scalar in (
            ("eq", aten.eq.Tensor, aten.eq.Scalar),
            ("ne", aten.ne.Tensor, aten.ne.Scalar),
            ("lt", aten.lt.Tensor, aten.lt.Scalar),
            ("le", aten.le.Tensor, aten.le.Scalar),
            ("gt", aten.gt.Tensor, aten.gt.Scalar),
            ("ge", aten.ge.Tensor, aten.ge.Scalar),
        )
        for label, op, *draws in (
            ("mixed", tensor, ints(-2, 3, 6), one_of((-1.0, 0.5, 1.0), 6)),
            ("whole with a fraction", lambda x, s=scalar: s(x, 0.5), ints(-2, 3, 6)),
            ("flags", tensor, flags(6), flags(6)),
            ("broadcast", tensor, ints(0, 3, 1, 4), ints(0, 3, 2, 1)),
            ("not a number", tensor, one_of((math.nan, 0.0, math.inf), 6), one_of((math.nan, 0.0), 6)),
            ("zeros", lambda x, t=tensor: t(x, aten.zeros_like.default(x)), ints(-1, 2, 6)),
            ("batch size", lambda x, s=scalar: s(x, x.shape[0]), ints(2, 6, 6)),
        )
    ),
    # logic
    *(
        case(name, label, op, *draws)
        for name, op in (
            ("logical_and", aten.logical_and.default),
            ("logical_or", aten.logical_or.default),
            ("logical_xor", aten.logical_xor.default),
        )
        for label, *draws in (
            ("flags", flags(6), flags(6)),
            ("numbers", ints(-1, 2, 6), one_of((0.0, 0.5, -0.0), 6)),
        )
    ),
    case("logical_not", "floats", aten.logical_not.default, one_of((0.0, -0.0, 0.5, -3.0), 5)),
    *(
        case(name, label, op, *draws)
        for name, op in (
            ("bitwise_and", aten.bitwise_and.Tensor),
            ("bitwise_or", aten.bitwise_or.Tensor),
            ("bitwise_xor", aten.bitwise_xor.Tensor),
        )
        for label, *draws in (
            ("flags", flags(6), flags(6)),
            ("whole numbers", ints(-9, 9, 6), ints(-9, 9, 6)),
        )
    ),
    case("bitwise_and", "number", lambda x: aten.bitwise_and.Scalar(x, 6), ints(-9, 9, 6)),
    case("bitwise_not", "flags", aten.bitwise_not.default, flags(6)),
    case("bitwise_not", "whole numbers", aten.bitwise_not.default, ints(-9, 9, 6)),
    # bounds and choices
    case("clamp", "both", lambda x: aten.clamp.default(x, -0.5, 0.25), normal(6)),
    case("clamp", "low", lambda x: aten.clamp.default(x, min=0.1), normal(6)),
    case("clamp", "high", lambda x: aten.clamp.default(x, None, 0.1), normal(6)),
    case("clamp", "crossed", lambda x: aten.clamp.default(x, 1.0, -1.0), normal(6)),
    case("clamp", "whole numbers", lambda x: aten.clamp.default(x, -2, 3), ints(-9, 9, 6)),
    case("clamp", "whole numbers, fractions", lambda x: aten.clamp.default(x, -1.5, 2.5), ints(-9, 9, 6)),
    case(
        "clamp",
        "tensors",
        lambda x, y: aten.clamp.Tensor(x, y, aten.add.Tensor(y, 0.5)),
        normal(6),
        normal(6),
    ),
    case("clamp", "high tensor", lambda x, y: aten.clamp.Tensor(x, max=y), normal(6), normal(6)),
    case("clamp_min", "number", lambda x: aten.clamp_min.default(x, 0.2), normal(6)),
    case("clamp_max", "tensor", aten.clamp_max.Tensor, normal(6), normal(6)),
    case("where", "broadcast", aten.where.self, flags(1, 3), normal(2, 1), normal(1, 3)),
    case("where", "mixed", aten.where.self, flags(3), ints(0, 9, 3), normal(3)),
    case(
        "where", "zeros", lambda c, x: aten.where.self(c, x, aten.zeros_like.default(x)), flags(3), normal(3)
    ),
    case(
        "where",
        "filled number without shape",
        lambda c, x: aten.where.self(c, x, aten.scalar_tensor.default(-math.inf)),
        flags(3),
        normal(3),
    ),
    case(
        "where",
        "two filled",
        lambda c: aten.where.self(c, aten.full.default([4], 2.0), aten.full.default([4], 3.0)),
        flags(4),
    ),
    case(
        "where",
        "filled widens",
        lambda c: aten.where.self(c, aten.full.default([4, 1], 2.0), aten.full.default([1, 3], 3.0)),
        flags(1, 1),
    ),
    case("masked_fill", "number", lambda x, m: aten.masked_fill.Scalar(x, m, -math.inf), normal(3), flags(3)),
    case(
        "masked_fill", "whole numbers", lambda x, m: aten.masked_fill.Scalar(x, m, 7), ints(0, 5, 3), flags(3)
    ),
    case(
        "masked_fill",
        "tensor, broadcast mask",
        lambda x, m: aten.masked_fill.Tensor(x, m, aten.full.default([], 2.0)),
        normal(2, 3),
        flags(1, 3),
    ),
    # casts and identities
    case(
        "_to_copy", "float to whole", lambda x: aten._to_copy.default(x, dtype=torch.int64), uniform(-9, 9, 6)
    ),
    case(
        "_to_copy",
        "float to flag",
        lambda x: aten._to_copy.default(x, dtype=torch.bool),
        one_of((0.0, 0.3, -2.0), 6),
    ),
    case("_to_copy", "flag to float", lambda x: aten._to_copy.default(x, dtype=torch.float32), flags(6)),
    case("_to_copy", "no change", aten._to_copy.default, normal(6)),
    case("clone", "", aten.clone.default, normal(2)),
    case("alias", "", aten.alias.default, normal(2)),
    case("detach", "", aten.detach.default, normal(2)),
    case("clone", "of a constant", aten.clone.default, normal(2), becomes=aten.lift_fresh_copy.default),
    case("clone", "as contiguous", aten.clone.default, normal(2), becomes=aten.contiguous.default),
    # filled tensors
    case("full", "batch", lambda x: aten.full.default([x.shape[0], 2], 1.5), normal(2)),
    case(
        "full",
        "filled with the batch size",
        lambda x: aten.add.Tensor(
            aten.full.default([2], x.shape[0]), aten._to_copy.default(x, dtype=torch.int64)
        ),
        normal(2),
    ),
    case(
        "full",
        "no dimension, flag",
        lambda x: aten.logical_and.default(x, aten.full.default([], True, dtype=torch.bool)),
        flags(2),
    ),
    case(
        "full", "an output", lambda x: [aten.add.Tensor(x, 1), aten.full.default([2, 3], math.inf)], normal(2)
    ),
    case("full_like", "whole numbers", lambda x: aten.full_like.default(x, 3), ints(0, 5, 2)),
    case(
        "full_like",
        "other dtype",
        lambda x: aten.full_like.default(x, 1.5, dtype=torch.float32),
        ints(0, 5, 2),
    ),
    case("scalar_tensor", "", lambda x: aten.add.Tensor(x, aten.scalar_tensor.default(2.5)), normal(2)),
    case("zeros", "", lambda x: aten.zeros.default([x.shape[0] + 1, 2]), normal(2)),
    case("zeros_like", "flags", lambda x: aten.zeros_like.default(x, dtype=torch.bool), normal(2)),
    case("ones", "", lambda x: aten.ones.default([2, x.shape[0]], dtype=torch.int64), normal(2)),
    case("ones_like", "", aten.ones_like.default, normal(2)),
    case("new_zeros", "", lambda x: aten.new_zeros.default(x, [3, x.shape[0] * 2]), normal(2)),
    case("new_full", "", lambda x: aten.new_full.default(x, [3], 2.5), normal(2)),
    case(
        "empty",
        "only its shape",
        lambda x: aten.mul.Tensor(aten.zeros_like.default(aten.empty.memory_format([x.shape[0], 2])), 1.0),
        normal(2),
    ),
    case("arange", "end", lambda x: aten.add.Tensor(x, aten.arange.default(4)), normal(4)),
    case("arange", "batch", lambda x: aten.arange.default(x.shape[0]), normal(4)),
    case(
        "arange",
        "start and step",
        lambda x: aten.add.Tensor(x, aten.arange.start_step(7, -1, -2, dtype=torch.float32)),
        normal(4),
    ),
    case(
        "arange",
        "to twice the batch",
        lambda x: aten.arange.start(1, x.shape[0] * 2, dtype=torch.float32),
        normal(4),
    ),
    # activations
    case("hardsigmoid", "inside", aten.hardsigmoid.default, uniform(-4, 4, 8)),
    case("elu", "plain", aten.elu.default, normal(8)),
    case("elu", "alpha", lambda x: aten.elu.default(x, 1.7), normal(8)),
    case("elu", "selu", lambda x: aten.elu.default(x, 1.6732632423543772, 1.0507009873554805), normal(8)),
    case("elu", "celu", lambda x: aten.elu.default(x, 2.0, 1.0, 0.5), uniform(-9, 9, 8)),
    case("leaky_relu", "default", aten.leaky_relu.default, normal(8)),
    case("leaky_relu", "slope", lambda x: aten.leaky_relu.default(x, 0.3), normal(8)),
    case("softplus", "far", aten.softplus.default, one_of((-90.0, -1.0, 0.0, 1.0, 19.0, 21.0, 300.0), 8)),
    case("softplus", "beta and threshold", lambda x: aten.softplus.default(x, 2.0, 3.0), uniform(-4, 4, 8)),
]


@pytest.mark.parametrize("item", CASES, ids=str)
def test_it_computes_what_torch_computes(item: Lowering) -> None:
    check(item)


def test_every_rule_has_a_case() -> None:
    assert set(RULES) - {item.lowers for item in CASES} == set()


def test_a_filled_operand_that_broadcasting_restores_is_stored_as_one_number() -> None:
    item = case("mul", "", lambda x: aten.mul.Tensor(x, aten.full_like.default(x, 3.0)), normal(64, 64))
    _, model = lowered(item)
    assert [node.op_type for node in model.graph.node][-1] == "Mul"
    assert max(len(tensor.raw_data) for tensor in model.graph.initializer) <= 16


@pytest.mark.parametrize(
    "operator",
    [lambda x: x * 3.0, lambda x: 3.0 - x, lambda x: torch.where(x > 3.0, x, torch.full_like(x, 3.0))],
)
def test_a_number_has_the_rank_of_images_of_one_value(operator: Any) -> None:
    _, model = lowered(case("mul", "", operator, normal(3, 1, 1)))
    assert {tuple(tensor.dims) for tensor in model.graph.initializer} == {(1, 1, 1, 1)}


def test_a_choice_does_not_convert_its_condition() -> None:
    item = case("where", "", aten.where.self, flags(3), normal(3), normal(3))
    _, model = lowered(item)
    assert [node.op_type for node in model.graph.node] == ["Where"]
