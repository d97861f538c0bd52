"""Sizes that depend on the batch, computed at run time from the shape of an input.

SHAPE, STRIDED_SLICE and CONCATENATION of such vectors are evaluated when tensors are allocated; arithmetic is not, and
an operator whose shape it decides would be sized anew at every call. (LiteRT 2.3 computes wrong results from the second
call on when that happens behind operators that XNNPACK has taken.) So sums and products of sizes are read off the
shapes of small tensors that are made for it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import sympy  # type: ignore[import-untyped]  # ships no types

from nagedge.backends.size_arithmetic import runs_of, step_of
from nagedge.backends.tflite_lowering.model import Size

if TYPE_CHECKING:
    from nagedge.backends.tflite_lowering.builder import GraphBuilder

__all__ = ["Symbols", "shape_vector", "vector_of"]

_FLOAT, _INT = np.dtype(np.float32), np.dtype(np.int32)
_OPERATORS = {"add": "ADD", "mul": "MUL", "div": "DIV", "floor_div": "FLOOR_DIV", "mod": "FLOOR_MOD"}


class Symbols:
    """Where the symbolic sizes of a graph can be read, and what was computed of them."""

    def __init__(self) -> None:
        self.sources: dict[sympy.Symbol, tuple[int, int]] = {}
        self.computed: dict[tuple[sympy.Expr, bool], int] = {}

    def register(self, tensor: int, sizes: Sequence[Size]) -> None:
        """Remember the symbolic sizes of a graph input."""
        for axis, size in enumerate(sizes):
            if isinstance(size, sympy.Symbol):
                self.sources.setdefault(size, (tensor, axis))


def shape_vector(builder: GraphBuilder, sizes: Sequence[Size]) -> int:
    """Return the index of an int32 vector that holds ``sizes``."""
    if all(isinstance(s, int) for s in sizes):
        return builder.ints([int(s) for s in sizes])
    parts = [
        builder.ints(run) if isinstance(run, list) else vector_of(builder, run) for run in runs_of(sizes)
    ]
    return parts[0] if len(parts) == 1 else builder.add("CONCATENATION", parts, [len(sizes)], _INT, axis=0)


def vector_of(builder: GraphBuilder, expression: sympy.Expr, *, is_float: bool = False) -> int:
    """Return the index of a one-element vector (int32 or float32) that computes ``expression``.

    Raises:
        UnsupportedOperatorError: for arithmetic that has no lowering.
    """
    computed = builder.symbols.computed
    key = (expression, is_float)
    if key not in computed:
        computed[key] = _compute(builder, expression, is_float)
    return computed[key]


def _compute(builder: GraphBuilder, expression: sympy.Expr, is_float: bool) -> int:
    step = step_of(expression, is_float)
    if step.kind == "number":
        number = float(expression) if is_float else int(expression)
        return builder.constant([number], _FLOAT if is_float else _INT)
    if step.kind == "symbol":
        return _read(builder, expression)
    if step.kind in {"add", "mul"} and not is_float and (made := _of_shapes(builder, expression)) is not None:
        return made
    parts = (vector_of(builder, part, is_float=step.is_float) for part in step.parts)
    if step.kind == "to float":
        return builder.add("CAST", [next(parts)], [1], _FLOAT)
    if step.kind == "reciprocal":
        return builder.add("DIV", [builder.constant(np.ones(1, np.float32)), next(parts)], [1], _FLOAT)
    dtype = _FLOAT if step.is_float else _INT
    return functools.reduce(
        lambda left, right: builder.add(_OPERATORS[step.kind], [left, right], [1], dtype), parts
    )


def _read(builder: GraphBuilder, symbol: sympy.Symbol) -> int:
    tensor, axis = builder.symbols.sources[symbol]
    shape = builder.add("SHAPE", [tensor], [len(builder.tensors[tensor].sizes)], _INT, outType="INT32")
    ends = [builder.ints([axis]), builder.ints([axis + 1]), builder.ints([1])]
    return builder.add("STRIDED_SLICE", [shape, *ends], [1], _INT)


def _of_shapes(builder: GraphBuilder, expression: sympy.Expr) -> int | None:
    """Return a product or sum of positive sizes as the size of a tensor of zeros, or None for what is neither."""
    parts: list[Size] = [int(part) if part.is_number else part for part in expression.args]
    if any(isinstance(part, int) and part < 1 for part in parts):
        return None
    zero = builder.constant(np.zeros((), np.float32))
    if isinstance(expression, sympy.Mul):
        filled = builder.add("BROADCAST_TO", [zero, builder.shape(parts)], parts, _FLOAT)
    elif isinstance(expression, sympy.Add):
        rows = [builder.add("BROADCAST_TO", [zero, builder.shape([part])], [part], _FLOAT) for part in parts]
        filled = builder.add("CONCATENATION", rows, [expression], _FLOAT, axis=0)
    else:
        return None
    flat = builder.add("RESHAPE", [filled, builder.ints([-1])], [expression], _FLOAT)
    return builder.add("SHAPE", [flat], [1], _INT, outType="INT32")
