"""Elementwise operators before reshapes, permutations and repetitions instead of behind them.

Decompositions give a result the shape that it had in the model: the matrix product of a squeeze-and-excitation's layer
becomes ``[batch, C, 1, 1]`` again, is activated, and flattened for the next product. With the reshapes moved behind
what is computed cell by cell they meet and vanish, and runtimes fuse the activation with the product. Two gradients of
an image that are moved alike are added first and moved once, and the gradient of a mean is divided before it is
repeated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from nagedge.graphs.cleanup import sizes_of
from nagedge.graphs.train_step import StepGraph, select_outputs

__all__ = ["ELEMENTWISE", "RESHAPES", "reshaped_late"]

aten = torch.ops.aten

ELEMENTWISE = frozenset({
    aten.abs.default, aten.add.Tensor, aten.clamp.default, aten.div.Scalar, aten.div.Tensor, aten.exp.default,
    aten.maximum.default, aten.minimum.default, aten.mul.Scalar, aten.mul.Tensor, aten.neg.default, aten.relu.default,
    aten.sigmoid.default, aten.sub.Tensor, aten.tanh.default,
})  # fmt: skip
"""Operators that compute each cell from the same cell of their tensors."""

RESHAPES = frozenset({aten.reshape.default, aten.view.default, aten._unsafe_view.default})


def reshaped_late(step: StepGraph) -> StepGraph:
    """Return ``step`` with its reshapes, permutations and repetitions behind the elementwise operators that follow.

    Args:
        step: specialised; unchanged.
    """
    traced = select_outputs(step.traced, range(len(step.all_outputs)))
    for node in list(traced.graph.nodes):
        if node.target in RESHAPES:
            _join(node)
        elif node.target in ELEMENTWISE and not node.kwargs:
            _move(node)
        elif node.target is aten.cat.default:
            _join_matrices(node)
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


def _move(node: fx.Node) -> None:
    """Compute an elementwise operator before the views of its tensors."""
    views = {used.target for used in node.all_input_nodes}
    if aten.expand.default in views:
        _move_behind_expand(node)
    elif aten.permute.default in views:
        _move_behind_permutes(node)
    else:
        _move_behind(node)


def _move_behind(node: fx.Node) -> None:
    """Compute on what is reshaped, and reshape the result, where all of a node's tensors are reshaped alike.

    What is added to a matrix product takes the product's shape: runtimes add while they multiply.
    """
    given = node.all_input_nodes
    if not given or any(not _is_passed(used) or sizes_of(used) != sizes_of(node) for used in given):
        return
    sources: dict[fx.Node, Any] = {used: used.args[0] for used in given}
    if any(source.op == "placeholder" for source in sources.values()):
        return
    product = next((used for used in given if node.target is aten.add.Tensor and _is_own_product(used)), None)
    sizes = sizes_of(sources[product or given[0]])
    if product is not None:
        for used, source in sources.items():
            if sizes_of(source) != sizes:
                sources[used] = _reshaped(used, sources[product])
    if all(sizes_of(source) == sizes for source in sources.values()):
        _compute_before(node, sources, product or given[0])


def _is_own_product(node: fx.Node) -> bool:
    """Whether a reshape is of a matrix product, and both are read once."""
    source: Any = node.args[0]
    return source.target is aten.mm.default and len(source.users) == len(node.users) == 1


def _reshaped(node: fx.Node, like: fx.Node) -> fx.Node:
    """Return what ``node`` is a reshape of in the shape of a matrix whose rows may depend on the batch."""
    with node.graph.inserting_after(node):
        shaped = node.graph.call_function(
            aten.reshape.default, (node.args[0], [-1, like.meta["val"].shape[1]])
        )
    shaped.meta = dict(node.meta)
    shaped.meta["val"] = like.meta["val"]
    return shaped


def _move_behind_expand(node: fx.Node) -> None:
    """Compute on what is repeated, and repeat the result, where all else is numbers, as in the gradient of a mean."""
    tensors = [used for used in node.all_input_nodes if used.meta["val"].dim() > 0]
    if len(tensors) == 1 and len(tensors[0].users) == 1 and sizes_of(tensors[0]) == sizes_of(node):
        numbers = {used: used for used in node.all_input_nodes if used is not tensors[0]}
        _compute_before(node, {tensors[0]: tensors[0].args[0], **numbers}, tensors[0])


def _move_behind_permutes(node: fx.Node) -> None:
    """Compute on what is permuted, and permute the result once, where two tensors or more are permuted alike."""
    given = node.all_input_nodes
    if len(given) < 2 or any(len(used.users) > 1 or sizes_of(used) != sizes_of(node) for used in given):
        return
    if any(used.target is not aten.permute.default for used in given):
        return
    if len({tuple(used.args[1]) for used in given}) == 1:  # type: ignore[arg-type]
        _compute_before(node, {used: used.args[0] for used in given}, given[0])


def _compute_before(node: fx.Node, sources: Mapping[fx.Node, Any], view: fx.Node) -> None:
    """Compute ``node`` on ``sources``, of which its tensors are views; ``view`` is taken of the result."""
    graph, value = node.graph, node.meta["val"]
    with graph.inserting_before(node):
        args = fx.map_arg(node.args, lambda used: sources[used])
        computed = graph.call_function(node.target, args)  # type: ignore[arg-type] # an operator
        computed.meta = dict(node.meta)
        computed.meta["val"] = sources[view].meta["val"].to(value.dtype)
        target: Any = aten.reshape.default if view.target in RESHAPES else view.target
        shaped = graph.call_function(target, (computed, *view.args[1:]))
        shaped.meta = dict(node.meta)
    node.replace_all_uses_with(shaped)
    graph.erase_node(node)
    for used in sources:
        if not used.users and used.op == "call_function":
            graph.erase_node(used)
    _move(computed)


def _join_matrices(node: fx.Node) -> None:
    """Join the matrices that tensors with axes of one value are made of, and reshape, and turn, the whole.

    So an update does with the gradients of pointwise convolutions, of which many are the transpose of a product.
    """
    parts: Any = node.args[0]
    axis: Any = node.args[1] if len(node.args) > 1 else 0
    if axis not in (0, 1) or len(set(parts)) < len(parts) or not all(map(_is_matrix, parts)):
        return
    matrices: list[Any] = [part.args[0] for part in parts]
    graph, value = node.graph, node.meta["val"]
    turned = [matrix.target is aten.permute.default for matrix in matrices]
    turns = 2 * sum(turned) > len(turned)
    with graph.inserting_before(node), torch.no_grad(), value.fake_mode:
        if turns:
            matrices = [
                matrix.args[0] if is_turned else _called(graph, aten.permute.default, matrix, [1, 0])
                for matrix, is_turned in zip(matrices, turned, strict=True)
            ]
        whole = _called(graph, aten.cat.default, matrices, 1 - axis if turns else axis)
        whole = _called(graph, aten.permute.default, whole, [1, 0]) if turns else whole
        shaped = _called(graph, aten.reshape.default, whole, list(value.shape))
    node.replace_all_uses_with(shaped)
    graph.erase_node(node)


def _is_matrix(node: fx.Node) -> bool:
    """Whether a node is a matrix of known size with axes of one value behind."""
    if node.target not in RESHAPES:
        return False
    value, source = node.meta["val"], node.args[0].meta["val"]  # type: ignore[union-attr]
    is_known = all(isinstance(size, int) for size in value.shape)
    return is_known and source.dim() == 2 and value.shape == (*source.shape, *[1] * (value.dim() - 2))


def _called(graph: fx.Graph, target: Any, *arguments: Any) -> fx.Node:
    """Append a node that knows its value."""
    node = graph.call_function(target, arguments)
    node.meta["val"] = target(*fx.map_arg(arguments, lambda used: used.meta["val"]))
    return node


def _is_passed(node: fx.Node) -> bool:
    """Whether a node is a reshape that may be left out; not if the graph returns it: an update waits for gradients."""
    return node.target in RESHAPES and all(user.op != "output" for user in node.users)
