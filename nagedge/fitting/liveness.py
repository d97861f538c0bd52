"""The memory of a training step, planned from its graph: what lives at the same time, operator by operator.

A runtime that executes the graph in its order, frees every tensor after its last use and shares memory between a tensor
and its reshaped views needs so much; alignment, kernels' own workspaces and the runtime itself come on top, and
operators that write into their input take something off. The figure depends on nothing but the graph.
"""

from __future__ import annotations

from torch import fx

from nagedge.graphs.liveness import lifetimes, owners_of, results_of, size_bytes
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
    held = lifetimes(nodes, 0)  # without inputs and outputs
    given = {node for node in nodes if node.op in ("placeholder", "get_attr")}
    results = results_of(nodes, owners_of(nodes)) - given
    lasting = sum(size_bytes(node, 0) for node in given)
    peak = lasting
    for node, computed in zip(nodes, held.live, strict=True):
        lasting += size_bytes(node, 0) if node in results else 0
        peak = max(peak, lasting + computed)
    return peak
