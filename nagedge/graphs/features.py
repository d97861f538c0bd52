"""Where the tasks part: a forward graph cut at the tensors that several tasks share."""

from __future__ import annotations

import operator
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from nagedge.errors import ConfigurationError
from nagedge.graphs.forward import ForwardGraph
from nagedge.graphs.graph_modules import graph_module

__all__ = ["DividedGraph", "divide"]


@dataclass(frozen=True)
class DividedGraph:
    """A forward graph in two halves.

    Attributes:
        trunk: takes what the whole graph takes; returns the features, then the buffers that it updates.
        heads: takes what the whole graph takes and the features; returns the outputs, then the other buffers.
        forward: the whole.
        features: how many there are.
        trunk_buffers: names of the buffers that ``trunk`` returns.
    """

    trunk: fx.GraphModule
    heads: fx.GraphModule
    forward: ForwardGraph
    features: int
    trunk_buffers: tuple[str, ...]

    def shared(
        self, state: Mapping[str, Tensor], inputs: Sequence[Tensor]
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Return the features, and the updated buffers of the trunk by name."""
        results = self.trunk(*self._flat(state), *inputs)
        buffers = dict(zip(self.trunk_buffers, results[self.features :], strict=True))
        return list(results[: self.features]), buffers

    def outputs(
        self, state: Mapping[str, Tensor], inputs: Sequence[Tensor], features: Sequence[Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the outputs by task, and the updated buffers of the heads by name."""
        results = self.heads(*self._flat(state), *inputs, *features)
        tasks = self.forward.outputs
        rest = [name for name in self.forward.updated_buffers if name not in self.trunk_buffers]
        return (
            dict(zip(tasks, results[: len(tasks)], strict=True)),
            dict(zip(rest, results[len(tasks) :], strict=True)),
        )

    def _flat(self, state: Mapping[str, Tensor]) -> list[Tensor]:
        return [state[name] for name in self.forward.state_names]


def divide(forward: ForwardGraph, trainable: Collection[str]) -> DividedGraph:
    """Cut ``forward`` at its features: what depends on trained parameters, reaches two tasks, and is read by one alone.

    Args:
        forward: the whole graph.
        trainable: names of the trained parameters.

    Raises:
        ConfigurationError: no such tensor: the tasks share nothing that is trained.
    """
    nodes = list(forward.module.graph.nodes)
    returned = nodes[-1].args[0]
    assert isinstance(returned, (list, tuple))  # a forward graph returns a list
    outputs = returned[: len(forward.outputs)]
    placeholders = [node for node in nodes if node.op == "placeholder"]
    names = dict(zip(placeholders, forward.state_names, strict=False))
    trained = _depending(nodes, {node for node, name in names.items() if name in trainable})
    of_data = trained & _depending(nodes, set(placeholders[len(forward.state_names) :]))
    tasks = _tasks_reached(nodes, outputs)
    shared = {node for node in of_data if len(tasks[node]) > 1 and _is_tensor(node)}
    cut = [
        node
        for node in nodes
        if node in shared
        and (
            node in outputs
            or any(user in of_data and tasks[user] and user not in shared for user in _readers(node))
        )
    ]
    if not cut:
        raise ConfigurationError(
            "balancing 'pcgrad' has nothing to compare: no tensor that depends on trained parameters reaches two tasks."
            " Leave --balancing out, or train more than the heads."
        )
    return _halves(forward, nodes, cut, returned)


def _depending(nodes: Sequence[fx.Node], given: Collection[fx.Node]) -> set[fx.Node]:
    """Return the nodes that depend on ``given``, those included."""
    found = set(given)
    for node in nodes:
        if node.op == "call_function" and any(source in found for source in node.all_input_nodes):
            found.add(node)
    return found


def _tasks_reached(nodes: Sequence[fx.Node], outputs: Sequence[fx.Node]) -> Mapping[fx.Node, set[int]]:
    """Return the indices of the outputs that depend on each node."""
    reached: dict[fx.Node, set[int]] = {node: set() for node in nodes}
    for task, node in enumerate(outputs):
        reached[node].add(task)
    for node in reversed(nodes[:-1]):
        for source in node.all_input_nodes:
            reached[source] |= reached[node]
    return reached


def _is_tensor(node: fx.Node) -> bool:
    """Return whether a node's value is a tensor: no size, no tuple of tensors."""
    if node.target is operator.getitem:
        return not _is_tensor(node.all_input_nodes[0])
    if not isinstance(node.target, torch._ops.OpOverload):
        return False
    returns = node.target._schema.returns
    return len(returns) == 1 and str(returns[0].type) == "Tensor"


def _readers(node: fx.Node) -> list[fx.Node]:
    """Return the tensors that are computed from a node's value; it may pass through a tuple."""
    found = []
    for user in node.users:
        through = (
            user.op == "call_function"
            and not _is_tensor(user)
            and user.target is not torch.ops.aten.sym_size.int
        )
        found += _readers(user) if through else [user]
    return [reader for reader in found if reader.op == "call_function" and _is_tensor(reader)]


def _halves(
    forward: ForwardGraph, nodes: Sequence[fx.Node], cut: Sequence[fx.Node], returned: Sequence[fx.Node]
) -> DividedGraph:
    count = len(forward.outputs)
    below: set[fx.Node] = set()
    for node in nodes:
        if any(source in below or source in cut for source in node.all_input_nodes):
            below.add(node)
    buffers = dict(zip(forward.updated_buffers, returned[count:], strict=True))
    above = {name: node for name, node in buffers.items() if node not in below}
    trunk = _part(forward, nodes, {}, [*cut, *above.values()])
    rest = [node for name, node in buffers.items() if name not in above]
    heads = _part(
        forward, nodes, {node: f"feature_{i}" for i, node in enumerate(cut)}, [*returned[:count], *rest]
    )
    return DividedGraph(trunk, heads, forward, len(cut), tuple(above))


def _part(
    forward: ForwardGraph, nodes: Sequence[fx.Node], given: Mapping[fx.Node, str], results: Sequence[fx.Node]
) -> fx.GraphModule:
    """Return the part of a graph that computes ``results``, with the nodes in ``given`` as further inputs."""
    graph = fx.Graph()
    copies = {node: graph.placeholder(node.name) for node in nodes if node.op == "placeholder"}
    copies |= {node: graph.placeholder(name) for node, name in given.items()}
    for node in nodes[:-1]:
        if node not in copies:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.output([copies[node] for node in results])
    graph.eliminate_dead_code()
    return graph_module(forward.module, graph)
