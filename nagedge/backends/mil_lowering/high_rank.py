"""Tensors of more than five axes: Core ML has none, so operators work on the same entries with fewer axes.

Neighbouring axes that an operator treats alike are one axis to it: a sum over axes 3 and 5 of ``[8, 16, 4, 2, 4, 2]``
is one over axes 1 and 3 of ``[512, 2, 4, 2]``. A tensor of high rank is kept in whatever shape it was computed in, with
its entries in order; its own shape exists in the graph's records only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import fx

from nagedge.backends.mil_lowering import activations, elementwise
from nagedge.backends.mil_lowering.operands import filled_value
from nagedge.backends.traced import argument_of, axes_of, axis_of, fake_of, order_of, pads_of, short_name
from nagedge.errors import UnsupportedOperatorError

__all__ = ["MAX_RANK", "within_rank"]

MAX_RANK = 5
"""Of a tensor in Core ML."""

aten = torch.ops.aten
Size = Any  # int or SymInt

_VIEWS = {
    "view", "reshape", "_unsafe_view", "view_copy", "_reshape_copy", "squeeze", "unsqueeze", "clone", "alias", "detach",
    "contiguous",
}  # fmt: skip
_REDUCTIONS = {"sum", "mean", "amax", "amin", "prod"}
_ALONG_ONE_AXIS = {"slice": 1, "select": 1, "cumsum": 1, "index_select": 1, "argmax": 1, "argmin": 1, "_softmax": 1,
                   "_log_softmax": 1}  # fmt: skip
"""Operators that work along one axis -> the position of that argument."""


def within_rank(module: fx.GraphModule) -> fx.GraphModule:
    """Return ``module``, or a copy in which no operator has a tensor of more than :data:`MAX_RANK` axes.

    Raises:
        UnsupportedOperatorError: an operator on such a tensor has no form with fewer axes here.
    """
    if not any(_is_high(node) for node in module.graph.nodes):
        return module
    writer = _Writer()
    for node in module.graph.nodes:
        writer.take_over(node)
    return fx.GraphModule(module, writer.graph)


def _is_high(argument: Any) -> bool:
    value = argument.meta.get("val") if isinstance(argument, fx.Node) else None
    values = value if isinstance(value, (tuple, list)) else [value]
    return any(isinstance(item, torch.Tensor) and item.dim() > MAX_RANK for item in values)


def _shape(argument: Any) -> list[Size]:
    return list(fake_of(argument).shape)


def _is_one(size: Size) -> bool:
    return isinstance(size, int) and size == 1


def _groups(shape: Sequence[Size], kinds: Sequence[Hashable]) -> list[list[int]]:
    """Return the axes of ``shape``, neighbours of one kind together; axes of size one are left out."""
    groups: list[list[int]] = []
    last: Hashable = None
    for axis, (size, kind) in enumerate(zip(shape, kinds, strict=True)):
        if _is_one(size):
            continue
        if groups and kind == last:
            groups[-1].append(axis)
        else:
            groups.append([axis])
        last = kind
    return groups


class _Writer:
    """Copies a graph node by node; what has a high rank is written with fewer axes."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self._values: dict[fx.Node, fx.Node] = {}

    def take_over(self, node: fx.Node) -> None:
        arguments = list(node.all_input_nodes)
        if node.op != "call_function" or not any(map(_is_high, [node, *arguments])):
            if node.op in {"placeholder", "output"} and any(map(_is_high, [node, *arguments])):
                raise UnsupportedOperatorError(
                    f"an input, an output or a parameter of the model has more than {MAX_RANK} axes, which Core ML "
                    "does not have: reshape it, or choose an onnxruntime target."
                )
            self._values[node] = self.graph.node_copy(node, lambda used: self._values[used])
            return
        name = short_name(node)
        rule = self._rule(name)
        if rule is None:
            raise UnsupportedOperatorError(
                f"{name!r} on a tensor of more than {MAX_RANK} axes has no lowering, Core ML has no such tensors: "
                "use fewer axes, or choose an onnxruntime target."
            )
        result = rule(node)
        self._values[node] = result if _is_high(node) else self._view(result, _shape(node))

    def _rule(self, name: str) -> Callable[[fx.Node], fx.Node] | None:
        if name in _VIEWS:
            return lambda node: self._values[node.all_input_nodes[0]]
        if name in _REDUCTIONS:
            return self._reduction
        if name in _ALONG_ONE_AXIS:
            return self._along_one_axis
        special: dict[str, Callable[[fx.Node], fx.Node]] = {
            "permute": self._permute, "transpose": self._permute, "expand": self._expand, "cat": self._cat,
            "constant_pad_nd": self._pad, "flip": self._flip,
        }  # fmt: skip
        if name in special:
            return special[name]
        return self._elementwise if name in elementwise.RULES or name in activations.RULES else None

    # --- nodes ------------------------------------------------------------------------------------------------------

    def _call(
        self, target: Any, arguments: Sequence[Any], like: fx.Node, shape: Sequence[Size], **kwargs: Any
    ) -> fx.Node:
        """Add a node with a result of ``shape`` and the dtype of ``like``'s."""
        node = self.graph.call_function(target, tuple(arguments), kwargs)
        node.meta["val"] = fake_of(like).new_empty(tuple(shape))
        return node

    def _view(self, value: fx.Node, shape: Sequence[Size]) -> fx.Node:
        own = _shape(value)
        if len(own) == len(shape) and all(
            a is b or (isinstance(a, int) and a == b) for a, b in zip(own, shape, strict=True)
        ):
            return value
        return self._call(
            aten.reshape.default, [value, [-1]], value, shape
        )  # rules read the recorded shape, which may be symbolic

    def _around(self, argument: fx.Node, axis: int) -> tuple[fx.Node, list[Size]]:
        """Return a value as ``[before, n, behind]`` around one axis, and that shape."""
        shape = _shape(argument)
        around = [math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])]
        return self._view(self._values[argument], around), around

    # --- rules ------------------------------------------------------------------------------------------------------

    def _reduction(self, node: fx.Node) -> fx.Node:
        argument: Any = node.args[0]
        shape = _shape(argument)
        reduced = set(axes_of(node))
        kinds = [axis in reduced for axis in range(len(shape))]
        groups = _groups(shape, kinds)
        merged = [math.prod(shape[i] for i in group) for group in groups]
        axes = [i for i, group in enumerate(groups) if group[0] in reduced]
        value = self._view(self._values[argument], merged or [1])
        if not axes:
            return value
        kept = [size for i, size in enumerate(merged) if i not in axes]
        return self._call(node.target, [value, axes, False], node, kept)

    def _along_one_axis(self, node: fx.Node) -> fx.Node:
        argument: Any = node.args[0]
        name = short_name(node)
        axis = axis_of(node)
        value, around = self._around(argument, axis)
        rest = fx.map_arg(node.args[2:], lambda used: self._values[used])
        options = {key: value for key, value in node.kwargs.items() if key != "dim"}
        if name in {"argmax", "argmin"}:
            return self._call(node.target, [value, 1, False], node, [around[0], around[2]])
        lost = name == "select"
        count = [] if lost else [_shape(node)[axis]]
        return self._call(node.target, [value, 1, *rest], node, [around[0], *count, around[2]], **options)

    def _permute(self, node: fx.Node) -> fx.Node:
        argument: Any = node.args[0]
        shape = _shape(argument)
        order = [axis for axis in order_of(node) if not _is_one(shape[axis])]
        runs: list[list[int]] = []
        for axis in order:
            between = range(runs[-1][-1] + 1, axis) if runs and axis > runs[-1][-1] else None
            if between is not None and all(_is_one(shape[i]) for i in between):
                runs[-1].append(axis)
            else:
                runs.append([axis])
        sizes = {run[0]: math.prod(shape[i] for i in run) for run in runs}
        source = sorted(sizes)
        value = self._values[argument]
        if len(source) <= MAX_RANK:
            return self._permuted(
                value, [sizes[i] for i in source], [source.index(run[0]) for run in runs], node
            )
        placed: list[int] = []
        for run in runs:  # one run after another to the place behind those that are there already
            rest = [i for i in source if i not in placed]
            at = rest.index(run[0])
            parts = [
                math.prod(sizes[i] for i in placed), math.prod(sizes[i] for i in rest[:at]), sizes[run[0]],
                math.prod(sizes[i] for i in rest[at + 1 :]),
            ]  # fmt: skip
            value = self._permuted(value, parts, [0, 2, 1, 3], node)
            placed.append(run[0])
        return value

    def _permuted(
        self, value: fx.Node, shape: Sequence[Size], order: Sequence[int], node: fx.Node
    ) -> fx.Node:
        return self._call(
            aten.permute.default, [self._view(value, shape), list(order)], node, [shape[i] for i in order]
        )

    def _expand(self, node: fx.Node) -> fx.Node:
        argument: Any = node.args[0]
        return self._spread(argument, _shape(argument), _shape(node), node)

    def _spread(self, argument: fx.Node, shape: list[Size], wanted: list[Size], node: fx.Node) -> fx.Node:
        own = [1] * (len(wanted) - len(shape)) + shape
        kinds = [_is_one(size) for size in own]
        groups = _groups(wanted, kinds)
        self._check_groups(groups, node)
        small = [1 if kinds[group[0]] else math.prod(wanted[i] for i in group) for group in groups]
        large = [math.prod(wanted[i] for i in group) for group in groups]
        recorded = [size if isinstance(size, int) else -1 for size in large]
        return self._call(
            aten.expand.default, [self._view(self._values[argument], small), recorded], node, large
        )

    def _cat(self, node: fx.Node) -> fx.Node:
        axis = int(argument_of(node, 1, "dim", 0)) % len(_shape(node))
        parts = [self._around(part, axis) for part in node.args[0]]  # type: ignore[union-attr,arg-type]
        shape = [parts[0][1][0], _shape(node)[axis], parts[0][1][2]]
        return self._call(aten.cat.default, [[value for value, _ in parts], 1], node, shape)

    def _pad(self, node: fx.Node) -> fx.Node:
        argument: Any = node.args[0]
        shape = _shape(argument)
        filling = argument_of(node, 2, "value", 0)
        value = self._values[argument]
        for axis, (low, high) in enumerate(pads_of(node)):
            if low or high:
                around = [math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])]
                shape[axis] = shape[axis] + low + high
                padded = [around[0], shape[axis], around[2]]
                value = self._call(
                    aten.constant_pad_nd.default,
                    [self._view(value, around), [0, 0, low, high], filling],
                    node,
                    padded,
                )
        return value

    def _flip(self, node: fx.Node) -> fx.Node:
        argument: Any = node.args[0]
        shape = _shape(argument)
        value = self._values[argument]
        for given in node.args[1]:  # type: ignore[union-attr]
            axis = int(given) % len(shape)  # type: ignore[arg-type]
            around = [math.prod(shape[:axis]), shape[axis], math.prod(shape[axis + 1 :])]
            value = self._call(aten.flip.default, [self._view(value, around), [1]], node, around)
        return value

    def _elementwise(self, node: fx.Node) -> fx.Node:
        wanted = _shape(node)
        tensors = [a for a in node.all_input_nodes if isinstance(a.meta.get("val"), torch.Tensor)]
        shapes = {a: [1] * (len(wanted) - len(_shape(a))) + _shape(a) for a in tensors}
        if not tensors:  # a filled tensor
            size = [math.prod(wanted)]
            number = filled_value(node)
            return self._call(aten.full.default, [[-1], number], node, size)
        kinds = [tuple(_is_one(shapes[a][axis]) for a in tensors) for axis in range(len(wanted))]
        groups = _groups(wanted, kinds)
        self._check_groups(groups, node)
        merged = [math.prod(wanted[i] for i in group) for group in groups]
        values = {
            a: self._view(
                self._values[a],
                [
                    1 if _is_one(shapes[a][group[0]]) else size
                    for group, size in zip(groups, merged, strict=True)
                ],
            )
            for a in tensors
        }

        def replaced(used: fx.Node) -> fx.Node:
            return values.get(used) or self._values[used]

        arguments = fx.map_arg(node.args, replaced)
        return self._call(node.target, arguments, node, merged, **fx.map_arg(node.kwargs, replaced))

    @staticmethod
    def _check_groups(groups: Sequence[Sequence[int]], node: fx.Node) -> None:
        if len(groups) > MAX_RANK:
            raise UnsupportedOperatorError(
                f"{short_name(node)!r} broadcasts {len(groups)} separate axes, Core ML has {MAX_RANK} at most: "
                "use fewer axes, or choose an onnxruntime target."
            )
