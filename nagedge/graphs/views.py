"""Elementwise operators before reshapes instead of behind them.

Decompositions give a result the shape that it had in the model: the matrix product of a squeeze-and-excitation's layer
becomes ``[batch, C, 1, 1]`` again, is activated, and flattened for the next product. With the reshapes moved behind
what is computed cell by cell they meet and vanish, and runtimes fuse the activation with the product.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from nagedge.graphs.cleanup import sizes_of
from nagedge.graphs.train_step import StepGraph, select_outputs

__all__ = ["ELEMENTWISE", "RESHAPES", "reshaped_late"]

aten = torch.ops.aten

ELEMENTWISE = frozenset({
    aten.abs.default, aten.add.Tensor, aten.clamp.default, aten.div.Tensor, aten.exp.default, aten.maximum.default,
    aten.minimum.default, aten.mul.Tensor, aten.neg.default, aten.relu.default, aten.sigmoid.default,
    aten.sub.Tensor, aten.tanh.default,
})  # fmt: skip
"""Operators that compute each cell from the same cell of their tensors."""

RESHAPES = frozenset({aten.reshape.default, aten.view.default, aten._unsafe_view.default})


def reshaped_late(step: StepGraph) -> StepGraph:
    """Return ``step`` with its reshapes behind the elementwise operators that follow them.

    Args:
        step: specialised; unchanged.
    """
    traced = select_outputs(step.traced, range(len(step.all_outputs)))
    for node in list(traced.graph.nodes):
        if node.target in RESHAPES:
            _join(node)
        elif node.target in ELEMENTWISE and not node.kwargs:
            _move_behind(node)
    traced.graph.eliminate_dead_code()
    return replace(step, module=select_outputs(traced, range(len(step.outputs))), traced=traced)


def _join(node: fx.Node) -> None:
    """Reshape once where a reshaped tensor is reshaped, not at all where it becomes what it was."""
    source: Any = node.args[0]
    while _is_passed(source):
        source = source.args[0]
    if sizes_of(source) == sizes_of(node):
        node.replace_all_uses_with(source)
    else:
        node.update_arg(0, source)


def _move_behind(node: fx.Node) -> None:
    """Compute on what is reshaped, and reshape the result, where all of a node's tensors are reshaped alike."""
    given = node.all_input_nodes
    if not given or any(not _is_passed(used) or sizes_of(used) != sizes_of(node) for used in given):
        return
    sources: dict[fx.Node, Any] = {used: used.args[0] for used in given}
    shapes = {tuple(sizes_of(source)) for source in sources.values()}
    if len(shapes) > 1 or any(source.op == "placeholder" for source in sources.values()):
        return
    graph, reshape = node.graph, given[0]
    with graph.inserting_before(node):
        args = fx.map_arg(node.args, lambda used: sources[used])
        computed = graph.call_function(node.target, args)  # type: ignore[arg-type] # an operator
        value = node.meta["val"]
        computed.meta = dict(node.meta)
        computed.meta["val"] = sources[reshape].meta["val"].to(value.dtype)
        shaped = graph.call_function(aten.reshape.default, (computed, reshape.args[1]))
        shaped.meta = dict(node.meta)
    node.replace_all_uses_with(shaped)
    graph.erase_node(node)


def _is_passed(node: fx.Node) -> bool:
    """Whether a node is a reshape that may be left out; not if the graph returns it: an update waits for gradients."""
    return node.target in RESHAPES and all(user.op != "output" for user in node.users)
