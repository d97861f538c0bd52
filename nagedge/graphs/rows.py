"""Images kept in rows between layers that compute on rows: one row a cell, its channels side by side.

Some decompositions (:mod:`nagedge.graphs.decompositions.pointwise_rows`) move an image ``[batch, C, *cells]`` into rows
``[batch * cells, C]``, multiply, and move the result back. Beside such a layer, a LoRA branch, stands a frozen
pointwise convolution, which on rows is a product with a constant matrix; between layers stand sums, activations and
their derivatives, which do not mind how an image lies. So this pass decides for each of these nodes whether it computes
on rows, by what is next to it, and moves images only where the two forms meet.

The decision is a vote. A node counts its inputs and those who read it: what is in rows, or has rows made of it anyway,
against the rest. Votes are repeated until nobody changes sides. A graph without such layers stays as it is.

ONNX Runtime 1.31, one thread: three inverted residual blocks with LoRA, batch 8, 96 to 192 channels of 6x6, forward and
backward: 1.58 ms so, 1.93 ms as convolutions.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor

from nagedge.graphs.cleanup import sizes_of
from nagedge.graphs.graph_modules import graph_module
from nagedge.graphs.specialization import constant_nodes
from nagedge.graphs.train_step import StepGraph
from nagedge.graphs.views import ELEMENTWISE, RESHAPES

__all__ = ["in_rows"]

aten = torch.ops.aten

_ROUNDS = 8
"""Votes at most; a graph settles after two or three."""


def in_rows(step: StepGraph) -> StepGraph:
    """Return ``step`` with images kept in rows where that moves less; itself where no layer computes on rows.

    Only its graph of all outputs, ``traced``, is another, from which backends for ONNX Runtime take what they lower.

    Args:
        step: specialised for ONNX Runtime; unchanged.
    """
    frozen = constant_nodes(step.traced, len(step.inputs))
    chosen = _chosen(step.traced, frozen)
    if not chosen:
        return step
    return replace(step, traced=_Rewriting(step.traced, chosen).rewritten())


# --- what could be in rows, and what is --------------------------------------------------------------------------


def _chosen(module: fx.GraphModule, frozen: set[fx.Node]) -> set[fx.Node]:
    """Return the nodes that are to compute on rows."""
    nodes = list(module.graph.nodes)
    if not any(map(_moves_to_rows, nodes)):
        return set()
    flexible = {
        node: None for node in nodes
        if node not in frozen and (_is_pointwise(node, frozen) or _is_elementwise(node))
    }  # fmt: skip
    for node in list(flexible):
        if _is_part_of_convolution(node, flexible):
            del flexible[node]
    undecided = dict.fromkeys(flexible)
    chosen: set[fx.Node] = set()
    for _ in range(_ROUNDS):
        before = set(chosen)
        for node in flexible:
            votes = [*_votes_of_inputs(node, chosen, undecided), *_votes_of_readers(node, chosen, undecided)]
            undecided.pop(node, None)
            (chosen.add if sum(votes) >= 0 and votes else chosen.discard)(node)
        if chosen == before:
            break
    return chosen


def _votes_of_inputs(node: fx.Node, chosen: set[fx.Node], undecided: dict[fx.Node, None]) -> Iterator[int]:
    for used in _images(node):
        is_made = _source_of_image(used) is not None or _repeated(used) is not None
        if used in chosen or is_made or any(map(_moves_to_rows, used.users)):
            yield 1
        elif used not in undecided:
            yield -1


def _votes_of_readers(node: fx.Node, chosen: set[fx.Node], undecided: dict[fx.Node, None]) -> Iterator[int]:
    """Moving an image once serves all who read it: so each side has one vote."""
    decided = [user for user in node.users if user not in undecided]
    in_rows = [user in chosen or _moves_to_rows(user) for user in decided]
    if any(in_rows):
        yield 1
    if not all(in_rows):
        yield -1


def _is_image(node: Any) -> bool:
    """Whether a node is ``[batch, C, *cells]`` of float32 with known sizes but the batch."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.dim() not in (3, 4):
        return False
    sizes = list(value.shape[1:])
    return all(isinstance(size, int) for size in sizes) and any(size > 1 for size in sizes[1:])


def _images(node: fx.Node) -> list[fx.Node]:
    """Return the images that a node reads; of a convolution not its weights."""
    if node.target is aten.convolution.default:
        return [node.args[0]]  # type: ignore[list-item]
    return [used for used in node.all_input_nodes if used.meta["val"].dim() > 0]


def _repeated(node: fx.Node) -> fx.Node | None:
    """Return what a node repeats in each cell, one value a channel, as in the gradient of a mean over all cells."""
    source: Any = node.args[0] if node.target is aten.expand.default and _is_image(node) else None
    if source is None:
        return None
    return source if sizes_of(source) == [*sizes_of(node)[:2], *["1"] * (len(sizes_of(node)) - 2)] else None


def _is_elementwise(node: fx.Node) -> bool:
    """Whether a node computes each cell of an image from the same cell of images of its shape, and from numbers."""
    if node.target not in ELEMENTWISE or node.kwargs or not _is_image(node):
        return False
    return all(
        isinstance(used.meta.get("val"), Tensor) and sizes_of(used) in ([], sizes_of(node))
        for used in node.all_input_nodes
    )


def _is_pointwise(node: fx.Node, frozen: set[fx.Node]) -> bool:
    """Whether a node is a pointwise convolution with constant weights."""
    if node.target is not aten.convolution.default or not _is_image(node):
        return False
    _, w, bias, stride, padding, _, transposed, _, groups = node.args
    if w not in frozen or (bias is not None and bias not in frozen) or transposed or groups != 1:
        return False
    if any(user.target is aten.cat.default for user in node.users):  # with others, which are blocked
        return False
    assert isinstance(w, fx.Node)
    given: Any = (stride, padding)
    kernel = w.meta["val"].shape[2:]
    return all(n == 1 for n in (*kernel, *given[0])) and not any(given[1])


def _is_part_of_convolution(node: fx.Node, flexible: dict[fx.Node, None]) -> bool:
    """Whether a node is the activation of a convolution that is not pointwise: runtimes compute the two at once."""
    used = node.all_input_nodes
    if len(used) != 1 or used[0] in flexible or len(used[0].users) > 1:
        return False
    return used[0].target is aten.convolution.default


def _moves_to_rows(node: fx.Node) -> bool:
    """Whether a node is an image with its channels last; of one axis, where many swap axes, only on the way to rows."""
    if node.target is not aten.permute.default or not _is_image(node.args[0]):
        return False
    order: Any = node.args[1]
    if list(order) != [0, *range(2, len(order)), 1]:
        return False
    return len(order) > 3 or any(_flattens(user, node) for user in node.users)


def _source_of_image(node: fx.Node) -> fx.Node | None:
    """Return what a node is the image of: the same with its channels last; of one axis only where it was rows."""
    if node.target is not aten.permute.default or not _is_image(node):
        return None
    order: Any = node.args[1]
    rank = len(order)
    source: Any = node.args[0]
    if list(order) != [0, rank - 1, *range(1, rank - 1)]:
        return None
    return source if rank > 3 or _unflattens(source) else None


def _flattens(node: fx.Node, moved: fx.Node) -> bool:
    """Whether a node is the rows of an image with its channels last."""
    return node.target in RESHAPES and _is_flat(node, moved.meta["val"].shape[-1])


def _unflattens(node: fx.Node) -> bool:
    """Whether a node is made of rows: an image with its channels last."""
    return node.target in RESHAPES and _is_flat(node.args[0], node.meta["val"].shape[-1])


def _is_flat(node: Any, channels: int) -> bool:
    """Whether a node is rows of so many channels."""
    return bool(node.meta["val"].dim() == 2 and node.meta["val"].shape[1] == channels)


def _source_of_rows(node: fx.Node) -> fx.Node | None:
    """Return the image whose rows a node is."""
    moved: Any = node.args[0] if node.target in RESHAPES else None
    if moved is None or not _moves_to_rows(moved):
        return None
    return moved.args[0] if _flattens(node, moved) else None


# --- the graph that does so --------------------------------------------------------------------------------------


class _Rewriting:
    """A copy of a graph in which chosen nodes compute on rows."""

    def __init__(self, module: fx.GraphModule, chosen: set[fx.Node]) -> None:
        self._module = module
        self._chosen = chosen
        self._graph = fx.Graph()
        self._images: dict[fx.Node, fx.Node] = {}
        self._rows: dict[fx.Node, fx.Node] = {}
        self._last: dict[fx.Node, fx.Node] = {}
        self._known: Known = {}

    def rewritten(self) -> fx.GraphModule:
        """Return the new graph, without what is not needed any more."""
        for node in self._module.graph.nodes:
            if node in self._chosen:
                pointwise = node.target is aten.convolution.default
                self._rows[node] = self._product(node) if pointwise else self._elementwise(node)
                continue
            source = _source_of_rows(node)
            if source is not None:
                self._images[node] = self._in_rows(source)
            elif _moves_to_rows(node):
                self._images[node] = self._channels_last(node.args[0])
            else:
                self._images[node] = self._graph.node_copy(node, self._image)
        self._graph.eliminate_dead_code()
        _add_while_multiplying(self._graph, self._known)
        self._graph.eliminate_dead_code()
        return graph_module(self._module, self._graph)

    def _image(self, node: fx.Node) -> fx.Node:
        """Return what stands for ``node`` as it was."""
        if node not in self._images:
            value = node.meta["val"]
            rank = value.dim()
            order = [0, rank - 1, *range(1, rank - 1)]
            self._images[node] = self._call(aten.permute.default, self._channels_last(node), order)
        return self._images[node]

    def _in_rows(self, node: fx.Node) -> fx.Node:
        """Return the rows of an image."""
        if node not in self._rows:
            source = _source_of_image(node)
            if source is not None and _unflattens(source):
                self._rows[node] = self._image(source.args[0])  # type: ignore[arg-type]
            else:
                channels = node.meta["val"].shape[1]
                self._rows[node] = self._call(aten.reshape.default, self._channels_last(node), [-1, channels])
        return self._rows[node]

    def _channels_last(self, node: fx.Node) -> fx.Node:
        """Return an image with its channels last: what it was made of, or what its rows are, or moved."""
        if node not in self._last:
            source, repeated = _source_of_image(node), _repeated(node)
            value = node.meta["val"]
            if source is not None:
                self._last[node] = self._image(source)
            elif repeated is not None:
                cells, channels = value.shape[2:], value.shape[1]
                cell = self._call(
                    aten.reshape.default, self._image(repeated), [-1, *[1] * len(cells), channels]
                )
                self._last[node] = self._call(aten.expand.default, cell, [-1, *cells, channels])
            elif node in self._rows:
                sizes = [-1, *value.shape[2:], value.shape[1]]
                self._last[node] = self._call(aten.reshape.default, self._rows[node], sizes)
            else:
                order = [0, *range(2, value.dim()), 1]
                self._last[node] = self._call(aten.permute.default, self._image(node), order)
        return self._last[node]

    def _elementwise(self, node: fx.Node) -> fx.Node:
        """Return what computes on rows; it has their size."""

        def argument(used: fx.Node) -> fx.Node:
            return self._in_rows(used) if used.meta["val"].dim() > 0 else self._image(used)

        target: Any = node.target
        arguments = fx.map_arg(node.args, argument)
        result = self._graph.call_function(target, arguments)
        result.meta["val"] = next(
            a.meta["val"] for a in arguments if isinstance(a, fx.Node) and a.meta["val"].dim() > 0
        )
        return result

    def _product(self, node: fx.Node) -> fx.Node:
        x, w, bias = node.args[:3]
        assert isinstance(w, fx.Node)
        outputs, channels = w.meta["val"].shape[:2]
        weights = self._call(aten.reshape.default, self._image(w), [outputs, channels])
        right = self._call(aten.permute.default, weights, [1, 0])
        left = self._in_rows(x)  # type: ignore[arg-type]
        if bias is None:
            return self._call(aten.mm.default, left, right)
        return self._call(aten.addmm.default, self._image(bias), left, right)  # type: ignore[arg-type]

    def _call(self, target: Any, *arguments: Any) -> fx.Node:
        """Append a node; its value is known as those that it is computed from are."""
        return _call(self._graph, self._known, target, *arguments)


Known = dict[Hashable, Any]
"""What operators gave for arguments of some sizes: asking torch takes most of a millisecond, and nets repeat layers."""


def _call(graph: fx.Graph, known: Known, target: Any, *arguments: Any) -> fx.Node:
    """Append a node; its value is known as those that it is computed from are."""
    node = graph.call_function(target, arguments)
    values = fx.map_arg(arguments, lambda used: used.meta["val"])
    sizes = [(v.dtype, str(v.shape)) if isinstance(v, Tensor) else repr(v) for v in values]
    key = (target, *sizes)
    if key not in known:
        mode = next(value.fake_mode for value in values if isinstance(value, FakeTensor))
        with torch.no_grad(), mode:
            known[key] = target(*values)
    node.meta["val"] = known[key]
    return node


def _add_while_multiplying(graph: fx.Graph, known: Known) -> None:
    """Write the sum of a matrix and a product that nobody else reads as one operation.

    Of two products the one with fewer terms a sum takes the other in: that of a branch.
    """
    for node in list(graph.nodes):
        if node.target is not aten.add.Tensor or node.kwargs or node.meta["val"].dim() != 2:
            continue
        sides: list[Any] = [side for side in node.args if isinstance(side, fx.Node)]
        if len(sides) != 2 or any(sizes_of(side) != sizes_of(node) for side in sides):
            continue
        products = [side for side in sides if side.target is aten.mm.default and len(side.users) == 1]
        if not products or sides[0] is sides[1]:
            continue
        product = min(products, key=_terms)
        other = sides[1] if product is sides[0] else sides[0]
        with graph.inserting_before(node):
            both = _call(graph, known, aten.addmm.default, other, *product.args)
        node.replace_all_uses_with(both)
        graph.erase_node(node)
        graph.erase_node(product)


def _terms(product: fx.Node) -> int:
    """Return the terms of which a value of a matrix product is the sum; a size that depends on the batch is many."""
    size: Any = product.args[0].meta["val"].shape[1]  # type: ignore[union-attr]
    return size if isinstance(size, int) else 1 << 62
