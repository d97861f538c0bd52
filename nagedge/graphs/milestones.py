"""Which values of a training step a runtime should compute early, so that what they need can be freed.

A weight's gradient needs an activation of the forward pass and the gradient of the layer's output. Traced, it is
computed at once; but the results of a step do not say so, and a runtime that works backwards from its outputs may
compute all weights' gradients at the end, with everything they need still held. So the step is marked with
*milestones*: the gradients, and of a parameter that is updated by itself its new values, in the order of the backward
pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import fx

from nagedge.graphs.graph_modules import graph_module
from nagedge.graphs.liveness import DEFAULT_LIMITS, lifetimes, owners_of, size_bytes
from nagedge.graphs.train_step import StepGraph, select_outputs

__all__ = ["MILESTONE", "marked", "milestones_of"]

MILESTONE = "milestone"
"""Key of a node's ``meta``: its place among the milestones."""

_NAME = "milestone_name"
"""Key of a node's ``meta`` by which it is found in a copy."""

LITTLE = 0.1
"""The part of what a step holds up to which the order of its backward pass does not matter. To ask for an order takes a
few operations a milestone: 2 % of the MLP's step.
"""

_ROLES = ("next.momentum", "next.params")


def marked(step: StepGraph) -> fx.GraphModule:
    """Return a copy of the step's module with its milestones marked and its nodes in the order of their execution.

    A large parameter is updated as soon as its gradient is there, or where that would be when most is held, in the end.
    A step whose backward pass holds next to nothing, such as that of heads alone, is left as it is.

    Args:
        step: a specialised step.
    """
    traced = select_outputs(step.traced, range(len(step.all_outputs)))
    output = next(node for node in traced.graph.nodes if node.op == "output")
    results = dict(zip(step.all_outputs, output.args[0], strict=True))
    used = _ancestors([results[name] for name in step.outputs])
    gradients = {_used_form(results[f"gradient.{name}"], used): name for name in step.trainable}
    places = {node: place for place, node in enumerate(traced.graph.nodes)}
    inner = sorted(gradients, key=lambda node: places[node])
    updates = {gradient: [results[f"{role}.{gradients[gradient]}"] for role in _ROLES] for gradient in inner}
    alone = {
        gradient: nodes
        for gradient, nodes in updates.items()
        if all(_gradients_before(node, gradients) == {gradient} for node in nodes)
    }
    for node in {*gradients, *(node for nodes in alone.values() for node in nodes)}:
        node.meta[_NAME] = node.name
    module = select_outputs(traced, range(len(step.outputs)))  # it copies the names
    copies = {node.meta[_NAME]: node for node in module.graph.nodes if _NAME in node.meta}
    if step.limits == DEFAULT_LIMITS and _holds_little(traced, results["loss"], inner, step.rows):
        return module
    best: tuple[list[fx.Node], list[fx.Node]] = ([], [])
    least = 0
    for later in range(len(alone) + 1):
        deferred = sorted(alone, key=lambda node: size_bytes(node, step.rows), reverse=True)[:later]
        chosen = [
            node
            for gradient in inner
            for node in ([gradient] if gradient in deferred else alone.get(gradient, [gradient]))
        ]
        chosen += [node for gradient in deferred for node in alone[gradient]]
        milestones = [copies[node.name] for node in dict.fromkeys(chosen)]
        ordered = _in_order(module, milestones)
        most = lifetimes(ordered, step.rows).most
        if later and most >= least:
            break
        best, least = (ordered, milestones), most
    for place, node in enumerate(best[1]):
        node.meta[MILESTONE] = place
    graph = fx.Graph()
    values: dict[fx.Node, fx.Node] = {}
    for node in best[0]:
        values[node] = graph.node_copy(node, values.__getitem__)
    return graph_module(module, graph)


def _holds_little(module: fx.GraphModule, loss: fx.Node, gradients: Sequence[fx.Node], rows: int) -> bool:
    """Whether all that the backward pass makes and reads is little beside what is held anyway, in whatever order."""
    nodes = list(module.graph.nodes)
    held = lifetimes(nodes, rows)
    backward = _ancestors(gradients) - _ancestors([loss])
    read = {used for node in backward for used in node.all_input_nodes}
    owners = owners_of(nodes)
    own = {owner for gradient in gradients for node in _turned(gradient) for owner in owners[node]}
    owned = {owner for node in backward | read for owner in owners[node]} - own
    return sum(held.sizes.get(owner, 0) for owner in owned) < LITTLE * held.most


def _used_form(gradient: fx.Node, used: set[fx.Node]) -> fx.Node:
    """Return the form of a gradient that the update reads."""
    return next((form for form in _turned(gradient) if form in used), gradient)


def _turned(gradient: fx.Node) -> list[fx.Node]:
    """Return a gradient and what it is only another form of."""
    forms = [gradient]
    while len(forms[-1].all_input_nodes) == 1:
        (source,) = forms[-1].all_input_nodes
        if size_bytes(source, 1) != size_bytes(gradient, 1):
            break
        forms.append(source)
    return forms


def _ancestors(nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Return ``nodes`` and all that they are computed from."""
    found, waiting = set(nodes), list(nodes)
    while waiting:
        new = [used for used in waiting.pop().all_input_nodes if used not in found]
        found.update(new)
        waiting += new
    return found


def milestones_of(module: fx.GraphModule) -> list[fx.Node]:
    """Return the marked nodes in the order in which they should be computed."""
    found = [node for node in module.graph.nodes if MILESTONE in node.meta]
    return sorted(found, key=lambda node: int(node.meta[MILESTONE]))


def _in_order(module: fx.GraphModule, milestones: Sequence[fx.Node]) -> list[fx.Node]:
    """Return the nodes in the order of their execution: what milestones need, one after the other.

    Of a node's arguments the one comes first that most depends on, so that others are made when they are needed.
    """
    nodes = list(module.graph.nodes)
    depths: dict[fx.Node, int] = {}
    for node in nodes:
        depths[node] = 1 + max((depths[used] for used in node.all_input_nodes), default=0)
    ordered = [node for node in nodes if node.op in ("placeholder", "get_attr")]
    seen = set(ordered)
    for root in (*milestones, nodes[-1]):
        waiting = [(root, False)]
        while waiting:
            node, is_ready = waiting.pop()
            if is_ready:
                ordered.append(node)
            elif node not in seen:
                seen.add(node)
                waiting.append((node, True))
                before = [used for used in node.all_input_nodes if used not in seen]
                waiting += [(used, False) for used in sorted(before, key=depths.__getitem__)]
    return ordered


def _gradients_before(node: fx.Node, gradients: Mapping[fx.Node, str]) -> set[fx.Node]:
    """Return the gradients that ``node`` is computed from, not those that these are computed from."""
    found, seen = set(), {node}
    waiting: list[fx.Node] = [node]
    while waiting:
        now = waiting.pop()
        if now in gradients:
            found.add(now)
            continue
        new: Sequence[fx.Node] = [used for used in now.all_input_nodes if used not in seen]
        seen.update(new)
        waiting += new
    return found
