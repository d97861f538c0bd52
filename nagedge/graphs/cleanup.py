"""Passes over a traced graph that change no value: drop identities, unused nodes and repeated computations."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, fx

__all__ = ["clean", "is_getitem", "operator_name", "sizes_of"]

aten = torch.ops.aten

# detach is an identity only in a graph that no gradient is taken through any more; see `clean`.
_IDENTITIES = frozenset({aten.alias.default, aten.lift_fresh_copy.default, aten.lift_fresh.default})
_STEP_IDENTITIES = _IDENTITIES | {aten.detach.default, aten.clone.default, aten.detach_copy.default}
_VIEWS = frozenset({aten.view.default, aten._unsafe_view.default})


def operator_name(node: fx.Node) -> str:
    """Return the name of a node's operator without its overload, for example ``"aten.add"``."""
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target.overloadpacket)
    return getattr(node.target, "__name__", str(node.target))


def sizes_of(node: fx.Node) -> list[str]:
    """Return the sizes of a node's tensor, comparable where they depend on the batch; none where they are unknown."""
    value = node.meta.get("val")
    return [str(size) for size in value.shape] if isinstance(value, Tensor) else []


def clean(module: fx.GraphModule, *, differentiated: bool = False) -> None:
    """Remove identities, repeated computations and dead nodes from ``module``, in place.

    Args:
        module: a functional graph.
        differentiated: the graph already contains its backward pass, so that ``detach`` means nothing any more.
    """
    identities = _STEP_IDENTITIES if differentiated else _IDENTITIES
    graph = module.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in identities:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target in _VIEWS:
            # The strides a view was traced with need not be those it meets when the graph runs.
            node.target = aten.reshape.default
        elif node.target is aten.constant_pad_nd.default:
            _join_pads(node)
    if differentiated:
        _share_repeated(graph)
    graph.eliminate_dead_code()
    module.recompile()


def _join_pads(node: fx.Node) -> None:
    """Pad once where a tensor that was padded with the same value is padded again."""
    first: Any = node.args[0]
    if first.target is not aten.constant_pad_nd.default or first.kwargs or node.kwargs:
        return
    source, inner, inner_value = (*first.args, 0.0)[:3]
    outer, outer_value = (*node.args[1:], 0.0)[:2]
    both: list[Any] = [*inner, *outer]  # type: ignore[misc]
    if inner_value == outer_value and all(isinstance(n, int) and n >= 0 for n in both):
        sums = [a + b for a, b in itertools.zip_longest(both[: len(inner)], both[len(inner) :], fillvalue=0)]
        node.args = (source, sums, outer_value)


def _share_repeated(graph: fx.Graph) -> None:
    """Common-subexpression elimination: equal operator, equal arguments, one node; equal constants, too."""
    seen: dict[Hashable, fx.Node] = {}
    for node in list(graph.nodes):
        key: Hashable
        if node.op == "get_attr":
            tensor = getattr(graph.owning_module, str(node.target)).detach().contiguous()
            key = (tensor.dtype, tuple(tensor.shape), tensor.numpy().tobytes())
        elif node.op != "call_function" or torch.Tag.nondeterministic_seeded in getattr(
            node.target, "tags", ()
        ):
            continue
        else:
            key = (node.target, _key(node.args), _key(node.kwargs))
        first = seen.get(key)
        if first is None:
            seen[key] = node
        else:
            node.replace_all_uses_with(first)
            graph.erase_node(node)


def _key(value: Any) -> Hashable:
    if isinstance(value, (list, tuple)):
        return tuple(_key(item) for item in value)
    if isinstance(value, dict):
        return tuple((name, _key(item)) for name, item in sorted(value.items()))
    if isinstance(value, fx.Node):
        return ("node", value.name)
    return (type(value).__name__, repr(value))


def is_getitem(node: fx.Node) -> bool:
    """Whether ``node`` takes one result of an operator that has several."""
    return node.op == "call_function" and node.target is operator.getitem
