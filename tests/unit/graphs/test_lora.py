"""Low-rank adaptation: starts as the model it adapts, trains only its branches, takes what can carry one."""

from __future__ import annotations

import copy

import pytest
import torch
from models_for_tests import CASES, TwoInputs
from torch import nn

from nagedge.errors import ConfigurationError
from nagedge.graphs.lora import LoRAConv, LoRALinear, add_lora


def net(inputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(inputs, 4, 3, stride=2, padding=1, dilation=1, padding_mode="circular"), nn.ReLU(),
        nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 3, 1), nn.Flatten(), nn.Linear(27, 5),
    ).eval()  # fmt: skip


def test_it_starts_as_the_model() -> None:
    model, x = net(), torch.randn(3, 3, 9, 9)
    adapted = copy.deepcopy(model)
    names = add_lora(adapted, 2)
    assert torch.equal(adapted(x), model(x))
    assert names == [f"{layer}.{part}.weight" for layer in ("0", "3", "5") for part in ("down", "up")]
    assert set(names) <= dict(adapted.named_parameters()).keys()
    assert not isinstance(adapted[2], LoRAConv), "a grouped convolution carries no branch"
    for name, value in adapted.named_parameters():
        assert name not in names or bool(value.any()) == ("down" in name)


def test_where_every_layer_is_narrow_the_rank_is_the_smaller_side() -> None:
    model = net()
    add_lora(model, 5)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters() if "down" in name or "up" in name}
    assert shapes == {
        "0.down.weight": (3, 3, 3, 3), "0.up.weight": (4, 3, 1, 1), "3.down.weight": (3, 4, 1, 1),
        "3.up.weight": (3, 3, 1, 1), "5.down.weight": (5, 27), "5.up.weight": (5, 5),
    }  # fmt: skip


def test_a_layer_without_a_bottleneck_is_left_frozen() -> None:
    model = net(inputs=2)
    assert add_lora(model, 2) == [f"{layer}.{part}.weight" for layer in ("3", "5") for part in ("down", "up")]
    assert not isinstance(model[0], LoRAConv)


def test_a_branch_adds_what_its_formula_says() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    add_lora(model, 2)
    layer = model[0]
    assert isinstance(layer, LoRALinear)
    with torch.no_grad():
        layer.up.weight.normal_()
    x = torch.randn(5, 4)
    full = layer.base.weight + layer.up.weight @ layer.down.weight
    torch.testing.assert_close(model(x), x @ full.T + layer.base.bias)


def test_modules_to_skip_and_seeds() -> None:
    one, two, other = net(), net(), net()
    assert add_lora(one, 2, skip=["5", "3"]) == ["0.down.weight", "0.up.weight"]
    assert isinstance(one[5], nn.Linear)
    add_lora(two, 2, skip=["5", "3"])
    add_lora(other, 2, skip=["5", "3"], seed=1)
    assert torch.equal(one[0].down.weight, two[0].down.weight)
    assert not torch.equal(one[0].down.weight, other[0].down.weight)


def test_a_wrapped_layer_keeps_its_attributes() -> None:
    model = net()
    conv, linear = model[0], model[5]
    add_lora(model, 2)
    assert model[5].weight is linear.weight
    assert (model[5].in_features, model[0].stride) == (27, (2, 2))
    assert model[0].bias is conv.bias
    with pytest.raises(AttributeError):
        _ = model[5].no_such_attribute


def test_projections_that_are_read_not_called_are_left_alone() -> None:
    model = CASES["attention"]().model
    names = add_lora(model, 2)
    assert "layer.linear1.down.weight" in names
    assert not any("out_proj" in name for name in names)


@pytest.mark.parametrize(
    "model", [nn.Sequential(nn.Embedding(3, 4), nn.ReLU()), nn.Sequential(nn.Conv2d(4, 4, 3, groups=4))]
)
def test_it_refuses_a_model_without_a_layer_for_it(model: nn.Module) -> None:
    with pytest.raises(
        ConfigurationError,
        match="found no linear layer or dense convolution outside the heads: choose 'all' or 'heads'",
    ):
        add_lora(model, 2)


def test_it_refuses_when_only_heads_are_left() -> None:
    with pytest.raises(ConfigurationError, match="outside the heads"):
        add_lora(TwoInputs(), 2, skip=["image_part", "sensor_part", "head"])


class SameConv(nn.Conv2d):
    """A convolution that pads for itself, like timm's Conv2dSame."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


def test_a_subclass_gives_a_branch_of_its_own_geometry() -> None:
    model = nn.Sequential(SameConv(2, 3, 2))
    x = torch.randn(1, 2, 4, 4)
    before = model(x)
    add_lora(model, 1)
    assert torch.equal(model(x), before)
    assert isinstance(model[0].down, SameConv)
