"""Scattered sums on ONNX Runtime, where values may meet, and the gradients that are made of them."""

from __future__ import annotations

import pytest
import torch
from lowering_harness import Lowering, case, check, ints, lowered, normal
from torch import Tensor

from nagedge.backends.onnx_lowering.scatter import RULES
from nagedge.graphs.decompositions import scatter

aten = torch.ops.aten


def embedding(padding: int, dtype: torch.dtype) -> Lowering:
    def function(grad: Tensor, words: Tensor) -> list[Tensor]:
        total = scatter.embedding_dense_backward(grad, words, 5, padding, False)
        return [total.unsqueeze(0).expand(grad.shape[0], -1, -1)]

    label = f"embedding's gradient, {dtype}, padding {padding}"
    return case("scatter_add", label, function, normal(6, 3), ints(0, 5, 6, dtype=dtype), atol=1e-5)


CASES = [
    case(
        "scatter_add",
        "values that meet",
        lambda x, i, s: aten.scatter_add.default(x, 1, i, s),
        normal(4, 2),
        ints(0, 4, 6, 2),
        normal(6, 2),
    ),
    case(
        "scatter_add",
        "negative axis",
        lambda x, i, s: aten.scatter_add.default(x, -1, i, s),
        normal(4, 3),
        ints(0, 3, 4, 5),
        normal(4, 5),
    ),
    embedding(-1, torch.int64),
    embedding(2, torch.int32),
]


@pytest.mark.parametrize("item", CASES, ids=str)
def test_it_computes_what_torch_computes(item: Lowering) -> None:
    check(item)


def test_every_rule_has_a_case() -> None:
    assert set(RULES) == {item.lowers for item in CASES}


@pytest.mark.parametrize("padding", [-1, 2])
@pytest.mark.parametrize("by_frequency", [False, True])
def test_the_gradient_of_an_embedding_is_torchs(padding: int, by_frequency: bool) -> None:
    g = torch.Generator().manual_seed(0)
    grad, words = torch.randn(7, 6, 3, generator=g), torch.randint(0, 5, (7, 6), generator=g)
    arguments = (grad, words, 9, padding, by_frequency)
    torch.testing.assert_close(
        scatter.embedding_dense_backward(*arguments), aten.embedding_dense_backward.default(*arguments)
    )


def test_rows_are_added_in_order_on_one_thread() -> None:
    """``ScatterND`` would lose rows of one word where it runs on several threads."""
    _, model = lowered(embedding(-1, torch.int64))
    found = [node.op_type for node in model.graph.node]
    assert "ScatterElements" in found
    assert "ScatterND" not in found


def test_what_the_operator_cannot_say_is_expanded() -> None:
    x, indices, src = torch.zeros(4, 2), torch.zeros(3, 2, dtype=torch.int64), torch.ones(4, 2)
    assert scatter.scatter_add(x, 0, indices, src[:3]) is NotImplemented
    whole = torch.zeros(4, 2, dtype=torch.int64)
    got = scatter.scatter_add(whole, 0, indices, torch.ones(3, 2, dtype=torch.int64))
    assert torch.equal(got, aten.scatter_add.default(whole, 0, indices, torch.ones(3, 2, dtype=torch.int64)))
