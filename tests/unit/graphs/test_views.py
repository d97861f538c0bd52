"""Reshapes move behind elementwise operators and vanish where they meet; values stay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from step_harness import drawn_inputs
from torch import Tensor, fx, nn

from nagedge.graphs.decompositions import ONNX
from nagedge.graphs.forward import trace_forward
from nagedge.graphs.milestones import marked, milestones_of
from nagedge.graphs.specialization import specialize
from nagedge.graphs.train_step import StepGraph, trace_train_step
from nagedge.graphs.views import reshaped_late
from nagedge.specs import TaskSpec

aten = torch.ops.aten


class InOrder(fx.Interpreter):
    """Runs a graph with every result laid out in order: how torch rounds a sum depends on the layout."""

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        return result.contiguous() if isinstance(result, Tensor) else result


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


class Strided(nn.Module):
    """Three strided layers that read one image, whose gradients are added, before a branch that goes up."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(2, 16, 3)
        self.first, self.second = nn.Conv2d(16, 2, 3, 2, 1), nn.Conv2d(16, 2, 3, 2, 1)
        self.frozen, self.up = nn.Conv2d(16, 2, 3, 2, 1), nn.Conv2d(2, 16, 1, bias=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        strided = self.first(y) + self.second(y) + self.frozen(y)
        logits: Tensor = self.head(self.up(strided.relu()).mean((2, 3)))
        return logits


def traced(trainable: list[str], kind: type[nn.Module] = Squeezed) -> StepGraph:
    torch.manual_seed(0)
    model = kind().eval()
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


@pytest.mark.parametrize(
    ("kind", "trainable"),
    [(Squeezed, ["inner", "down", "up", "head"]), (Strided, ["inner", "first", "second", "up", "head"])],
)
def test_values_stay_at_every_batch_size(kind: type[nn.Module], trainable: list[str]) -> None:
    step = traced(trainable, kind)
    late = reshaped_late(step)
    assert late.outputs == step.outputs
    assert len(late.traced.graph.nodes) < len(step.traced.graph.nodes)
    g = torch.Generator().manual_seed(1)
    for batch in (1, 5):
        values = drawn_inputs(step, batch, g)
        found = zip(InOrder(late.traced).run(*values), InOrder(step.traced).run(*values), strict=True)
        for got, expected in found:
            torch.testing.assert_close(got, expected, rtol=0, atol=0)


def test_gradients_of_strided_layers_are_added_before_they_are_moved() -> None:
    """The phases of the two branches' gradients, and of the frozen layer's, are added as matrices."""
    step = traced(["inner", "first", "second", "up", "head"], Strided)
    assert added(step) == [4, 4]
    assert added(reshaped_late(step)) == [2, 2]


def added(step: StepGraph) -> list[int]:
    """Ranks at which gradients of 16 channels of 4x4 are added: as images, or as matrices of four phases each."""
    sizes = {4: [16, 4, 4], 2: [64]}
    sums = [node.meta["val"] for node in step.module.graph.nodes if node.target is aten.add.Tensor]
    return [value.dim() for value in sums if list(value.shape[1:]) == sizes.get(value.dim())]


def test_the_gradient_of_a_mean_is_divided_before_it_is_repeated() -> None:
    late = reshaped_late(traced(["inner", "head"], Strided))
    repeated = [node for node in late.module.graph.nodes if node.target is aten.expand.default]
    assert [node.meta["val"].dim() for node in repeated if node.meta["val"].dim() == 4] == [4]
    divided = [node for node in late.module.graph.nodes if node.target is aten.div.Scalar]
    assert [list(node.meta["val"].shape[1:]) for node in divided] == [[16, 1, 1]]


def test_gradients_of_branches_are_joined_as_products_gave_them() -> None:
    """Of three layers that go up: neither turned nor reshaped one by one; their values are the same."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.head = nn.Conv2d(2, 2, 1), nn.Linear(18, 3)
            self.up = nn.ModuleList(nn.Conv2d(2, wide, 1, bias=False) for wide in (16, 18, 18))

        def forward(self, x: Tensor) -> Tensor:
            y = self.inner(x)
            logits: Tensor = self.head(torch.cat([up(y).relu() for up in self.up], 1).mean((2, 3))[:, :18])
            return logits

    step = traced(["up", "head"], Branches)
    late = reshaped_late(step)
    joined = [node for node in late.module.graph.nodes if node.target is aten.cat.default]
    products = [node for node in joined if all(part.target is aten.mm.default for part in node.args[0])]
    assert [node.meta["val"].shape for node in products] == [(2, 52)]
    values = drawn_inputs(step, 3, torch.Generator().manual_seed(1))
    found = zip(InOrder(late.traced).run(*values), InOrder(step.traced).run(*values), strict=True)
    for got, expected in found:
        torch.testing.assert_close(got, expected, rtol=0, atol=0)
    assert len(milestones_of(marked(late))) == len(milestones_of(marked(step)))
