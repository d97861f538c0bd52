"""What lives at the same time in a functional graph: sizes, and from where to where each tensor is needed."""

from __future__ import annotations

import functools
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]  # ships no types
import torch
from torch import Tensor, fx

__all__ = [
    "DEFAULT_LIMITS",
    "VIEWS",
    "Lifetimes",
    "Limits",
    "lifetimes",
    "owners_of",
    "results_of",
    "size_bytes",
    "size_of",
]

aten = torch.ops.aten

VIEWS = frozenset({
    aten.reshape.default, aten.view.default, aten.squeeze.dims, aten.squeeze.dim,
    aten.squeeze.default, aten.unsqueeze.default, aten.alias.default, aten.detach.default,
})  # fmt: skip
"""Operators whose result shares its input's memory in every runtime."""


@dataclass(frozen=True)
class Lifetimes:
    """Of the tensors that a graph computes; places count its nodes.

    Attributes:
        sizes: in bytes, of every node that holds memory of its own.
        first, last: the places at which it is made and last read.
        live: bytes held while each node is computed.
        peak: the place at which most is held. most: the bytes held there.
    """

    sizes: Mapping[fx.Node, int]
    first: Mapping[fx.Node, int]
    last: Mapping[fx.Node, int]
    live: Sequence[int]
    peak: int
    most: int


@dataclass(frozen=True)
class Limits:
    """How far to go in computing values again instead of keeping them (:mod:`nagedge.graphs.rematerialisation`).

    Attributes:
        bytes: stop when no more is held.
        slowdown: the most that may be computed again, as a part of the step's estimated time. The default costs nothing
            that can be measured: MobileNetV3-small-050 takes 0.99 times as long, on 18 MiB instead of 21.
        products: whether convolutions and matrix products of activations may be computed again.
        smallest: the least that a value must have, as a part of what is held, to be computed again.
    """

    bytes: int = 0
    slowdown: float = 0.03
    products: bool = False
    smallest: float = 0.004


DEFAULT_LIMITS = Limits()


def lifetimes(nodes: Sequence[fx.Node], rows: int, *, views: frozenset[object] = VIEWS) -> Lifetimes:
    """Return what a runtime holds that computes ``nodes`` in their order and frees each tensor after its last use.

    Inputs, constants and the outputs are held elsewhere and do not count.

    Args:
        nodes: of a functional graph with ``meta["val"]``.
        rows: the size of a symbolic batch.
        views: what shares its input's memory.
    """
    owners = owners_of(nodes, views)
    outputs = results_of(nodes, owners)
    sizes: dict[fx.Node, int] = {}
    first: dict[fx.Node, int] = {}
    last: dict[fx.Node, int] = {}
    for place, node in enumerate(nodes):
        if node.op == "call_function" and owners[node] == {node} and node not in outputs:
            sizes[node] = size_bytes(node, rows)
            first[node] = last[node] = place
        for used in node.all_input_nodes:
            last |= dict.fromkeys((owner for owner in owners[used] if owner in first), place)
    change = [0] * (len(nodes) + 1)
    for node, size in sizes.items():
        change[first[node]] += size
        change[last[node] + 1] -= size
    live, now = [], 0
    for difference in change[:-1]:
        now += difference
        live.append(now)
    most = max(live, default=0)
    return Lifetimes(sizes, first, last, live, live.index(most) if live else 0, most)


def owners_of(nodes: Iterable[fx.Node], views: frozenset[object] = VIEWS) -> dict[fx.Node, set[fx.Node]]:
    """Return for every node those that hold the memory of its value: itself, or what it is a view of."""
    owners: dict[fx.Node, set[fx.Node]] = {}
    for node in nodes:
        shares = node.op == "call_function" and (node.target in views or node.target is operator.getitem)
        owners[node] = owners[node.all_input_nodes[0]] if shares else {node}
    return owners


def results_of(nodes: Iterable[fx.Node], owners: Mapping[fx.Node, set[fx.Node]]) -> set[fx.Node]:
    """Return the nodes that hold the memory of what a graph returns; ``owners`` as :func:`owners_of` finds them."""
    given = (used for node in nodes if node.op == "output" for used in node.all_input_nodes)
    return {owner for used in given for owner in owners[used]}


def size_bytes(node: fx.Node, rows: int) -> int:
    """Return the bytes of a node's value, of all its results together.

    Args:
        node: with ``meta["val"]``.
        rows: the size of a symbolic batch.
    """
    value = node.meta.get("val")
    tensors = value if isinstance(value, (list, tuple)) else [value]
    return sum(_count(t, rows) * t.element_size() for t in tensors if isinstance(t, Tensor))


def _count(tensor: Tensor, rows: int) -> int:
    count = 1
    sizes: Sequence[Any] = tuple(tensor.shape)
    for size in sizes:
        count *= size_of(size.node.expr, rows) if isinstance(size, torch.SymInt) else int(size)
    return count


@functools.lru_cache(maxsize=4096)
def size_of(expression: sympy.Expr, rows: int) -> int:
    """Return a size that depends on the batch, for a batch of ``rows``."""
    return int(expression.subs(dict.fromkeys(expression.free_symbols, rows)))
