"""Which module an operator comes from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nagedge.graphs.locate import module_of


class Warp(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cummax(x, 1).values


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
        self.trunk.add_module("warp", Warp())

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.trunk(x)
        return torch.special.bessel_j0(result)


def test_the_innermost_module_is_named() -> None:
    model, example = Net(), torch.randn(2, 3)
    assert module_of(model, example, "aten.cummax") == "trunk.warp"
    assert module_of(model, example, "aten.relu") == "trunk.1"
    assert module_of(model, example, "aten.threshold_backward") is None
    assert module_of(model, {"x": example.numpy()}, "aten.relu_backward") == "trunk.1"


def test_what_the_model_itself_or_nobody_runs_has_no_path() -> None:
    assert module_of(Net(), torch.randn(2, 3), "aten.special_bessel_j0") is None
    assert module_of(Net(), torch.randn(2, 3), "aten.grid_sampler_2d") is None


def test_a_failing_model_gives_no_path_and_keeps_no_hooks() -> None:
    model = Net()
    assert module_of(model, torch.randn(2, 5), "aten.cummax") is None
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())
