"""What every lowering reads off the nodes of a traced graph, whatever format it writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from nagedge.backends.size_arithmetic import FIX_BATCH
from nagedge.errors import UnsupportedOperatorError
from nagedge.graphs.cleanup import is_getitem, operator_name
from nagedge.graphs.rematerialisation import after

__all__ = [
    "FILLED",
    "argument_of",
    "as_stored",
    "axes_of",
    "axis_of",
    "compared_dtype",
    "dtype_of",
    "fake_of",
    "fill_argument",
    "is_size",
    "order_of",
    "pads_of",
    "range_of",
    "rank_of",
    "rule_of",
    "short_name",
    "squeezed_axes",
    "unsupported_operators",
]

Number = int | float | bool

_NAMESPACES = ("aten", "nagedge")

FILLED = {
    "full", "full_like", "scalar_tensor", "zeros", "zeros_like", "ones", "ones_like", "new_zeros", "new_full", "empty",
}  # fmt: skip
"""Operators that fill a tensor with one number."""


# --- rules ----------------------------------------------------------------------------------------------------------


def unsupported_operators(module: fx.GraphModule, rules: Mapping[str, Any]) -> list[str]:
    """Return the names of operators in ``module`` that ``rules`` lacks, each once, in graph order."""
    missing: dict[str, None] = {}
    for node in module.graph.nodes:
        if node.op == "call_function" and not (is_getitem(node) or is_size(node) or rule_of(node, rules)):
            missing[operator_name(node)] = None
    return list(missing)


def rule_of(node: fx.Node, rules: Mapping[str, Any]) -> Any:
    """Return the rule of a node's operator, or None."""
    target = node.target
    if target is after:
        return rules.get("after")
    if not isinstance(target, OpOverload) or target.namespace not in _NAMESPACES:
        return None
    return rules.get(target.overloadpacket.__name__)


def is_size(node: fx.Node) -> bool:
    """Whether a node computes a size or another Python number; those are lowered where they are used."""
    value = node.meta.get("val")
    return isinstance(value, (torch.SymInt, torch.SymFloat, torch.SymBool, int, float, bool))


# --- nodes ----------------------------------------------------------------------------------------------------------


def short_name(node: fx.Node) -> str:
    """Return ``"add"`` for ``aten.add.Tensor``."""
    target = node.target
    return target.overloadpacket.__name__ if isinstance(target, OpOverload) else str(target)


def argument_of(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """Return a node's argument, given by position or by name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def fake_of(argument: Any) -> torch.Tensor:
    """Return the shape and dtype of an fx argument's (first) result, as a fake tensor."""
    value = argument.meta["val"]
    return value[0] if isinstance(value, (tuple, list)) else value  # type: ignore[no-any-return]


def dtype_of(node: fx.Node) -> torch.dtype:
    """Return the dtype of a node's (first) result."""
    return fake_of(node).dtype


def compared_dtype(arguments: Sequence[Any]) -> torch.dtype:
    """Return the dtype in which torch compares two operands."""
    values = []
    for argument in arguments:
        value = argument.meta["val"] if isinstance(argument, fx.Node) else argument
        if isinstance(value, torch.SymInt):
            value = 1
        elif isinstance(value, torch.SymFloat):
            value = 1.0
        values.append(
            torch.empty((1,) * value.dim(), dtype=value.dtype) if isinstance(value, torch.Tensor) else value
        )
    return torch.result_type(values[0], values[1])


# --- axes, counted from the front -----------------------------------------------------------------------------------


def rank_of(argument: Any) -> int:
    """Return the number of axes of an fx argument's (first) result."""
    return fake_of(argument).dim()


def axis_of(node: fx.Node, index: int = 1) -> int:
    """Return the one axis along which an operator works, its argument at ``index``: by default the first axis."""
    return int(argument_of(node, index, "dim", 0)) % rank_of(node.args[0])


def axes_of(node: fx.Node) -> list[int]:
    """Return the axes that a reduction reduces."""
    rank = rank_of(node.args[0])
    given = argument_of(node, 1, "dim", None)
    if given is None or given == []:
        return list(range(rank))
    return [int(a) % rank for a in ([given] if isinstance(given, int) else given)] if rank else []


def squeezed_axes(node: fx.Node) -> list[int]:
    """Return the axes that a ``squeeze`` drops: of those it names, the ones of size 1."""
    sizes: Sequence[object] = fake_of(node.args[0]).shape
    given: Any = argument_of(node, 1, "dim", list(range(len(sizes))))
    listed = given if isinstance(given, (list, tuple)) else [given]
    axes = [int(axis) % len(sizes) for axis in listed] if sizes else []
    return [axis for axis in axes if isinstance(sizes[axis], int) and sizes[axis] == 1]


def order_of(node: fx.Node) -> list[int]:
    """Return the order into which a ``permute``, ``transpose`` or ``t`` brings the axes."""
    rank = rank_of(node.args[0])
    if short_name(node) == "permute":
        return [int(axis) % rank for axis in node.args[1]]  # type: ignore[union-attr,arg-type]
    order = list(range(rank))
    if rank > 1:
        a, b = (int(axis) % rank for axis in node.args[1:3]) if len(node.args) > 1 else (0, 1)  # type: ignore[arg-type]
        order[a], order[b] = order[b], order[a]
    return order


def pads_of(node: fx.Node) -> list[tuple[int, int]]:
    """Return what a ``constant_pad_nd`` adds before and behind every axis; less than 0 where it crops.

    Raises:
        UnsupportedOperatorError: how much depends on the batch, as in the gradient of ``y[: x.shape[0]]``.
    """
    given = [_fixed(size) for size in node.args[1]]  # type: ignore[union-attr]
    rank = rank_of(node.args[0])
    padded = list(zip(given[::2], given[1::2], strict=True))  # the last axis first
    return [(0, 0)] * (rank - len(padded)) + padded[::-1]


def _fixed(size: Any) -> int:
    value = size.meta["val"] if isinstance(size, fx.Node) else size
    if isinstance(value, torch.SymInt) and not value.node.expr.is_number:
        raise UnsupportedOperatorError(
            f"a tensor is padded by the size {value.node.expr}, which depends on the batch: {FIX_BATCH}."
        )
    return int(value)


# --- filled tensors, ranges -------------------------------------------------------------------


def fill_argument(node: fx.Node) -> Any:
    """Return the number, or the node that computes it, with which an operator fills a tensor."""
    name = short_name(node)
    if "zeros" in name or "empty" in name:  # a graph has no uninitialised memory
        return 0
    if "ones" in name:
        return 1
    return node.args[{"full": 1, "full_like": 1, "new_full": 2}.get(name, 0)]


def as_stored(value: Number, dtype: torch.dtype) -> Number:
    """Return the number that a tensor of ``dtype`` filled with ``value`` holds."""
    if dtype == torch.bool:
        return bool(value)
    return float(value) if dtype.is_floating_point else int(value)


def range_of(node: fx.Node) -> tuple[Any, Any, Any]:
    """Return the start, the end and the step of an ``arange``."""
    start, *rest = node.args if "start" in str(node.target) else (0, *node.args)
    return start, rest[0], rest[1] if len(rest) > 1 else 1
