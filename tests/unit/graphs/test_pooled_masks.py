"""Gradients are masked before they go through max pooling: the same values, fewer of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nagedge.graphs.decompositions import ONNX
from nagedge.graphs.forward import trace_forward
from nagedge.graphs.specialization import specialize
from nagedge.graphs.train_step import StepGraph, trace_train_step
from nagedge.specs import TaskSpec

aten = torch.ops.aten
TASKS = (TaskSpec("kind", "classification", size=3),)


class Skipping(nn.Module):
    """What ReLU gives is read by the pool and by another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x).relu()
        return torch.cat([nn.functional.max_pool2d(y, 2).flatten(1), y.flatten(1)], 1)


TRUNKS = {
    "side by side": (nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), 64, True),
    "overlapping": (nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(3, 2, 1), nn.Flatten()), 36, True),
    "one axis": (nn.Sequential(nn.Flatten(1), nn.Unflatten(1, (1, 64)), nn.Conv1d(1, 4, 3), nn.ReLU(),
                               nn.MaxPool1d(2), nn.Flatten()), 124, False),
    "read twice": (Skipping(), 64 + 256, False),
}  # fmt: skip


def step_of(name: str, *, whole: bool) -> StepGraph:
    torch.manual_seed(0)
    trunk, features, _ = TRUNKS[name]
    model = nn.Sequential(trunk, nn.Linear(features, 3)).eval()
    forward = trace_forward(model, torch.randn(4, 1, 8, 8), TASKS)
    state = {key: tensor.detach() for key, tensor in model.state_dict().items()}
    if whole:
        return specialize(trace_train_step(forward, state, list(state), TASKS, deferred=set(ONNX)), ONNX)
    return trace_train_step(forward, state, list(state), TASKS, overrides=ONNX)


@pytest.mark.parametrize("name", TRUNKS)
def test_gradients_are_the_same(name: str) -> None:
    step, reference = step_of(name, whole=True), step_of(name, whole=False)
    generator = torch.Generator().manual_seed(1)
    for batch in (3, 1):
        values = [
            torch.randint(0, 3, [batch], generator=generator)
            if spec.dtype == "int64"
            else torch.randn([batch if size == "batch" else size for size in spec.shape], generator=generator)
            for spec in step.inputs
        ]
        values[0] = values[0].round()  # windows with more than one maximum
        for got, expected in zip(step.module(*values), reference.module(*values), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", TRUNKS)
def test_the_mask_is_made_of_what_the_pool_gives(name: str) -> None:
    _, _, is_moved = TRUNKS[name]
    steep = [
        node.args[0]
        for node in step_of(name, whole=True).module.graph.nodes
        if node.target is aten.mul.Tensor and node.args[1] == 2.0**126
    ]
    (of,) = steep
    pooled = of.target is not aten.relu.default
    assert pooled == is_moved
