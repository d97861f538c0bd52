"""Computing values of the forward pass again in the backward pass, instead of keeping them: less memory, more time.

Between the forward pass, which makes an activation, and the backward pass, which reads it again, it only takes memory;
where most memory is held, that is a large part of it. What follows from values that are kept anyway (an activation from
what it was applied to, a padded map, the matrix of a depthwise layer's weight) is computed again from them.

A runtime would notice that the same is computed twice, and share the result. So a copy reads its arguments through
:func:`after`, which changes nothing and says that a milestone of the backward pass (:mod:`nagedge.graphs.milestones`)
comes first.

Values are chosen one by one, always the one that frees most bytes for its cost where most is held (as in Chen et al.
2016, arXiv:1604.06174, and Jain et al. 2020, arXiv:1910.02653, with a greedy choice instead of an optimal one).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from nagedge.graphs.liveness import VIEWS, Lifetimes, Limits, lifetimes, size_bytes
from nagedge.graphs.milestones import MILESTONE

__all__ = ["after", "rematerialise"]

aten = torch.ops.aten

_ELEMENTWISE = frozenset({
    "abs", "add", "clamp", "clone", "div", "eq", "exp", "ge", "gt", "hardsigmoid", "hardswish", "le",
    "leaky_relu", "log", "logical_and", "logical_not", "logical_or", "lt", "maximum", "minimum", "mul", "ne",
    "neg", "reciprocal", "relu", "rsqrt", "sigmoid", "sqrt", "sub", "tanh", "where",
})  # fmt: skip
_MOVES = frozenset({
    "cat", "constant_pad_nd", "expand", "flip", "index_select", "permute", "select", "slice",
    "split_with_sizes", "squeeze", "transpose",
})  # fmt: skip
_PRODUCTS = frozenset(["addmm", "bmm", "convolution", "mm"])

_LONGEST = 16
"""Nodes in a row that may be computed again for one value."""

_BYTES_PER_S, _FLOPS_PER_S, _NODE_S = 16e9, 40e9, 2e-6
"""Of one core, to compare costs with: what it moves, multiplies and adds, and spends on a node that does nothing."""


def after(value: Tensor, milestone: Tensor) -> Tensor:
    """Return ``value``; a runtime computes ``milestone`` before what reads the result."""
    del milestone
    return value


_OWN_VIEWS = VIEWS | {after}


@dataclass(frozen=True)
class _Copy:
    """What to compute again.

    Attributes:
        owner: of the memory that is freed.
        nodes: in their order.
        readers: of those of them that are read, who reads the copy.
        first: the first reader. milestone: what comes before it.
        freed_bytes: where most is held. seconds: what it costs.
    """

    owner: fx.Node
    nodes: tuple[fx.Node, ...]
    readers: Mapping[fx.Node, tuple[fx.Node, ...]]
    first: fx.Node
    milestone: fx.Node
    freed_bytes: int
    seconds: float


def rematerialise(module: fx.GraphModule, rows: int, limits: Limits) -> int:
    """Compute values again in ``module``, in place, and return the bytes that are then held at once.

    Args:
        module: a marked step (:func:`nagedge.graphs.milestones.marked`), its nodes in the order in which they are
            computed.
        rows: the batch size to plan for.
        limits: when to stop.
    """
    _separate_lines(module.graph)
    allowed = limits.slowdown * sum(_seconds([node], rows) for node in module.graph.nodes)
    refused: set[fx.Node] = set()
    nodes = list(module.graph.nodes)
    held = lifetimes(nodes, rows, views=_OWN_VIEWS)
    while held.most > limits.bytes:
        places = {node: place for place, node in enumerate(nodes)}
        smallest = limits.smallest * held.most
        idle = [
            node
            for node, size in held.sizes.items()
            if size >= smallest and held.first[node] < held.peak < held.last[node] and node not in refused
        ]
        copies = [copy for node in idle if (copy := _copy(node, nodes, places, held, rows, limits))]
        copies = [copy for copy in copies if copy.seconds <= allowed]
        if not copies:
            break
        best = max(copies, key=lambda copy: copy.freed_bytes / copy.seconds)
        made = _apply(module.graph, best)
        nodes = list(module.graph.nodes)
        then = lifetimes(nodes, rows, views=_OWN_VIEWS)
        if then.most > held.most:  # what it is computed from would have to be held too long
            _undo(module.graph, best, made)
            refused.add(best.owner)
            nodes = list(module.graph.nodes)
        else:
            held = then
            allowed -= best.seconds
    module.recompile()
    return held.most


def _separate_lines(graph: fx.Graph) -> None:
    """Give every reader of a value times or plus a number its own: backends make it part of what reads it."""
    for node in list(graph.nodes):
        if _is_line(node):
            for user in list(node.users)[1:]:
                with graph.inserting_before(user):
                    user.replace_input_with(node, graph.node_copy(node))


def _is_line(node: fx.Node) -> bool:
    return _name(node) in ("add", "mul") and len(node.all_input_nodes) == 1 and len(node.args) == 2


def _copy(
    node: fx.Node,
    nodes: Sequence[fx.Node],
    places: Mapping[fx.Node, int],
    held: Lifetimes,
    rows: int,
    limits: Limits,
) -> _Copy | None:
    """Return how to compute ``node`` again behind the peak, if it is idle there and can be."""
    late = _late_readers(node, places, held.peak)
    if not late:
        return None
    first = min((reader for readers in late.values() for reader in readers), key=places.__getitem__)
    start = places[first]
    milestone = next((nodes[p] for p in range(start - 1, held.peak, -1) if MILESTONE in nodes[p].meta), None)
    if milestone is None:
        return None
    chain = _chain(node, late, held, limits)
    if chain is None:
        return None
    return _Copy(node, chain, late, first, milestone, held.sizes[node], _seconds(chain, rows))


def _late_readers(
    node: fx.Node, places: Mapping[fx.Node, int], peak: int
) -> dict[fx.Node, tuple[fx.Node, ...]]:
    """Return what reads the node or a view of it behind the peak, by what it reads; nothing if it is read there."""
    late: dict[fx.Node, tuple[fx.Node, ...]] = {}
    waiting = [node]
    while waiting:
        now = waiting.pop()
        readers = []
        for user in now.users:
            if places[user] > peak:
                readers.append(user)
            elif user.target in _OWN_VIEWS:
                waiting.append(user)
            elif places[user] == peak:
                return {}
        if readers:
            late[now] = tuple(readers)
    return late


def _chain(
    owner: fx.Node, values: Collection[fx.Node], held: Lifetimes, limits: Limits
) -> tuple[fx.Node, ...] | None:
    """Return the nodes from which ``values`` follow, from what is held where most is held anyway.

    Args:
        owner: of the memory that is to be freed. values: it, or views of it.
        held: what is held where. limits: what may be computed again.
    """
    found: dict[fx.Node, None] = {}

    def is_held(node: fx.Node) -> bool:
        while node.target in _OWN_VIEWS:
            node = node.all_input_nodes[0]
        return node.op != "call_function" or (node is not owner and held.last.get(node, -1) > held.peak)

    def visit(node: fx.Node, depth: int) -> bool:
        if node in found or is_held(node):
            return True
        if depth > _LONGEST or not _is_allowed(node, limits):
            return False
        if not all(visit(used, depth + 1) for used in node.all_input_nodes):
            return False
        found[node] = None
        return True

    return tuple(found) if all(visit(value, 0) for value in values) else None


def _is_allowed(node: fx.Node, limits: Limits) -> bool:
    if node.op != "call_function" or not isinstance(node.meta.get("val"), Tensor):
        return False
    name = _name(node)
    if node.target in _OWN_VIEWS or name in _ELEMENTWISE or name in _MOVES:
        return True
    return name in _PRODUCTS and (limits.products or _from_weights(node))


def _from_weights(node: fx.Node) -> bool:
    """Whether a node is computed from inputs and constants in a few steps."""
    waiting, seen = [node], 0
    while waiting:
        now = waiting.pop()
        seen += 1
        if seen > 12:
            return False
        waiting += [used for used in now.all_input_nodes if used.op == "call_function"]
    return not any(isinstance(size, torch.SymInt) for size in node.meta["val"].shape)


def _apply(graph: fx.Graph, copy: _Copy) -> dict[fx.Node, fx.Node]:
    """Insert the copy, and return what stands for what."""
    new: dict[fx.Node, fx.Node] = {}
    with graph.inserting_before(copy.first):

        def argument(used: fx.Node) -> fx.Node:
            if used in new or used.op == "get_attr" or not isinstance(used.meta.get("val"), Tensor):
                return new.get(used, used)
            new[used] = graph.call_function(after, (used, copy.milestone))
            new[used].meta = {"val": used.meta["val"]}
            return new[used]

        for node in copy.nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), argument)
            target: Any = node.target
            new[node] = graph.call_function(target, args, kwargs)
            new[node].meta = {key: value for key, value in node.meta.items() if key != MILESTONE}
    for value, readers in copy.readers.items():
        for reader in readers:
            reader.replace_input_with(value, new[value])
    return new


def _undo(graph: fx.Graph, copy: _Copy, made: Mapping[fx.Node, fx.Node]) -> None:
    for value, readers in copy.readers.items():
        for reader in readers:
            reader.replace_input_with(made[value], value)
    for node in reversed(tuple(made.values())):
        graph.erase_node(node)


def _seconds(nodes: Sequence[fx.Node], rows: int) -> float:
    """Estimate what computing ``nodes`` takes; only comparisons are made of it."""
    total = 0.0
    for node in nodes:
        if node.op != "call_function" or node.target in _OWN_VIEWS or _is_line(node):
            continue
        own = size_bytes(node, rows)
        read = sum(size_bytes(used, rows) for used in node.all_input_nodes)
        total += _NODE_S + (own + read) / _BYTES_PER_S
        if _name(node) in _PRODUCTS:
            total += own / 2 * _inner(node) / _FLOPS_PER_S
    return total


def _inner(node: fx.Node) -> int:
    """Return the products that one result is the sum of."""
    weight = node.args[{"mm": 0, "bmm": 0, "addmm": 1}.get(_name(node), 1)]
    assert isinstance(weight, fx.Node)
    sizes = [int(s) if isinstance(s, int) else 1 for s in weight.meta["val"].shape]
    if _name(node) == "convolution":
        count = 1
        for size in sizes[1:]:
            count *= size
        return count
    return sizes[-1]


def _name(node: fx.Node) -> str:
    target = node.target
    return target.overloadpacket.__name__ if isinstance(target, torch._ops.OpOverload) else ""
