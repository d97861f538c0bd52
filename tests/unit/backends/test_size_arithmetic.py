"""Sizes as steps: computing the steps one by one gives what sympy gives."""

from __future__ import annotations

import math
from typing import Any

import pytest
import sympy  # type: ignore[import-untyped]  # ships no types
from torch.utils._sympy.functions import FloorDiv, IntTrueDiv, Mod, PythonMod, ToFloat

from nagedge.backends.size_arithmetic import runs_of, step_of
from nagedge.errors import UnsupportedOperatorError

B = sympy.Symbol("b", integer=True, positive=True)


def computed(expression: Any, is_float: bool, batch: int) -> float:
    step = step_of(expression, is_float)
    parts = [computed(part, step.is_float, batch) for part in step.parts]
    result = {
        "number": lambda: float(expression), "symbol": lambda: batch, "same": lambda: parts[0],
        "to float": lambda: float(parts[0]), "reciprocal": lambda: 1 / parts[0], "add": lambda: sum(parts),
        "mul": lambda: math.prod(parts), "div": lambda: parts[0] / parts[1], "floor_div": lambda: parts[0] // parts[1],
        "mod": lambda: parts[0] % parts[1],
    }[step.kind]()  # fmt: skip
    return float(result)


@pytest.mark.parametrize(
    ("expression", "is_float"),
    [
        (B, False), (B, True), (3 * B + 2, False), (B**3, False), (FloorDiv(B, 2) - 1, False), (Mod(B, 3), False),
        (PythonMod(B, 4), False), (IntTrueDiv(B, 4), True), (ToFloat(B) * 0.5, True), (1 / B, True),
        (sympy.Integer(7), True),
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("batch", [1, 5, 8])
def test_the_steps_compute_the_expression(expression: Any, is_float: bool, batch: int) -> None:
    assert computed(expression, is_float, batch) == pytest.approx(float(expression.subs({B: batch})))


def test_what_no_step_computes_is_refused_with_a_remedy() -> None:
    with pytest.raises(
        UnsupportedOperatorError, match=r"computes the size sin\(b\) .*: fix the batch with --batch N"
    ):
        step_of(sympy.sin(B), is_float=True)


def test_known_neighbours_are_one_run() -> None:
    assert list(runs_of([1, 2, B, 3, B, B])) == [[1, 2], B, [3], B, B]
    assert list(runs_of([])) == []
