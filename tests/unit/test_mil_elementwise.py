"""Elementwise ops and activations of ML Programs against torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from mil_harness import Case, check, check_half, check_inferred, every, normal

X = np.array([[-3.0, -1.0, -0.5, 0.0], [0.25, 0.5, 1.5, 2.5]], np.float32)
INSIDE = np.array([-0.875, -0.5, 0.0, 0.25, 0.9375], np.float32)
POSITIVE = np.array([0.0625, 0.5, 1.0, 3.0, 7.5], np.float32)
INTS, SIGNED = np.array([-7, -2, -1, 0, 3, 9], np.int32), np.array([2, -3, 4, 5, -2, 4], np.int32)
IMAGE = normal(2, 3, 4, 5)

UNARY = [
    Case("abs", "", {"x": X}, torch.abs),
    Case("abs", "int", {"x": INTS}, torch.abs, half=False),
    Case("acos", "", {"x": INSIDE}, torch.acos),
    Case("asin", "", {"x": INSIDE}, torch.asin),
    Case("atan", "", {"x": X}, torch.atan),
    Case("atanh", "", {"x": INSIDE}, torch.atanh),
    Case("ceil", "", {"x": X}, torch.ceil),
    Case("clip", "", {"x": X}, lambda x: x.clamp(-1, 2), {"alpha": -1.0, "beta": 2.0}),
    Case("cos", "", {"x": X}, torch.cos),
    Case("cosh", "", {"x": X}, torch.cosh),
    Case("erf", "", {"x": X}, torch.erf),
    Case("exp", "", {"x": X}, torch.exp),
    Case("exp", "overflow", {"x": np.array([100.0, -200.0], np.float32)}, torch.exp),
    Case("exp2", "", {"x": X}, torch.exp2),
    Case("exp2", "int", {"x": np.array([0, 1, 5, 10], np.int32)}, lambda x: (2**x).int(), half=False),
    Case("floor", "", {"x": X}, torch.floor),
    Case("inverse", "default", {"x": POSITIVE}, lambda x: 1 / (x + 1e-4)),
    Case("inverse", "epsilon", {"x": POSITIVE}, lambda x: 1 / (x + 0.5), {"epsilon": 0.5}),
    Case("inverse", "mixed", {"x": POSITIVE}, lambda x: 1 / (x + 0.25), {"epsilon": np.float16(0.25)}, opset=17),
    Case("log", "default", {"x": POSITIVE}, torch.log),
    Case("log", "zero", {"x": np.zeros(2, np.float32)}, lambda x: torch.log(x + 1e-45), half=False),
    Case("log", "epsilon", {"x": POSITIVE}, lambda x: torch.log(x + 1), {"epsilon": 1.0}),
    Case("logical_not", "", {"x": np.array([True, False])}, torch.logical_not, half=False),
    Case("round", "halves", {"x": np.array([-1.5, -0.5, 0.5, 1.5, 2.5], np.float32)}, torch.round),
    Case("rsqrt", "default", {"x": POSITIVE}, lambda x: (x + 1e-12) ** -0.5),
    Case("rsqrt", "epsilon", {"x": POSITIVE}, lambda x: (x + 1) ** -0.5, {"epsilon": 1.0}),
    Case("sign", "", {"x": X}, torch.sign),
    Case("sign", "int", {"x": INTS}, torch.sign, half=False),
    Case("sin", "", {"x": X}, torch.sin),
    Case("sinh", "", {"x": X}, torch.sinh),
    Case("sqrt", "", {"x": POSITIVE}, torch.sqrt),
    Case("square", "", {"x": X}, torch.square),
    Case("square", "int", {"x": INTS}, torch.square, half=False),
    Case("tan", "", {"x": X}, torch.tan),
    Case("tanh", "", {"x": X}, torch.tanh),
    Case("threshold", "", {"x": X}, lambda x: x.clamp(min=0.5), {"alpha": 0.5}),
    Case("threshold", "int", {"x": INTS}, lambda x: x.clamp(min=2), {"alpha": np.int32(2)}, half=False),
    Case("cast", "down", {"x": np.array([-2.75, -0.5, 0.0, 3.9], np.float32)}, lambda x: x.int(), {"dtype": "int32"}),
    Case("cast", "bool", {"x": X}, lambda x: x != 0, {"dtype": "bool"}),
    Case("cast", "up", {"x": INTS}, lambda x: x.float(), {"dtype": "fp32"}, half=False),
    Case("cast", "half", {"x": np.array([1.0001, 70000.0, 1e-8], np.float32)}, lambda x: x.half().float(),
         {"dtype": "fp16"}, half=False),
    Case("cast", "uint8", {"x": np.array([0, 7, 255], np.int32)}, lambda x: x, {"dtype": "uint8"}, opset=17,
         half=False),
]  # fmt: skip

FLOATS = {"x": normal(3, 1, 4), "y": normal(2, 1, seed=1) + 3}
PAIRS = {"x": INTS, "y": SIGNED}

BINARY = [
    Case("add", "broadcast", FLOATS, torch.add),
    Case("add", "int-wraps", {"x": np.array([2**31 - 1], np.int32), "y": np.array([1], np.int32)},
         lambda x, y: (x.long() + y.long() - 2**32).int(), half=False),
    Case("sub", "broadcast", FLOATS, torch.sub),
    Case("sub", "int", PAIRS, torch.sub, half=False),
    Case("mul", "broadcast", FLOATS, torch.mul),
    Case("mul", "int", PAIRS, torch.mul, half=False),
    Case("real_div", "broadcast", FLOATS, torch.div),
    # coremltools itself infers floats here, and says of ML Programs that Core ML gives whole numbers
    Case("real_div", "int", PAIRS, lambda x, y: torch.div(x, y, rounding_mode="trunc"), half=False, inferred=False),
    Case("floor_div", "", {"x": X, "y": np.array([[0.5], [-2.0]], np.float32)}, torch.floor_divide),
    Case("floor_div", "int", PAIRS, torch.floor_divide, half=False),
    Case("mod", "", {"x": X, "y": np.array([[0.75], [-2.0]], np.float32)}, torch.remainder),
    Case("mod", "int", PAIRS, torch.remainder, half=False),
    Case("maximum", "broadcast", FLOATS, torch.maximum),
    Case("maximum", "int", PAIRS, torch.maximum, half=False),
    Case("minimum", "broadcast", FLOATS, torch.minimum),
    Case("minimum", "int", PAIRS, torch.minimum, half=False),
    Case("pow", "", {"x": POSITIVE, "y": np.array([2.0, 0.5, -1.0, 0.0, 1.5], np.float32)}, torch.pow),
    Case("pow", "negative", {"x": X, "y": np.float32([[2.0], [3.0]])}, torch.pow),
    Case("pow", "int", {"x": INTS, "y": np.array([3, 2, 5, 1, 0, 2], np.int32)}, torch.pow, half=False),
    Case("equal", "broadcast", {"x": X, "y": np.float32([0.5])}, torch.eq),
    Case("equal", "int", PAIRS, torch.eq, half=False),
    Case("not_equal", "", {"x": X, "y": np.float32([0.5])}, torch.ne),
    Case("greater", "", {"x": X, "y": np.float32([0.5])}, torch.gt),
    Case("greater_equal", "", {"x": X, "y": np.float32([0.5])}, torch.ge),
    Case("less", "", {"x": X, "y": np.float32([0.5])}, torch.lt),
    Case("less_equal", "", {"x": X, "y": np.float32([0.5])}, torch.le),
    Case("less_equal", "int", PAIRS, torch.le, half=False),
]  # fmt: skip

TRUTHS = {"x": np.array([[True], [False]]), "y": np.array([True, False, True])}

LOGICAL = [
    Case("logical_and", "", TRUTHS, torch.logical_and, half=False),
    Case("logical_or", "", TRUTHS, torch.logical_or, half=False),
    Case("logical_xor", "", TRUTHS, torch.logical_xor, half=False),
]

CHANNELS = np.float32([0.25, 0.5, -1.0])

ACTIVATIONS = [
    Case("clamped_relu", "", {"x": X}, lambda x: F.leaky_relu(x, 0.5).clamp(max=1.25), {"alpha": 0.5, "beta": 1.25}),
    Case("clamped_relu", "mixed", {"x": X}, lambda x: F.leaky_relu(x, 0.5).clamp(max=1.25),
         {"alpha": np.float16(0.5), "beta": np.float16(1.25)}, opset=17),
    Case("elu", "", {"x": X}, lambda x: F.elu(x, 0.75), {"alpha": 0.75}),
    Case("gelu", "default", {"x": X}, F.gelu),
    Case("gelu", "tanh", {"x": X}, lambda x: F.gelu(x, approximate="tanh"), {"mode": "TANH_APPROXIMATION"}),
    Case("gelu", "sigmoid", {"x": X}, lambda x: x * torch.sigmoid(1.702 * x), {"mode": "SIGMOID_APPROXIMATION"}),
    Case("leaky_relu", "", {"x": X}, lambda x: F.leaky_relu(x, 0.125), {"alpha": 0.125}),
    Case("linear_activation", "", {"x": X}, lambda x: 2 * x - 0.5, {"alpha": 2.0, "beta": -0.5}),
    Case("prelu", "", {"x": IMAGE}, lambda x: F.prelu(x, torch.from_numpy(CHANNELS)), {"alpha": CHANNELS}),
    Case("relu", "", {"x": X}, F.relu),
    Case("relu6", "", {"x": X * 4}, F.relu6),
    Case("scaled_tanh", "", {"x": X}, lambda x: 1.5 * torch.tanh(0.5 * x), {"alpha": 1.5, "beta": 0.5}),
    Case("sigmoid", "", {"x": X * 30}, torch.sigmoid),
    Case("sigmoid_hard", "", {"x": X}, lambda x: (0.25 * x + 0.5).clamp(0, 1), {"alpha": 0.25, "beta": 0.5}),
    Case("silu", "", {"x": X}, F.silu),
    Case("softmax", "default", {"x": IMAGE}, lambda x: x.softmax(-1)),
    Case("softmax", "axis", {"x": IMAGE * 50}, lambda x: x.softmax(1), {"axis": 1}),
    Case("softplus", "", {"x": X * 20}, lambda x: F.softplus(x.double()).float()),
    Case("softplus_parametric", "", {"x": IMAGE},
         lambda x: torch.tensor([1.0, 2.0, 0.5]).view(3, 1, 1) * torch.log1p(
             torch.exp(torch.tensor([0.5, 1.0, 2.0]).view(3, 1, 1) * x)),
         {"alpha": np.float32([1.0, 2.0, 0.5]), "beta": np.float32([0.5, 1.0, 2.0])}),
    Case("softsign", "", {"x": X}, F.softsign),
    Case("thresholded_relu", "", {"x": X}, lambda x: torch.where(x >= 0.5, x, 0.0), {"alpha": 0.5}),
]  # fmt: skip

CASES = [*UNARY, *BINARY, *LOGICAL, *ACTIVATIONS]


@every(CASES)
def test_as_torch(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@every([case for case in CASES if case.half])
def test_half_is_rounded_once(case: Case, tmp_path: Path) -> None:
    check_half(case, tmp_path)


@every([case for case in CASES if case.inferred])
def test_coremltools_infers_the_same(case: Case) -> None:
    if not check_inferred(case):
        assert case.op == "silu"  # it infers no value of these


@pytest.mark.parametrize("op", ["log", "rsqrt"])
def test_an_epsilon_that_fp16_does_not_hold_is_zero(op: str, tmp_path: Path) -> None:
    from mil_harness import saved

    from nagedge.runtimes.mil_program import load_program

    def build(x: object) -> object:
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

        return getattr(mb, op)(x=x)

    x = {"x": np.zeros(1, np.float16)}
    (value,) = load_program(saved(build, x, tmp_path)).run(x).values()
    assert np.isinf(value)
