"""Sizes that depend on the batch: what torch writes into shapes, as steps that any format can compute at run time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

import sympy  # type: ignore[import-untyped]  # ships no types
from torch.utils._sympy.functions import FloatTrueDiv, FloorDiv, IntTrueDiv, Mod, PythonMod, ToFloat

from nagedge.errors import UnsupportedOperatorError

__all__ = ["FIX_BATCH", "Step", "runs_of", "step_of"]

FIX_BATCH = "fix the batch with --batch N (batch=N in Python)"
"""What helps where a size cannot be computed."""

Kind = Literal["number", "symbol", "same", "to float", "reciprocal", "add", "mul", "div", "floor_div", "mod"]

_KINDS: tuple[tuple[Any, Kind], ...] = (
    (sympy.Add, "add"),
    (sympy.Mul, "mul"),
    (FloorDiv, "floor_div"),
    ((Mod, PythonMod), "mod"),
)


@dataclass(frozen=True)
class Step:
    """The outermost operation of an expression.

    Attributes:
        kind: ``"number"`` and ``"symbol"`` have no parts; ``"same"``, ``"to float"`` and ``"reciprocal"`` have one; the
            others combine theirs from left to right.
        parts: expressions.
        is_float: whether the parts are computed as floats.
    """

    kind: Kind
    parts: tuple[Any, ...] = ()
    is_float: bool = False


def step_of(expression: Any, is_float: bool, *, remedy: str = FIX_BATCH) -> Step:
    """Return the outermost operation of a sympy expression in the batch size.

    Args:
        expression: of a ``SymInt`` or ``SymFloat``.
        is_float: whether its value is wanted as a float.
        remedy: what helps where it cannot be computed.

    Raises:
        UnsupportedOperatorError: no step computes it.
    """
    if isinstance(expression, (IntTrueDiv, FloatTrueDiv)):
        return Step("div", expression.args, is_float=True)
    if isinstance(expression, ToFloat):
        return Step("same", expression.args[:1], is_float=True)
    if expression.is_number:
        return Step("number")
    if is_float and expression.is_integer:
        return Step("to float", (expression,))
    if isinstance(expression, sympy.Symbol):
        return Step("symbol")
    for types, kind in _KINDS:
        if isinstance(expression, types):
            return Step(kind, expression.args, is_float and kind in {"add", "mul"})
    if isinstance(expression, sympy.Pow) and expression.exp == -1 and is_float:
        return Step("reciprocal", (expression.base,), is_float=True)
    if isinstance(expression, sympy.Pow) and expression.exp.is_Integer and int(expression.exp) > 1:
        return Step("mul", (expression.base,) * int(expression.exp), is_float)
    raise UnsupportedOperatorError(
        f"the model computes the size {expression} from its batch size, which has no lowering: {remedy}."
    )


def runs_of(sizes: Sequence[Any]) -> Iterator[list[int] | Any]:
    """Yield the sizes of a shape: neighbours that are known as one list, the others one by one."""
    for known, run in groupby(sizes, lambda size: isinstance(size, int)):
        if known:
            yield [int(size) for size in run]
        else:
            yield from run
