"""What candidates cost: against sums done by hand, and planned memory against graphs that can be followed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from nagedge.fitting.costs import costs_of
from nagedge.fitting.liveness import planned_bytes
from nagedge.models import ModelConfig, build_model
from nagedge.specs import TaskSpec, TensorSpec

KIND = TaskSpec("kind", "classification", size=3)
ROW = TensorSpec("x", "float32", ("batch", 5))
IMAGE = TensorSpec("image", "float32", ("batch", 2, 8, 8))


def test_parameters_and_multiply_adds_are_those_counted_by_hand() -> None:
    mlp = build_model(ModelConfig(trunk="mlp", hidden=[7, 4]), ROW, (KIND,), 0)
    assert costs_of(mlp, ROW, (KIND,), ("params", "macs"), batch=4, core="") == {
        "params": 5 * 7 + 7 + 7 * 4 + 4 + 4 * 3 + 3,
        "macs": 5 * 7 + 7 * 4 + 4 * 3,
    }
    cnn = build_model(ModelConfig(trunk="cnn", channels=[3, 6]), IMAGE, (KIND,), 0)
    costs = costs_of(cnn, IMAGE, (KIND,), ("macs",), batch=4, core="")
    assert costs == {"macs": 64 * 9 * 2 * 3 + 16 * 9 * 3 * 6 + 6 * 3}


def test_planned_memory_grows_with_the_batch_by_what_an_example_needs() -> None:
    model = build_model(ModelConfig(trunk="mlp", hidden=[7]), ROW, (KIND,), 0)
    found = {
        batch: costs_of(model, ROW, (KIND,), ("memory",), batch=batch, core="")["memory"]
        for batch in (64, 128, 256)
    }
    state = 2 * 4 * (5 * 7 + 7 + 7 * 3 + 3)
    assert found[64] > state + 64 * 4 * (5 + 7)
    assert found[256] - found[128] == 2 * (found[128] - found[64])


def traced(function: object, *examples: Tensor) -> fx.GraphModule:
    return make_fx(function, tracing_mode="fake")(*examples)  # type: ignore[arg-type]


def test_a_chain_holds_two_tensors_at_a_time() -> None:
    x = torch.zeros(100)
    chain = traced(lambda x: torch.exp(torch.exp(torch.exp(torch.exp(x)))), x)
    assert planned_bytes(chain) == 400 + 2 * 400  # the input, and what is read and written


def test_what_is_needed_later_stays() -> None:
    def function(x: Tensor) -> Tensor:
        early = torch.exp(x)
        late = torch.exp(torch.exp(torch.exp(x)))
        return early + late

    assert planned_bytes(traced(function, torch.zeros(100))) == 400 + 3 * 400


def test_views_share_memory_and_keep_it_alive() -> None:
    def function(x: Tensor) -> Tensor:
        y = torch.exp(x)
        view = y.reshape(10, 10)
        other = torch.exp(torch.exp(torch.exp(x)))
        return view.sum() + other.sum()

    assert planned_bytes(traced(function, torch.zeros(100))) == 400 + 3 * 400


def test_outputs_live_to_the_end() -> None:
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.exp(x), torch.exp(torch.exp(torch.exp(x)))

    assert planned_bytes(traced(function, torch.zeros(100))) == 400 + 3 * 400


@pytest.mark.parametrize("sizes", [(25, 75)])
def test_parts_of_a_list_share_what_was_split(sizes: tuple[int, int]) -> None:
    def function(x: Tensor) -> Tensor:
        first, second = torch.split(torch.exp(x), sizes)
        return torch.cat([second, first])

    assert planned_bytes(traced(function, torch.zeros(100))) in (400 + 2 * 400, 400 + 3 * 400)


def test_a_model_that_was_in_training_is_measured_in_evaluation_mode() -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Dropout(0.5)).train()
    costs_of(model, ROW, (KIND,), ("macs",), batch=1, core="")
    assert not model.training
