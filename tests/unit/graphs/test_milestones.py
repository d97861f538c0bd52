"""Which steps ask for an order: those whose backward pass holds something."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from nagedge.graphs.decompositions import ONNX
from nagedge.graphs.forward import trace_forward
from nagedge.graphs.liveness import Limits
from nagedge.graphs.milestones import marked, milestones_of
from nagedge.graphs.specialization import specialize
from nagedge.graphs.train_step import StepGraph, trace_train_step
from nagedge.specs import TaskSpec

TASKS = (TaskSpec("kind", "classification", size=3),)


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    trunk = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
    )
    return nn.Sequential(trunk, nn.Flatten(), nn.Linear(8, 3)).eval()


def traced(model: nn.Module, first: str) -> StepGraph:
    """Return the step that trains the parameters whose names begin so."""
    forward = trace_forward(model, torch.randn(4, 1, 12, 12), TASKS)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    names = [name for name in state if name.startswith(first)]
    return specialize(trace_train_step(forward, state, names, TASKS, deferred=ONNX), ONNX)


def test_convolutions_ask_for_their_gradients_in_order(model: nn.Module) -> None:
    step = traced(model, "")
    assert len(milestones_of(marked(step))) >= len(step.trainable)


def test_heads_alone_ask_for_no_order_unless_memory_is_limited(model: nn.Module) -> None:
    step = traced(model, "2.")
    module = marked(step)
    assert milestones_of(module) == []
    output = next(node for node in module.graph.nodes if node.op == "output")
    assert len(output.args[0]) == len(step.outputs)
    assert milestones_of(marked(replace(step, limits=Limits(bytes=1, slowdown=1.0))))
