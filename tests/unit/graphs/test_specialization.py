"""A step traced once and expanded afterwards is the step that is traced with a backend's own rules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from step_harness import drawn_inputs
from torch import Tensor, nn

from nagedge.graphs.decompositions import ONNX, PORTABLE
from nagedge.graphs.forward import FixedBatchError, ForwardGraph, trace_forward
from nagedge.graphs.specialization import specialize
from nagedge.graphs.train_step import StepGraph, trace_train_step
from nagedge.specs import TaskSpec

aten = torch.ops.aten
Traced = tuple[ForwardGraph, dict[str, Tensor], list[str]]
TASKS = (TaskSpec("kind", "classification", size=3),)


class Net(nn.Module):
    """Convolutions of every sort: strided, dilated, grouped, depthwise, transposed, 1-d; and pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2),
            nn.MaxPool2d(2), nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.Tanh(),
            nn.ConvTranspose2d(4, 3, 2, stride=2), nn.Flatten(2), nn.Conv1d(3, 2, 5), nn.Flatten(),
        )  # fmt: skip
        self.head = nn.LazyLinear(3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.trunk(x))
        return logits


@pytest.fixture(scope="module")
def traced() -> Traced:
    torch.manual_seed(0)
    model = Net().eval()
    model(torch.randn(2, 2, 16, 16))
    forward = trace_forward(model, torch.randn(4, 2, 16, 16), TASKS)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    return forward, state, list(state)


def operators(step: StepGraph) -> list[str]:
    """What the graph's nodes are; constants have names of their own."""
    return sorted(n.op if n.op == "get_attr" else str(n.target) for n in step.module.graph.nodes)


def assert_same(one: StepGraph, other: StepGraph) -> None:
    g = torch.Generator().manual_seed(1)
    for batch in (3, 1):
        values = drawn_inputs(one, batch, g)
        for got, expected in zip(one.module(*values), other.module(*values), strict=True):
            torch.testing.assert_close(got, expected, rtol=0, atol=0)


@pytest.mark.parametrize("table", [{}, ONNX], ids=["portable", "onnx"])
def test_expanding_later_gives_the_same_graph(traced: Traced, table: dict[Any, Any]) -> None:
    forward, state, names = traced
    rule = aten.convolution_backward.default
    whole = trace_train_step(forward, state, names, TASKS, deferred={rule, *ONNX})
    assert any(node.target is rule for node in whole.traced.graph.nodes)
    late = specialize(whole, table)
    early = trace_train_step(forward, state, names, TASKS, overrides=table)
    assert not late.deferred
    assert late.outputs == early.outputs
    assert operators(late) == operators(early)
    assert_same(late, early)
    assert any(node.target is rule for node in whole.traced.graph.nodes), "the shared trace is unchanged"


def test_a_rule_that_fixes_the_batch_is_found(traced: Traced) -> None:
    forward, state, names = traced
    rule = aten.convolution_backward.default
    whole = trace_train_step(forward, state, names, TASKS, deferred={rule})

    def fixing(grad: Tensor, *args: object) -> object:
        assert int(grad.shape[0]) == 7  # the traced size: a guard on the batch
        return PORTABLE[rule](grad, *args)

    with pytest.raises(FixedBatchError, match="fixes the batch size"):
        specialize(whole, {rule: fixing})


class Pair(nn.Module):
    """The product of two layers of one kind, by an operator that backends take apart in their own ways."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(2, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)
        self.head = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.addcmul(x, self.one(x), self.other(x)).mean((2, 3)))
        return logits


def test_values_that_one_expansion_serves_are_not_taken_for_one() -> None:
    torch.manual_seed(0)
    model = Pair().eval()
    forward = trace_forward(model, torch.randn(4, 2, 8, 8), TASKS)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    whole = trace_train_step(forward, state, list(state), TASKS, deferred=ONNX)
    assert_same(specialize(whole, ONNX), trace_train_step(forward, state, list(state), TASKS, overrides=ONNX))
