"""The readable update against torch's, and what decays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nagedge.training.nesterov import is_decayed, nesterov_step, parameter_groups


@settings(max_examples=30)
@given(
    st.integers(0, 2**31),
    st.floats(1e-3, 1.0),
    st.floats(0.1, 0.99),
    st.sampled_from([0.0, 1e-3, 0.1]),
    st.sampled_from([{"fused": True}, {"foreach": True}, {"foreach": False}]),
)
def test_the_reference_is_torchs_sgd(
    seed: int, lr: float, momentum: float, weight_decay: float, path: dict[str, bool]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    param = nn.Parameter(torch.randn(4, 3, generator=generator, dtype=torch.float64))
    sgd = torch.optim.SGD(
        [param], lr=lr, momentum=momentum, weight_decay=weight_decay, nesterov=True, **path
    )  # fmt: skip
    mine, buffer = param.detach().clone(), torch.zeros_like(param)
    for _ in range(5):
        grad = torch.randn(4, 3, generator=generator, dtype=torch.float64)
        param.grad = grad.clone()
        sgd.step()
        mine, buffer = nesterov_step(mine, grad, buffer, lr=lr, momentum=momentum, weight_decay=weight_decay)
        torch.testing.assert_close(mine, param.detach(), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(buffer, sgd.state[param]["momentum_buffer"], rtol=1e-12, atol=1e-12)


def test_norms_and_biases_do_not_decay() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.LayerNorm(8), nn.Linear(8, 2)
    )
    decayed = {name for name, param in model.named_parameters() if is_decayed(name, param)}
    assert decayed == {"0.weight", "4.weight"}
    groups = parameter_groups(model, 0.1)
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
    assert {id(param) for param in groups[0]["params"]} == {id(model[0].weight), id(model[4].weight)}


def test_frozen_parameters_are_in_no_group() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    assert len(groups) == 1
    assert groups[0]["params"][0] is model.weight


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_a_first_step_from_zeros_is_plain(weight_decay: float) -> None:
    param, grad = torch.tensor([2.0]), torch.tensor([1.0])
    after, buffer = nesterov_step(
        param, grad, torch.zeros(1), lr=0.5, momentum=0.9, weight_decay=weight_decay
    )
    d = 1 + weight_decay * 2
    assert buffer.item() == pytest.approx(d)
    assert after.item() == pytest.approx(2 - 0.5 * (d + 0.9 * d))
