"""In-place operators that torch's derivatives bring into a trace, made functional afterwards.

To make a function functional while it is traced costs about as much as tracing it. But what torch's own derivatives
change is new and theirs alone (``1 - x`` is a tensor filled with ones that ``x`` is subtracted from): there the graph
says what the operator computes.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from nagedge.graphs.cleanup import sizes_of

__all__ = ["made_functional"]

aten = torch.ops.aten


def made_functional(graph: fx.Graph, decomposed: Collection[Any]) -> bool:
    """Replace the in-place operators of ``graph``, in place, and return whether it has none any more.

    Args:
        graph: traced, so that what follows a change reads the operator that made it.
        decomposed: operators that the graph may not hold.
    """
    places = {node: place for place, node in enumerate(graph.nodes)}
    for node in list(graph.nodes):
        if not _is_in_place(node):
            continue
        changed = node.args[0]
        new = _replacement(node, decomposed)
        if new is None or not _is_its_own(changed) or not _is_last(node, changed, places):
            return False
        if isinstance(new, fx.Node):
            node.replace_all_uses_with(new)
            graph.erase_node(node)
        else:
            node.target = new
    return True


def _is_in_place(node: fx.Node) -> bool:
    return isinstance(node.target, OpOverload) and node.target._schema.is_mutable


def _replacement(node: fx.Node, decomposed: Collection[Any]) -> OpOverload | fx.Node | None:
    """Return what computes the same out of place: an operator of the same arguments, or the value itself."""
    target: Any = node.target
    if target is aten.copy_.default:
        into, value = node.args[:2]
        alike = isinstance(into, fx.Node) and isinstance(value, fx.Node) and _kind(into) == _kind(value)
        return value if alike else None  # type: ignore[return-value]  # alike nodes are nodes
    namespace, _, name = target._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, namespace), name.removesuffix("_"), None)
    if packet is None or not name.endswith("_") or target._overloadname not in packet.overloads():
        return None
    operator: OpOverload = getattr(packet, target._overloadname)
    return None if operator in decomposed else operator


def _kind(node: fx.Node) -> tuple[torch.dtype, list[str]]:
    return node.meta["val"].dtype, sizes_of(node)


def _is_its_own(node: Any) -> bool:
    """Whether a node's memory is new: it is no input, no constant and no view."""
    return isinstance(node, fx.Node) and isinstance(node.target, OpOverload) and not _is_view(node)


def _is_view(node: fx.Node) -> bool:
    target: Any = node.target
    return not isinstance(target, OpOverload) or any(
        value.alias_info is not None and not value.alias_info.is_write for value in target._schema.returns
    )


def _is_last(node: fx.Node, changed: fx.Node, places: dict[fx.Node, int]) -> bool:
    """Whether nothing sees ``changed`` after ``node`` has changed it, and no view of it could."""
    others = [user for user in changed.users if user is not node]
    return all(places[user] < places[node] and not _is_view(user) for user in others)
