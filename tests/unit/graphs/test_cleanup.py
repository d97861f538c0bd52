"""Cleaning passes: identities, repetitions and dead nodes go, values stay."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from nagedge.graphs.cleanup import clean, operator_name

aten = torch.ops.aten


def graph_of(function: Callable[..., object], *arguments: Tensor) -> fx.GraphModule:
    return make_fx(function)(*arguments)


def names(module: fx.GraphModule) -> list[str]:
    return [operator_name(node) for node in module.graph.nodes if node.op == "call_function"]


def test_identities_and_dead_nodes_go() -> None:
    def function(x: Tensor) -> Tensor:
        aten.exp.default(x)
        return aten.mul.Tensor(aten.alias.default(aten.alias.default(x)), 2)

    module = graph_of(function, torch.randn(3))
    clean(module)
    assert names(module) == ["aten.mul"]
    x = torch.randn(3)
    assert torch.equal(module(x), x * 2)


def with_detach() -> fx.GraphModule:
    graph = fx.Graph()
    x = graph.placeholder("x")
    detached, copied = (
        graph.call_function(aten.detach.default, (x,)),
        graph.call_function(aten.clone.default, (x,)),
    )
    graph.output(graph.call_function(aten.mul.Tensor, (detached, copied)))
    return fx.GraphModule(torch.nn.Module(), graph)


def test_detach_stays_until_the_gradient_is_in_the_graph() -> None:
    before, after = with_detach(), with_detach()
    clean(before)
    clean(after, differentiated=True)
    assert names(before) == ["aten.detach", "aten.clone", "aten.mul"]
    assert names(after) == ["aten.mul"]
    x = torch.randn(3, requires_grad=True)
    (gradient,) = torch.autograd.grad(before(x).sum(), x)
    assert torch.equal(gradient, x.detach()), "the detached factor must have no gradient"


def test_repetitions_are_computed_once_and_only_true_ones() -> None:
    def function(x: Tensor) -> list[Tensor]:
        a, b = aten.mul.Tensor(x, 2), aten.mul.Tensor(x, 2)
        other, whole = aten.mul.Tensor(x, 2.0), aten.full.default([2], 1)
        flag = aten.full.default([2], True)
        return [aten.exp.default(a), aten.exp.default(b), other, whole, flag]

    module = graph_of(function, torch.randn(3))
    clean(module, differentiated=True)
    assert names(module).count("aten.exp") == 1
    assert names(module).count("aten.full") == 2, "1 and True are equal in Python, not in a graph"
    assert names(module).count("aten.mul") == 2
    results = module(torch.ones(3))
    assert torch.equal(results[0], results[1])
    assert (results[3].dtype, results[4].dtype) == (torch.int64, torch.bool)


def test_random_numbers_are_drawn_as_often_as_they_were() -> None:
    def function(x: Tensor) -> Tensor:
        return aten.sub.Tensor(aten.rand_like.default(x), aten.rand_like.default(x))

    module = graph_of(function, torch.zeros(50))
    clean(module, differentiated=True)
    assert names(module).count("aten.rand_like") == 2
    assert module(torch.zeros(50)).abs().max() > 0


def test_views_no_longer_depend_on_strides() -> None:
    module = graph_of(lambda x: aten.view.default(x, [6]), torch.randn(2, 3))
    clean(module)
    x = torch.randn(3, 2).t()
    assert torch.equal(module(x), x.reshape(6))


def test_pads_of_one_value_are_one_pad() -> None:
    def function(x: Tensor) -> list[Tensor]:
        twice = aten.constant_pad_nd.default(aten.constant_pad_nd.default(x, [1, 2]), [0, 1, 2, 0])
        cropped = aten.constant_pad_nd.default(aten.constant_pad_nd.default(x, [1, 2]), [-1, 1])
        mixed = aten.constant_pad_nd.default(aten.constant_pad_nd.default(x, [1, 2]), [1, 1], 5.0)
        return [twice, cropped, mixed]

    x = torch.randn(2, 3)
    module = graph_of(function, x)
    clean(module)
    assert names(module) == ["aten.constant_pad_nd"] * 5, (
        "one less; the first pad is still needed by the others"
    )
    for got, expected in zip(module(x), function(x), strict=True):
        assert torch.equal(got, expected)
    alone = graph_of(lambda x: function(x)[0], x)
    clean(alone)
    assert names(alone) == ["aten.constant_pad_nd"]
    assert torch.equal(alone(x), function(x)[0])
