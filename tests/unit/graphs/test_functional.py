"""In-place operators are made functional afterwards only where that is the same."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from nagedge.graphs.functional import made_functional

aten = torch.ops.aten


def _viewed(x: Tensor) -> Tensor:
    y = x * 2
    view = y.view(-1)
    y.add_(1)
    return view + y.view(-1)


def _two_of_one(x: Tensor) -> Tensor:
    y = x * 2
    return y.add_(1) * y


REPLACED: dict[str, Callable[[Tensor], Tensor]] = {
    "arithmetic": lambda x: (x * 2).add_(1).mul_(x),
    "reverse": lambda x: 1.0 - torch.empty_like(x).fill_(2.0).sub_(x),
    "mask": lambda x: x.ge(0.2).logical_and_(x.le(0.8)),
    "copy": lambda x: torch.empty_like(x).copy_(x) + 1,
    "the result, twice": _two_of_one,
    "derivative of silu": torch.func.grad(lambda x: torch.nn.functional.silu(x).sum()),
    "derivative of clamp": torch.func.grad(lambda x: (x * x).clamp(0.1, 0.5).sum()),
}
LEFT: dict[str, Callable[[Tensor], Tensor]] = {
    "an input": lambda x: x.add_(1),
    "a view": lambda x: (x * 2).view(-1).add_(1),
    "what a view is read of": _viewed,
    "a copy that spreads": lambda x: torch.empty_like(x).copy_(x[0]),
    "a copy to another type": lambda x: torch.empty_like(x, dtype=torch.float64).copy_(x),
    "what may not stay": lambda x: (x * 2).sigmoid_(),
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_change_of_what_is_new_is_replaced(name: str) -> None:
    x = torch.linspace(0, 1, 6).reshape(2, 3)
    module = make_fx(REPLACED[name])(x)
    assert made_functional(module.graph, {})
    module.graph.lint()
    module.recompile()
    assert not any(
        getattr(n.target, "_schema", None) and n.target._schema.is_mutable for n in module.graph.nodes
    )
    torch.testing.assert_close(module(x), REPLACED[name](x), rtol=0, atol=0)


@pytest.mark.parametrize("name", LEFT)
def test_other_changes_are_left_and_said_to_be(name: str) -> None:
    module = make_fx(LEFT[name])(torch.linspace(0, 1, 6).reshape(2, 3))
    assert not made_functional(module.graph, {aten.sigmoid.default})
