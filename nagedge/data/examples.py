"""Examples in memory: arrays with the rows on axis 0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.data.cleaning import CleaningReport
from nagedge.data.preprocessing import Preprocessing
from nagedge.specs import TensorSpec

__all__ = ["DataSplits", "Examples"]


@dataclass(frozen=True)
class Examples:
    """Inputs and targets as the model takes them; every array has one row an example.

    Args:
        inputs: input name -> float32 or int64 ``[n, ...]``.
        targets: task name -> int64 ``[n]`` (classification), float32 ``[n, size]`` (multilabel, regression)
            or float32 ``[n]`` (binary, regression of size 1).
        sample_weight: float32 ``[n]``, >= 0, or ``None`` for all ones.
    """

    inputs: dict[str, npt.NDArray[Any]]
    targets: dict[str, npt.NDArray[Any]]
    sample_weight: npt.NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def take(self, indices: npt.ArrayLike) -> Examples:
        """Return the examples at ``indices`` (int64 ``[m]``), in that order."""
        rows = np.asarray(indices, dtype=np.int64)
        return Examples(
            inputs={name: array[rows] for name, array in self.inputs.items()},
            targets={name: array[rows] for name, array in self.targets.items()},
            sample_weight=None if self.sample_weight is None else self.sample_weight[rows],
        )


@dataclass(frozen=True)
class DataSplits:
    """The three disjoint parts of a data set, preprocessed, and what was done to get them.

    Args:
        train, validation, test: preprocessed examples; regression targets are standardised where declared.
        input: the model's input.
        preprocessing: the steps, with every statistic taken from ``train`` only.
        report: rows read, kept and dropped.
    """

    train: Examples
    validation: Examples
    test: Examples
    input: TensorSpec
    preprocessing: Preprocessing
    report: CleaningReport
