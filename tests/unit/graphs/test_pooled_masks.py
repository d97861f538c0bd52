"""Gradients are masked before a max pool spreads them, and are the same."""

from __future__ import annotations

from collections.abc import Collection

import pytest
import torch
from step_harness import drawn_inputs
from torch import Tensor, fx, nn
from torch._ops import OpOverload

from nagedge.graphs.decompositions import CHANNELS_LAST, ONNX
from nagedge.graphs.forward import trace_forward
from nagedge.graphs.pooled_masks import mask_before_spreading
from nagedge.graphs.train_step import StepGraph, select_outputs, trace_train_step
from nagedge.specs import TaskSpec

aten = torch.ops.aten
TASKS = (TaskSpec("kind", "classification", size=3),)
MASK = aten.threshold_backward.default


class Net(nn.Module):
    """``pool(relu(x))``, the activation read by something else too where asked for."""

    def __init__(self, pool: nn.Module, *, shared: bool) -> None:
        super().__init__()
        self.pool, self.shared, self.head = pool, shared, nn.LazyLinear(3)
        self.inner = nn.Conv2d(1, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        active = self.inner(x).relu()
        pooled = self.pool(active).flatten(1)
        logits: Tensor = self.head(torch.cat([pooled, active.flatten(1)], 1) if self.shared else pooled)
        return logits


def traced(model: nn.Module, example: Tensor, deferred: Collection[OpOverload] = ONNX) -> StepGraph:
    model(example)
    forward = trace_forward(model.eval(), example, TASKS)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return trace_train_step(forward, state, list(state), TASKS, deferred=deferred)


def masked(step: StepGraph) -> fx.GraphModule:
    module = select_outputs(step.traced, range(len(step.all_outputs)))
    mask_before_spreading(module)
    module.recompile()
    return module


def sizes_of_masks(module: fx.GraphModule) -> list[int]:
    return [int(node.meta["val"].shape[-1]) for node in module.graph.nodes if node.target is MASK]


@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, padding=1)], ids=str)
@pytest.mark.parametrize("table", [ONNX, CHANNELS_LAST], ids=["onnx", "channels last"])
def test_what_a_pool_spreads_is_masked_before(pool: nn.Module, table: Collection[OpOverload]) -> None:
    torch.manual_seed(0)
    step = traced(Net(pool, shared=False), torch.randn(4, 1, 8, 8), table)
    module = masked(step)
    assert sizes_of_masks(step.traced) == [8]
    assert sizes_of_masks(module) == [4]
    values = [
        value.mul(2).round() if value.is_floating_point() else value  # many ties
        for value in drawn_inputs(step, 5, torch.Generator().manual_seed(1))
    ]
    for got, expected in zip(module(*values), step.traced(*values), strict=True):
        torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_an_activation_that_is_read_elsewhere_is_masked_where_it_was() -> None:
    step = traced(Net(nn.MaxPool2d(2), shared=True), torch.randn(4, 1, 8, 8))
    assert sizes_of_masks(masked(step)) == [8]
