"""The memory of a training step, planned from its graph: what lives at the same time, operator by operator.

A runtime that executes the graph in its order, frees every tensor after its last use and shares memory between a tensor
and its reshaped views needs so much; alignment, kernels' own workspaces and the runtime itself come on top, and
operators that write into their input take something off. The figure depends on nothing but the graph.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, fx

from nagedge.graphs.train_step import StepGraph

__all__ = ["planned_bytes", "step_bytes"]

aten = torch.ops.aten

_VIEWS = frozenset({
    aten.reshape.default, aten.view.default, aten.squeeze.dims, aten.squeeze.dim,
    aten.squeeze.default, aten.unsqueeze.default, aten.alias.default, aten.detach.default,
})  # fmt: skip
"""Operators whose result shares its input's memory in every runtime."""


def step_bytes(step: StepGraph) -> int:
    """Return the bytes at the peak of a step: batch, parameters, momentum, constants, and what is computed from them.

    Args:
        step: traced with a fixed batch size.
    """
    return planned_bytes(step.module)


def planned_bytes(module: fx.GraphModule) -> int:
    """Return the largest sum of the sizes of the tensors that live at the same time, in bytes.

    Inputs and outputs live from beginning to end and from their making to the end.

    Args:
        module: a functional graph whose nodes have ``meta["val"]`` with known sizes.
    """
    nodes = list(module.graph.nodes)
    owners = _owners(nodes)
    last = {
        owner: place
        for place, node in enumerate(nodes)
        for used in node.all_input_nodes
        for owner in owners[used]
    }
    kept = {
        owner
        for node in nodes
        if node.op == "output"
        for used in node.all_input_nodes
        for owner in owners[used]
    }
    kept |= {node for node in nodes if node.op in ("placeholder", "get_attr")}
    live = sum(_size(node) for node in nodes if node.op in ("placeholder", "get_attr"))
    peak = live
    for place, node in enumerate(nodes):
        if node.op != "call_function":
            continue
        if owners[node] == {node}:
            live += _size(node)
            peak = max(peak, live)
            if node not in last:
                live -= 0 if node in kept else _size(node)
        for used in node.all_input_nodes:
            for owner in owners[used]:
                if last[owner] == place and owner not in kept:
                    live -= _size(owner)
                    kept.add(owner)  # freed once
    return peak


def _owners(nodes: Iterable[fx.Node]) -> dict[fx.Node, set[fx.Node]]:
    """Return for every node those that hold the memory of its value: itself, or what it is a view of."""
    owners: dict[fx.Node, set[fx.Node]] = {}
    for node in nodes:
        shares = node.op == "call_function" and (
            node.target in _VIEWS or getattr(node.target, "__name__", "") == "getitem"
        )
        if shares:
            source = node.all_input_nodes[0]
            owners[node] = owners[source]
        else:
            owners[node] = {node}
    return owners


def _size(node: fx.Node) -> int:
    value = node.meta.get("val")
    tensors = value if isinstance(value, (list, tuple)) else [value]
    return sum(t.numel() * t.element_size() for t in tensors if isinstance(t, Tensor))
