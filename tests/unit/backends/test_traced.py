"""What lowerings read off a traced graph, beside what torch does with the same node."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx

from nagedge.backends import traced

aten = torch.ops.aten
X = torch.arange(24.0).reshape(2, 1, 3, 4)


def node_of(target: Any, *arguments: Any, **keywords: Any) -> tuple[fx.Node, Any]:
    """Return a node that calls an operator on ``X``, and its result."""
    graph = fx.Graph()
    x = graph.placeholder("x")
    x.meta["val"] = X
    node = graph.call_function(target, (x, *arguments), keywords)
    node.meta["val"] = target(X, *arguments, **keywords)
    return node, node.meta["val"]


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (aten.permute.default, ([-1, 0, 2, 1],)), (aten.transpose.int, (-1, 1)),
        (aten.permute.default, ([0, 1, 2, 3],)),
    ],
)  # fmt: skip
def test_an_order_is_the_permutation(target: Any, arguments: tuple[Any, ...]) -> None:
    node, result = node_of(target, *arguments)
    assert torch.equal(X.permute(traced.order_of(node)), result)


@pytest.mark.parametrize("pads", [[1, 2], [1, 0, 0, 3], [-1, 2, 0, -1], [0, 0, 0, 0, 1, 1, 2, 0], []])
def test_pads_are_counted_from_the_first_axis(pads: list[int]) -> None:
    node, result = node_of(aten.constant_pad_nd.default, pads)
    found = traced.pads_of(node)
    assert [size + sum(pair) for size, pair in zip(X.shape, found, strict=True)] == list(result.shape)


@pytest.mark.parametrize("dim", [None, [], [-1], [0, -2], [3, 1]])
def test_axes_are_those_that_torch_reduces(dim: list[int] | None) -> None:
    node, result = node_of(aten.sum.dim_IntList, dim)
    axes = traced.axes_of(node)
    assert all(0 <= axis < X.dim() for axis in axes)
    assert torch.equal(X.sum(axes), result)


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (aten.squeeze.default, ()),
        (aten.squeeze.dim, (-3,)),
        (aten.squeeze.dim, (0,)),
        (aten.squeeze.dims, ([0, 1],)),
    ],
)
def test_only_axes_of_size_one_are_squeezed(target: Any, arguments: tuple[Any, ...]) -> None:
    node, result = node_of(target, *arguments)
    kept = [size for axis, size in enumerate(X.shape) if axis not in traced.squeezed_axes(node)]
    assert kept == list(result.shape)


@pytest.mark.parametrize(
    ("target", "arguments"),
    [(aten.full_like.default, (2.5,)), (aten.new_full.default, ([3], 7)), (aten.ones_like.default, ()),
     (aten.zeros_like.default, ())],
)  # fmt: skip
def test_the_number_of_a_filled_tensor(target: Any, arguments: tuple[Any, ...]) -> None:
    node, result = node_of(target, *arguments)
    assert traced.short_name(node) in traced.FILLED
    assert traced.as_stored(traced.fill_argument(node), result.dtype) == result.reshape(-1)[0].item()


@pytest.mark.parametrize(
    ("target", "arguments", "expected"),
    [(aten.arange.default, (5,), (0, 5, 1)), (aten.arange.start, (2, 5), (2, 5, 1)),
     (aten.arange.start_step, (2, 9, 3), (2, 9, 3))],
)  # fmt: skip
def test_a_range(target: Any, arguments: tuple[Any, ...], expected: tuple[int, ...]) -> None:
    assert traced.range_of(fx.Graph().call_function(target, arguments)) == expected
