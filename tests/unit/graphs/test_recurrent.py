"""Recurrent layers stay whole in the forward graph and become layers with derivatives of their own in the others."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

from nagedge.graphs.decompositions import ONNX
from nagedge.graphs.forward import FixedBatchError, ForwardGraph, trace_forward
from nagedge.graphs.inference import trace_inference
from nagedge.graphs.serialization import forward_from_json, forward_to_json
from nagedge.graphs.specialization import specialize
from nagedge.graphs.train_step import StepGraph, trace_train_step
from nagedge.specs import TaskSpec

aten = torch.ops.aten
TASKS = (TaskSpec("kind", "classification", size=3),)


class Sequences(nn.Module):
    """A recurrent layer's last output, through a head."""

    def __init__(self, layer: nn.Module, features: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(features, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.layer(x)[0][:, -1])
        return logits


def traced(
    layer: nn.Module, features: int, time: int = 5
) -> tuple[nn.Module, ForwardGraph, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = Sequences(layer, features).eval()
    forward = trace_forward(model, torch.randn(4, time, 3), TASKS)
    return model, forward, {name: tensor.detach() for name, tensor in model.state_dict().items()}


def step_of(
    forward: ForwardGraph, state: dict[str, Tensor], names: list[str], table: dict[Any, Any]
) -> StepGraph:
    return specialize(trace_train_step(forward, state, names, TASKS, deferred={*ONNX}), table)


def called(module: fx.GraphModule) -> Counter[str]:
    return Counter(
        node.target.overloadpacket.__name__
        if isinstance(node.target, torch._ops.OpOverload)
        else str(node.target)
        for node in module.graph.nodes
        if node.op == "call_function"
    )


@pytest.mark.parametrize(
    ("layer", "operator", "features"),
    [
        (nn.GRU(3, 4, num_layers=2, bidirectional=True, batch_first=True), aten.gru.input, 8),
        (nn.LSTM(3, 4, batch_first=True), aten.lstm.input, 4),
        (nn.LSTM(3, 4, proj_size=2, batch_first=True), aten.lstm.input, 2),
        (nn.RNN(3, 4, batch_first=True), aten.rnn_tanh.input, 4),
        (nn.RNN(3, 4, nonlinearity="relu", batch_first=True), aten.rnn_relu.input, 4),
    ],
    ids=["gru", "lstm", "lstm with projection", "rnn", "rnn with relu"],
)
def test_the_forward_graph_names_torchs_operator(layer: nn.Module, operator: Any, features: int) -> None:
    model, forward, state = traced(layer, features)
    assert [node.target for node in forward.module.graph.nodes].count(operator) == 1
    assert forward.batch is None
    read = forward_from_json(forward_to_json(forward), where="test")
    x = torch.randn(6, 5, 3)
    for graph in (forward, read):
        torch.testing.assert_close(graph(state, [x])[0]["kind"], model(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM, nn.RNN])
def test_a_step_for_onnx_is_as_large_for_long_sequences(kind: type[nn.Module]) -> None:
    sizes = []
    for time in (3, 8):
        _, forward, state = traced(kind(3, 4, batch_first=True), 4, time)
        sizes.append(called(step_of(forward, state, list(state), dict(ONNX)).module))
    assert sizes[0] == sizes[1]
    layer = f"{kind.__name__.lower()}_layer"
    assert sizes[0][layer] == 1
    assert sizes[0]["states_gradient" if kind is nn.LSTM else "state_gradient"] == 1


def test_other_backends_get_portable_operators_that_compute_the_same() -> None:
    _, forward, state = traced(nn.GRU(3, 4, batch_first=True), 4)
    whole, portable = (step_of(forward, state, list(state), table) for table in (dict(ONNX), {}))
    assert not {"gru_layer", "state_gradient"} & set(called(portable.module))
    g = torch.Generator().manual_seed(1)
    values = [
        torch.randint(0, 3, [6], generator=g)
        if spec.dtype == "int64"
        else torch.randn([6 if size == "batch" else int(size) for size in spec.shape], generator=g)
        for spec in whole.inputs
    ]
    for got, expected in zip(portable.module(*values), whole.module(*values), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-6, atol=1e-6)


def test_a_frozen_layer_keeps_nothing_for_a_gradient() -> None:
    _, forward, state = traced(nn.GRU(3, 4, batch_first=True), 4)
    step = step_of(forward, state, ["head.weight", "head.bias"], dict(ONNX))
    (layer,) = (node for node in step.module.graph.nodes if "gru_layer" in str(node.target))
    assert [user.args[1] for user in layer.users] == [0]
    assert not called(step.module)["state_gradient"]
    assert {name for name in step.constants if name.startswith("layer.")} == {
        name for name in state if name.startswith("layer.")
    }


def test_a_loop_over_the_batch_fixes_its_size() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            states: Tensor = self.layer(x)[0]
            return states

    model = Rows().eval()
    forward = trace_forward(model, torch.randn(4, 3), TASKS)
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    with pytest.raises(FixedBatchError):
        trace_inference(forward, state)
    with pytest.raises(FixedBatchError):
        trace_train_step(forward, state, list(state), TASKS, deferred={*ONNX})


def test_inference_has_both_forms() -> None:
    model, forward, state = traced(nn.LSTM(3, 4, batch_first=True), 4)
    graph = trace_inference(forward, state)
    assert called(graph.whole)["lstm_layer"] == 1
    assert not called(graph.module)["lstm_layer"]
    x = torch.randn(2, 5, 3)
    for module in (graph.module, graph.whole):
        torch.testing.assert_close(module(x, *graph.state.values())[0], model(x), rtol=1e-6, atol=1e-6)


def test_a_graph_without_recurrent_layers_has_one_form() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).eval()
    forward = trace_forward(model, torch.randn(4, 2, 3), TASKS)
    graph = trace_inference(forward, {name: tensor.detach() for name, tensor in model.state_dict().items()})
    assert graph.whole is graph.module
