"""Sizes that depend on the batch, computed at run time from the shape of an input.

SHAPE, STRIDED_SLICE and CONCATENATION of such vectors are evaluated when tensors are allocated; arithmetic is not, and
an operator whose shape it decides would be sized anew at every call. (LiteRT 2.3 computes wrong results from the second
call on when that happens behind operators that XNNPACK has taken.) So sums and products of sizes are read off the
shapes of small tensors that are made for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import sympy  # type: ignore[import-untyped]  # ships no types
from torch.utils._sympy.functions import FloatTrueDiv, FloorDiv, IntTrueDiv, Mod, PythonMod, ToFloat

from nagedge.backends.tflite_lowering.model import Size
from nagedge.errors import UnsupportedOperatorError

if TYPE_CHECKING:
    from nagedge.backends.tflite_lowering.builder import GraphBuilder

__all__ = ["Symbols", "shape_vector", "vector_of"]

_FLOAT, _INT = np.dtype(np.float32), np.dtype(np.int32)


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
    parts: list[int] = []
    run: list[int] = []
    for s in sizes:
        if isinstance(s, int):
            run.append(s)
            continue
        if run:
            parts.append(builder.ints(run))
            run = []
        parts.append(vector_of(builder, s))
    if run:
        parts.append(builder.ints(run))
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
    def fold(kind: str, parts: Sequence[Any], as_float: bool) -> int:
        result = vector_of(builder, parts[0], is_float=as_float)
        for part in parts[1:]:
            operands = [result, vector_of(builder, part, is_float=as_float)]
            result = builder.add(kind, operands, [1], _FLOAT if as_float else _INT)
        return result

    if isinstance(expression, (IntTrueDiv, FloatTrueDiv)):
        return fold("DIV", expression.args, True)
    if isinstance(expression, ToFloat):
        return vector_of(builder, expression.args[0], is_float=True)
    if expression.is_number:
        return builder.constant(np.asarray([float(expression) if is_float else int(expression)]),
                                _FLOAT if is_float else _INT)  # fmt: skip
    if is_float and expression.is_integer:
        return builder.add("CAST", [vector_of(builder, expression)], [1], _FLOAT)
    if isinstance(expression, sympy.Symbol):
        return _read(builder, expression)
    if not is_float and (made := _of_shapes(builder, expression)) is not None:
        return made
    if isinstance(expression, sympy.Add):
        return fold("ADD", expression.args, is_float)
    if isinstance(expression, sympy.Mul):
        return fold("MUL", expression.args, is_float)
    if isinstance(expression, FloorDiv):
        return fold("FLOOR_DIV", expression.args, False)
    if isinstance(expression, (Mod, PythonMod)):
        return fold("FLOOR_MOD", expression.args, False)
    if isinstance(expression, sympy.Pow) and expression.exp == -1 and is_float:
        one = builder.constant(np.ones(1, np.float32))
        return builder.add("DIV", [one, vector_of(builder, expression.base, is_float=True)], [1], _FLOAT)
    if isinstance(expression, sympy.Pow) and expression.exp.is_Integer and int(expression.exp) > 1:
        return fold("MUL", [expression.base] * int(expression.exp), is_float)
    raise UnsupportedOperatorError(
        f"the model computes the size {expression} from its batch size, which has no lowering: fix the batch with "
        "--batch N (batch=N in Python)."
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
