"""The memory of a training step, planned from its graph: what lives at the same time, operator by operator.

A runtime that executes the graph in its order, frees every tensor after its last use and shares memory between a tensor
and its reshaped views needs so much; alignment, kernels' own workspaces and the runtime itself come on top, and
operators that write into their input take something off. The figure depends on nothing but the graph.
"""

from __future__ import annotations

from torch import fx

from nagedge.graphs.liveness import owners_of
from nagedge.graphs.liveness import size_bytes as _bytes
from nagedge.graphs.train_step import StepGraph

__all__ = ["planned_bytes", "step_bytes"]


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
    owners = owners_of(nodes)
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
    live = sum(_bytes(node, 0) for node in nodes if node.op in ("placeholder", "get_attr"))
    peak = live
    for place, node in enumerate(nodes):
        if node.op != "call_function":
            continue
        if owners[node] == {node}:
            live += _bytes(node, 0)
            peak = max(peak, live)
            if node not in last:
                live -= 0 if node in kept else _bytes(node, 0)
        for used in node.all_input_nodes:
            for owner in owners[used]:
                if last[owner] == place and owner not in kept:
                    live -= _bytes(owner, 0)
                    kept.add(owner)  # freed once
    return peak
