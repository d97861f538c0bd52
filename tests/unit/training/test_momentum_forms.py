"""Four forms of Nesterov momentum are one method, also when the learning rate changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nagedge.training.momentum_forms import (
    Form,
    MomentumState,
    converted,
    gradient_point,
    rescaled,
    stepped,
)

FORMS: tuple[Form, ...] = ("torch", "onnx", "keras", "sutskever")
MOMENTUM = 0.9
MATRIX = torch.randn(6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
HESSIAN = MATRIX @ MATRIX.T / 6 + 0.1 * torch.eye(6, dtype=torch.float64)
START = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def gradient(point: Tensor) -> Tensor:
    return HESSIAN @ point + torch.sin(point)


def rate(step: int) -> float:
    return 0.05 if step < 15 else 0.02 if step < 30 else 0.02 + 0.002 * (step - 30)


def torchs_own(steps: int) -> list[Tensor]:
    param = START.clone().requires_grad_()
    optimizer = torch.optim.SGD([param], lr=rate(0), momentum=MOMENTUM, nesterov=True)
    seen = []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = rate(step)
        param.grad = gradient(param.detach())
        optimizer.step()
        seen.append(param.detach().clone())
    return seen


@pytest.mark.parametrize("form", FORMS)
def test_every_form_visits_torchs_points(form: Form) -> None:
    state = MomentumState(form, START.clone(), torch.zeros(6, dtype=torch.float64))
    for step, expected in enumerate(torchs_own(50)):
        if step:
            state = rescaled(state, old_lr=rate(step - 1), new_lr=rate(step), momentum=MOMENTUM)
        point = gradient_point(state, momentum=MOMENTUM)
        state = stepped(state, gradient(point), lr=rate(step), momentum=MOMENTUM)
        torch.testing.assert_close(gradient_point(state, momentum=MOMENTUM), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("form", ["keras", "sutskever"])
def test_without_rescaling_they_part_once_the_learning_rate_changes(form: Form) -> None:
    state = MomentumState(form, START.clone(), torch.zeros(6, dtype=torch.float64))
    apart = []
    for step, expected in enumerate(torchs_own(20)):
        point = gradient_point(state, momentum=MOMENTUM)
        state = stepped(state, gradient(point), lr=rate(step), momentum=MOMENTUM)
        apart.append(float((gradient_point(state, momentum=MOMENTUM) - expected).abs().max()))
    assert max(apart[:15]) < 1e-12
    assert apart[15] > 1e-3


@pytest.mark.parametrize("source", FORMS)
@pytest.mark.parametrize("target", FORMS)
def test_a_run_may_change_its_form_at_any_step(source: Form, target: Form) -> None:
    state = MomentumState(source, START.clone(), torch.zeros(6, dtype=torch.float64))
    for step, expected in enumerate(torchs_own(40)):
        if step:
            state = rescaled(state, old_lr=rate(step - 1), new_lr=rate(step), momentum=MOMENTUM)
        if step == 20:
            state = converted(state, target, lr=rate(step), momentum=MOMENTUM)
        point = gradient_point(state, momentum=MOMENTUM)
        state = stepped(state, gradient(point), lr=rate(step), momentum=MOMENTUM)
        torch.testing.assert_close(gradient_point(state, momentum=MOMENTUM), expected, rtol=1e-12, atol=1e-12)
    assert state.form == target


def test_onnx_own_reference_computes_the_same() -> None:
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    # ONNX attributes are float32: a momentum that float32 holds
    make, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.DOUBLE
    node = onnx.helper.make_node(
        "Momentum", ["R", "T", "X", "G", "V"], ["X2", "V2"], domain="ai.onnx.preview.training",
        alpha=0.875, beta=1.0, mode="nesterov", norm_coefficient=0.0,
    )  # fmt: skip
    shapes = {"R": [], "X": [6], "G": [6], "V": [6]}
    inputs = [make(name, kind, shape) for name, shape in shapes.items()]
    inputs.insert(1, make("T", onnx.TensorProto.INT64, []))
    graph = onnx.helper.make_graph([node], "m", inputs, [make("X2", kind, [6]), make("V2", kind, [6])])
    opsets = [onnx.helper.make_opsetid("ai.onnx.preview.training", 1), onnx.helper.make_opsetid("", 21)]
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=opsets))
    state = MomentumState("onnx", START.clone(), torch.zeros(6, dtype=torch.float64))
    for step in range(5):
        grad = gradient(state.param)
        values = {
            "R": torch.tensor(rate(step), dtype=torch.float64), "T": torch.tensor(step), "X": state.param, "G": grad,
            "V": state.velocity,
        }  # fmt: skip
        param, velocity = evaluator.run(None, {name: value.numpy() for name, value in values.items()})
        state = stepped(state, grad, lr=rate(step), momentum=0.875)
        torch.testing.assert_close(torch.from_numpy(param), state.param, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(torch.from_numpy(velocity), state.velocity, rtol=1e-12, atol=1e-12)
