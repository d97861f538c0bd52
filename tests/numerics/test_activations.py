"""Gradients of activations and of elementwise functions."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from harness import check, normal
from torch import Tensor, nn
from torch.nn import functional

from nagedge.graphs.decompositions import CHANNELS_LAST, ONNX, masks
from nagedge.graphs.decompositions.activations import whole

ACTIVATIONS = [
    nn.ReLU(), nn.ReLU(inplace=True), nn.ReLU6(), nn.LeakyReLU(0.1), nn.PReLU(), nn.PReLU(4), nn.ELU(0.7),
    nn.ELU(inplace=True), nn.SELU(), nn.CELU(1.3), nn.GELU(), nn.GELU(approximate="tanh"), nn.SiLU(),
    nn.SiLU(inplace=True), nn.Mish(), nn.Hardswish(), nn.Hardswish(inplace=True), nn.Hardtanh(-0.5, 0.7),
    nn.Softplus(), nn.Softplus(2.0, 1.0), nn.Softsign(), nn.LogSigmoid(), nn.Tanh(), nn.Sigmoid(), nn.Tanhshrink(),
    nn.Softshrink(), nn.Hardshrink(), nn.GLU(1), nn.Threshold(0.1, 0.2), nn.RReLU().eval(), nn.Softmax(1),
    nn.LogSoftmax(-1), nn.Softmin(1), nn.Dropout(0.5).eval(),
]  # fmt: skip


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=str)
def test_activation(layer: nn.Module) -> None:
    check(layer, normal(4, 5))


MASKED = [nn.ReLU(), nn.ReLU6(), nn.Hardswish(), nn.Hardtanh(-0.5, 0.7), nn.Threshold(0.1, 0.2)]


TABLES = {"onnx": ONNX, "channels last": {k: rule for k, rule in CHANNELS_LAST.items() if rule is not whole}}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("layer", MASKED, ids=str)
def test_derivatives_as_products_with_masks(layer: nn.Module, table: str) -> None:
    check(layer, normal(4, 5), overrides=TABLES[table])
    check(layer, _edges, batches=(2,), overrides=TABLES[table])


def test_rounding_finds_the_edges_of_hardswish_in_single_precision() -> None:
    x = torch.tensor(
        [-torch.inf, -1e30, -3.0, -2.9999998, -1.0, 0.0, 1.0, 2.999999, 3.0, 1e30]
    ).requires_grad_()
    (expected,) = torch.autograd.grad(nn.functional.hardswish(x).sum(), x)
    got = masks.hardswish_backward_by_rounding(torch.ones(10), x.detach())
    torch.testing.assert_close(got, expected, rtol=0, atol=5e-7)


def test_masks_of_tiny_and_huge_values() -> None:
    tiny = torch.finfo(torch.float32).tiny
    x = torch.tensor([-1e38, -tiny, 0.0, tiny, 1e-30, 1e38, float("inf")])
    grad = torch.full_like(x, 2.0)
    assert masks.threshold_backward(grad, x, 0.0).tolist() == [0, 0, 0, 2, 2, 2, 2]
    near = torch.tensor([5.9999995, 6.0, 6.0000005, 0.0, tiny])
    assert masks.hardtanh_backward(grad[:5], near, 0.0, 6.0).tolist() == [2, 0, 0, 0, 2]


@pytest.mark.parametrize("table", [(), ONNX], ids=["portable", "onnx"])
def test_hardsigmoid(table: object) -> None:
    # torch's own kernel holds 1 / 6 in single precision
    check(nn.Hardsigmoid(), normal(4, 5), rtol=1e-7, overrides=table)  # type: ignore[arg-type]


def _edges(batch: int) -> list[Tensor]:
    values = torch.tensor([-30.0, -6.0, -3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0, 6.0, 30.0], dtype=torch.float64)
    return [values.expand(batch, -1).contiguous()]


@pytest.mark.parametrize("layer", ACTIVATIONS, ids=str)
def test_activation_at_its_edges(layer: nn.Module) -> None:
    if not isinstance(layer, nn.GLU) and not (isinstance(layer, nn.PReLU) and layer.num_parameters > 1):
        check(layer, _edges, batches=(2,))


FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_min": lambda x: x.clamp(min=0.1),
    "abs": lambda x: x.abs(),
    "maximum": lambda x: torch.maximum(x, x.flip(1)),
    "minimum": lambda x: torch.minimum(x, x * x),
    "sqrt": lambda x: (x * x + 1).sqrt(),
    "pow": lambda x: (x * x + 1) ** 1.5,
    "cube": lambda x: x**3,
    "exp": lambda x: x.exp(),
    "log1p": lambda x: torch.log1p(x * x),
    "expm1": torch.expm1,
    "sin_cos": lambda x: x.sin() * x.cos(),
    "erf": lambda x: x.erf(),
    "reciprocal": lambda x: 1 / (x * x + 1),
    "one_minus": lambda x: 1 - x,
    "where": lambda x: torch.where(x > 0, x, x * 2),
    "masked_fill": lambda x: x.masked_fill(x > 0, 0.0),
    "tril": lambda x: x.tril(),
    "sign": lambda x: x.sign() * x,
    "addcmul": lambda x: torch.addcmul(x, x, x),
    "lerp": lambda x: torch.lerp(x, x * 2, 0.3),
    "in_place": lambda x: (x * 1).add_(x).mul_(2),
    "logical": lambda x: x * ((x > 0) & ~(x > 1) | (x < -1)),
    "rsqrt_silu": lambda x: torch.rsqrt(x * x + 1) * functional.silu(x),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementwise(name: str) -> None:
    check(FUNCTIONS[name], normal(4, 4))
