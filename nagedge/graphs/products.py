"""One large matrix product where torch makes many small ones with the same matrix.

A linear layer on a tensor whose axes were swapped (attention's projections, a layer that wants time first) becomes a
batched product with the weight repeated for every matrix of the batch. Its gradients would be as many, and their sum.
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from nagedge.graphs.cleanup import sizes_of
from nagedge.graphs.decompositions.tensors import is_static, reshape
from nagedge.graphs.graph_modules import graph_module

__all__ = ["merge_products"]

aten = torch.ops.aten

_REPEATING = frozenset(
    {
        aten.expand.default, aten.view.default, aten.reshape.default, aten._unsafe_view.default,
        aten.unsqueeze.default, aten.clone.default,
    }
)  # fmt: skip
"""Operators that, as long as the last two sizes stay, only repeat a matrix or regroup such repetitions."""


def merge_products(module: fx.GraphModule) -> fx.GraphModule:
    """Return ``module`` with ``bmm(x, the same matrix for all)`` as one product; itself where it has none.

    Args:
        module: traced, so that its nodes know their shapes.
    """
    found = {}
    for node in module.graph.nodes:
        if node.target is aten.bmm.default:
            matrix = _repeated(node.args[1])
            if matrix is not None:
                found[node] = matrix
    if not found:
        return module
    graph = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in module.graph.nodes:
        if node in found:
            copies[node] = graph.call_function(_product, (copies[node.args[0]], copies[found[node]]))
            copies[node].meta = dict(node.meta)
        else:
            copies[node] = graph.node_copy(node, lambda source: copies[source])
    graph.eliminate_dead_code()
    return graph_module(module, graph)


def _repeated(node: fx.Node) -> fx.Node | None:
    """Return the matrix ``[k, n]`` that ``[batch, k, n]`` repeats, if it is one."""
    shape = sizes_of(node)
    source = node
    while source.target in _REPEATING and shape and len(sizes_of(source)) > 2:
        (source, *_) = source.all_input_nodes
        if sizes_of(source)[-2:] != shape[-2:]:
            return None
    return source if len(sizes_of(source)) == 2 else None


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """``x @ matrix``: ``[batch, m, k]`` by ``[k, n]``."""
    product = torch.mm(reshape(x, [-1, x.shape[2]]), matrix)
    rows = [x.shape[0], -1] if is_static(x.shape[0]) else [-1, x.shape[1]]
    return reshape(product, [*rows, matrix.shape[1]])
