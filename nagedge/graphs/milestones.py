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

from nagedge.graphs.train_step import StepGraph, select_outputs

__all__ = ["MILESTONE", "marked", "milestones_of"]

MILESTONE = "milestone"
"""Key of a node's ``meta``: its place among the milestones."""

_ROLES = ("next.momentum", "next.params")


def marked(step: StepGraph) -> fx.GraphModule:
    """Return a copy of the step's module whose milestones are marked, for :func:`milestones_of`."""
    traced = select_outputs(step.traced, range(len(step.all_outputs)))
    output = next(node for node in traced.graph.nodes if node.op == "output")
    results = dict(zip(step.all_outputs, output.args[0], strict=True))
    gradients = {results[f"gradient.{name}"]: name for name in step.trainable}
    places = {node: place for place, node in enumerate(traced.graph.nodes)}
    found: dict[fx.Node, None] = {}
    for gradient in sorted(gradients, key=lambda node: places[node]):
        updated = [results[f"{role}.{gradients[gradient]}"] for role in _ROLES]
        alone = all(_gradients_before(node, gradients) == {gradient} for node in updated)
        found |= dict.fromkeys(updated if alone else [gradient])
    for place, node in enumerate(found):
        node.meta[MILESTONE] = place
    return select_outputs(traced, range(len(step.outputs)))  # it copies the marks


def milestones_of(module: fx.GraphModule) -> list[fx.Node]:
    """Return the marked nodes in the order in which they should be computed."""
    found = [node for node in module.graph.nodes if MILESTONE in node.meta]
    return sorted(found, key=lambda node: int(node.meta[MILESTONE]))


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
