"""Products with one matrix for the whole batch become one product; others stay."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from nagedge.graphs.forward import trace_forward
from nagedge.graphs.inference import trace_inference
from nagedge.graphs.products import merge_products
from nagedge.specs import TaskSpec

aten = torch.ops.aten
TASKS = (TaskSpec("kind", "classification", size=3),)


class Swapped(nn.Module):
    """A linear layer on swapped axes, as in attention; then a product of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner(x.transpose(0, 1)).transpose(0, 1)
        logits: Tensor = self.head(torch.bmm(torch.bmm(inner, inner.transpose(1, 2)), inner).mean(1))
        return logits


def products(module: fx.GraphModule) -> int:
    return sum(node.target is aten.bmm.default for node in module.graph.nodes)


def test_only_repeated_matrices_are_merged() -> None:
    torch.manual_seed(0)
    model = Swapped().eval()
    forward = trace_forward(model, torch.randn(4, 6, 4), TASKS)
    assert products(forward.module) == 3
    assert products(merge_products(forward.module)) == 2
    assert products(forward.module) == 3, "the graph itself is unchanged"
    state = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    graph = trace_inference(forward, state)
    assert graph.batch is None
    assert products(graph.module) == 2
    for batch in (1, 5):
        x = torch.randn(batch, 6, 4)
        torch.testing.assert_close(graph.module(x, *graph.state.values())[0], model(x), rtol=1e-5, atol=1e-6)


def test_a_graph_without_them_is_returned() -> None:
    forward = trace_forward(nn.Linear(4, 3).eval(), torch.randn(4, 4), TASKS)
    assert merge_products(forward.module) is forward.module
