"""Outliers as a declared rule: Tukey's fences, drawn by the training rows, which alone lose rows by it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.data.cleaning import Finding
from nagedge.specs import MISSING, TaskSpec
from nagedge.tasks import TASK_KINDS

__all__ = ["Fences", "fences_of", "outliers"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Fences:
    """The lowest and the highest value of each column that is no outlier, float64 ``[columns]`` each."""

    low: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]

    def outside(self, values: Array) -> npt.NDArray[np.bool_]:
        """Return which of the values ``[n, columns]`` lie beyond; missing ones (NaN) do not."""
        return np.asarray((values < self.low) | (values > self.high), dtype=np.bool_)


def fences_of(values: Array, width: float) -> Fences:
    """Return the fences ``q1 - width (q3 - q1)`` and ``q3 + width (q3 - q1)`` (Tukey 1977, section 2D) of each column.

    A column whose quartiles are equal, most of whose values are one, has no fences.

    Args:
        values: ``[n, columns]``; NaN is missing. width: of the fences in interquartile ranges, > 0.
    """
    known = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    empty = np.isnan(known).all(axis=0)
    first, third = np.nanquantile(np.where(empty, 0.0, known), [0.25, 0.75], axis=0)
    reach = np.where(third > first, width * (third - first), np.inf)
    return Fences(first - reach, third + reach)


def outliers(
    inputs: Array, targets: Mapping[str, Array], tasks: Sequence[TaskSpec], columns: Sequence[str], width: float,
    *, drawn_by: tuple[Array, Mapping[str, Array]] | None = None,
) -> list[Finding]:  # fmt: skip
    """Return the rows with an outlier, a finding for each column of the input and each task with real values.

    Inputs of other rank than 2 (images, sound, text) and labels have no outliers.

    Args:
        inputs: ``[n, ...]``. targets: task name -> ``[n]`` or ``[n, size]``; NaN is missing.
        tasks: whose targets. columns: names of the input's columns, where they have some.
        width: see :func:`fences_of`.
        drawn_by: inputs and targets that draw the fences, where they are others.
    """
    by_inputs, by_targets = (inputs, targets) if drawn_by is None else drawn_by
    found: list[Finding] = []

    def look(name: str, values: Array, drawing: Array) -> None:
        fences = fences_of(drawing, width)
        outside = fences.outside(values)

        def got(row: int) -> str:
            return f"{values[row][outside[row]][0]:.9g}"

        reason = f"outlier of {name}, beyond {width:g} interquartile ranges"
        found.append(Finding(reason, np.asarray(outside.any(axis=1)), got, "less far out", harmless=True))

    if inputs.ndim == 2 and inputs.dtype.kind == "f":
        for place in range(inputs.shape[1]):
            name = f"column {columns[place]!r}" if columns else f"input {place}"
            look(name, inputs[:, place : place + 1], by_inputs[:, place : place + 1])
    for task in tasks:
        if TASK_KINDS[task.kind].answers == "values":
            values, drawing = (
                np.where(array > MISSING, array, np.nan).reshape(len(array), -1)
                for array in (targets[task.name], by_targets[task.name])
            )
            look(f"target {task.name!r}", values, drawing)
    return found
