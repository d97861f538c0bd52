"""Where tasks part: the two halves of a graph are the whole, cut at what the tasks share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.graphs.features import divide
from nagedge.graphs.forward import ForwardGraph, trace_forward
from nagedge.graphs.serialization import forward_from_json, forward_to_json
from nagedge.specs import TaskSpec

TASKS = (TaskSpec("a", "classification", size=3), TaskSpec("b", "regression", size=1))


class Plain(nn.Module):
    """A trunk and two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(6, 8), nn.ReLU())
        self.a, self.b = nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {"a": self.a(features), "b": self.b(features)}


class Stages(Plain):
    """One head reads an earlier stage; the trunk passes through a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.early, self.gate = nn.Linear(6, 6), nn.Linear(8, 16)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        early = torch.tanh(self.early(x))
        left, right = self.gate(self.trunk(early)).chunk(2, dim=1)
        late = left * torch.sigmoid(right)
        return {"a": self.a(late), "b": self.b(late) + early.mean(1, keepdim=True)}


class Split(Plain):
    """The last shared tensor is cut in two, one part a task."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        left, right = self.trunk(x).chunk(2, dim=1)
        return {"a": self.a(left), "b": self.b(right)}


class Derived(Plain):
    """One task's output is made of the other's."""

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        first = self.a(self.trunk(x))
        return {"a": first, "b": first.sum(1, keepdim=True) ** 2}


def traced(model: nn.Module, *, statistics: bool = False) -> tuple[ForwardGraph, dict[str, Tensor]]:
    model.eval()
    graph = trace_forward(model, torch.randn(5, 6), TASKS, batch_norm_training=statistics)
    state = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return graph, {name: tensor.detach() for name, tensor in state.items()}


@pytest.mark.parametrize(
    ("model", "shapes"),
    [(Plain, [(4, 8)]), (Stages, [(4, 6), (4, 8)]), (Split, [(4, 8)]), (Derived, [(4, 3)])],
)
@pytest.mark.parametrize("stored", [False, True])
def test_the_halves_are_the_whole(
    model: type[nn.Module], shapes: list[tuple[int, ...]], stored: bool
) -> None:
    torch.manual_seed(0)
    graph, state = traced(model())
    if stored:
        graph = forward_from_json(forward_to_json(graph), where="here")
    divided = divide(graph, [name for name, _ in model().named_parameters()])
    x = torch.randn(4, 6)
    features, buffers = divided.shared(state, [x])
    outputs, more = divided.outputs(state, [x], features)
    expected, _ = graph(state, [x])
    assert [tuple(feature.shape) for feature in features] == shapes
    assert not buffers
    assert not more
    for name, value in expected.items():
        torch.testing.assert_close(outputs[name], value)
    changed, _ = divided.outputs(state, [x + 1], [torch.zeros_like(feature) for feature in features])
    again, _ = divided.outputs(state, [x], [torch.zeros_like(feature) for feature in features])
    torch.testing.assert_close(changed, again)  # the heads see the features alone


def test_buffers_are_updated_in_the_half_that_computes_them() -> None:
    class Normed(Plain):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8))
            self.a = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))  # type: ignore[assignment]

    graph, state = traced(Normed(), statistics=True)
    divided = divide(graph, ["trunk.0.weight"])
    x = torch.randn(4, 6)
    features, above = divided.shared(state, [x])
    _, below = divided.outputs(state, [x], features)
    _, expected = graph(state, [x])
    assert {name.partition(".")[0] for name in above} == {"trunk"}
    assert {name.partition(".")[0] for name in below} == {"a"}
    for name, value in expected.items():
        torch.testing.assert_close({**above, **below}[name], value)


def test_tasks_that_share_nothing_trained_are_refused() -> None:
    graph, _ = traced(Plain())
    with pytest.raises(
        ConfigurationError, match="no tensor that depends on trained parameters reaches two tasks"
    ):
        divide(graph, ["a.weight", "a.bias", "b.weight"])
