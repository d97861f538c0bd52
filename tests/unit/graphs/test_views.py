"""Reshapes move behind elementwise operators and vanish where they meet; values stay."""

from __future__ import annotations

import torch
from step_harness import drawn_inputs
from torch import Tensor, nn

from nagedge.graphs.decompositions import ONNX
from nagedge.graphs.forward import trace_forward
from nagedge.graphs.specialization import specialize
from nagedge.graphs.train_step import StepGraph, trace_train_step
from nagedge.graphs.views import reshaped_late
from nagedge.specs import TaskSpec

aten = torch.ops.aten
TASKS = (TaskSpec("kind", "classification", size=3),)


class Squeezed(nn.Module):
    """Squeeze and excitation, whose layers are products of ``[batch, C]``."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.down, self.up = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        gate = self.up(self.down(y.mean((2, 3), keepdim=True)).relu())
        logits: Tensor = self.head((y * nn.functional.hardsigmoid(gate) + gate).mean((2, 3)))
        return logits


def traced(trainable: list[str]) -> StepGraph:
    torch.manual_seed(0)
    model = Squeezed().eval()
    forward = trace_forward(model, torch.randn(4, 2, 6, 6), TASKS)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    names = [name for name in state if name.partition(".")[0] in trainable]
    return specialize(trace_train_step(forward, state, names, TASKS, deferred=ONNX), ONNX)


def shapes_of_activations(step: StepGraph) -> set[int]:
    """Ranks at which ReLU and hard sigmoid, which are clamped lines, are computed."""
    wanted = (aten.relu.default, aten.clamp.default)
    return {node.meta["val"].dim() for node in step.module.graph.nodes if node.target in wanted}


def test_activations_of_products_are_computed_on_matrices() -> None:
    step = traced(["head"])
    late = reshaped_late(step)
    assert shapes_of_activations(step) == {4}
    assert shapes_of_activations(late) == {2}
    assert shapes_of_activations(step) == {4}, "the step itself is unchanged"


def test_values_stay_at_every_batch_size() -> None:
    step = traced(["inner", "down", "up", "head"])
    late = reshaped_late(step)
    assert late.outputs == step.outputs
    assert len(late.traced.graph.nodes) < len(step.traced.graph.nodes)
    g = torch.Generator().manual_seed(1)
    for batch in (1, 5):
        values = drawn_inputs(step, batch, g)
        for got, expected in zip(late.traced(*values), step.traced(*values), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)
