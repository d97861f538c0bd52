"""What operators work on: each operand in the smallest form that broadcasts to the result.

A filled tensor is a number and an expanded one what it repeats; nothing is materialised that an operator broadcasts by
itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx

from nagedge.backends.mil_lowering.builder import ProgramBuilder, Var
from nagedge.backends.traced import FILLED, as_stored, dtype_of, fill_argument, short_name

__all__ = ["filled_value", "materialized", "operands", "selected"]

Number = int | float | bool

_KEEPS_VALUE = {
    "expand", "view", "reshape", "unsqueeze", "_unsafe_view", "permute", "transpose", "squeeze", "slice", "select",
    "clone", "_to_copy",
}  # fmt: skip


def filled_value(argument: Any) -> Number | None:
    """Return the number that every element of an fx argument has, or None when that is not known."""
    casts: list[torch.dtype] = []
    while isinstance(argument, fx.Node) and argument.op == "call_function":
        name = short_name(argument)
        if name in FILLED:
            value = fill_argument(argument)
            if isinstance(value, fx.Node):
                return None
            casts.append(dtype_of(argument))
            number: Number = value
            for dtype in reversed(casts):
                number = as_stored(number, dtype)
            return number
        if name not in _KEEPS_VALUE:
            return None
        if name == "_to_copy":
            casts.append(dtype_of(argument))
        argument = argument.args[0]
    return argument if isinstance(argument, (int, float, bool)) else None


def _unexpanded(argument: Any) -> Any:
    """Return what an ``expand`` (or a chain of them) repeats: MIL broadcasts by itself."""
    while (
        isinstance(argument, fx.Node) and argument.op == "call_function" and short_name(argument) == "expand"
    ):
        argument = argument.args[0]
    return argument


def _broadcast(shapes: Sequence[Sequence[Any]]) -> list[Any]:
    rank = max((len(shape) for shape in shapes), default=0)
    result: list[Any] = [1] * rank
    for shape in shapes:
        for i, size in enumerate(shape, start=rank - len(shape)):
            if size != 1:
                result[i] = size
    return result


def operands(
    builder: ProgramBuilder,
    node: fx.Node,
    arguments: Sequence[Any],
    dtype: torch.dtype | Sequence[torch.dtype],
) -> list[Var]:
    """Return the operands in ``dtype`` (or each in its own), in the smallest form that broadcasts to the node's shape.

    A filled tensor becomes a scalar and an expanded one what it repeats, so that nothing is materialised that the
    operator itself broadcasts.
    """
    dtypes = [dtype] * len(arguments) if isinstance(dtype, torch.dtype) else list(dtype)
    wanted = builder.shape_of(node)
    small = [_smallest(argument) for argument in arguments]
    for whole in (None, *range(len(arguments))):
        chosen = [
            argument if i == whole else form
            for i, (argument, form) in enumerate(zip(arguments, small, strict=True))
        ]
        if _broadcast([builder.shape_of(form) for form in chosen]) == wanted:
            break
    else:
        chosen = list(arguments)
    return [builder.tensor(form, own) for form, own in zip(chosen, dtypes, strict=True)]


def _smallest(argument: Any) -> Any:
    value = filled_value(argument) if isinstance(argument, fx.Node) else None
    return _unexpanded(argument) if value is None else value


def materialized(builder: ProgramBuilder, var: Var, own: Sequence[Any], wanted: Sequence[Any]) -> Var:
    """Return ``var``, of shape ``own``, tiled to ``wanted``: both as :meth:`ProgramBuilder.sizes` gives them."""
    missing = len(wanted) - len(own)
    repeats = [1 if i >= missing and own[i - missing] == size else size for i, size in enumerate(wanted)]
    if missing:
        if own:
            var = builder.add("expand_dims", x=var, axes=list(range(missing)))
        else:
            var = builder.add("reshape", x=var, shape=[1] * missing)
    if all(isinstance(n, int) and n == 1 for n in repeats):
        return var
    return builder.add("tile", x=var, reps=builder.vector(repeats))


def selected(builder: ProgramBuilder, node: fx.Node, condition: Any, left: Any, right: Any) -> Var:
    """MIL's ``select`` has the shape that its two values broadcast to, whatever that of the condition."""
    dtype = dtype_of(node)
    wanted = builder.shape_of(node)
    forms = [_smallest(left), _smallest(right)]
    for whole in (None, 0, 1):
        values = [
            argument if i == whole else form
            for i, (argument, form) in enumerate(zip((left, right), forms, strict=True))
        ]
        if _broadcast([builder.shape_of(value) for value in values]) == wanted:
            break
    a, b = (builder.tensor(value, dtype) for value in values)
    if _broadcast([builder.shape_of(value) for value in values]) != wanted:
        own = builder.shape_of(values[0])
        a = materialized(builder, a, own, wanted)
    return builder.add("select", cond=builder.tensor(_smallest_flag(condition), torch.bool), a=a, b=b)


def _smallest_flag(condition: Any) -> Any:
    value = filled_value(condition)
    return _unexpanded(condition) if value is None else value
