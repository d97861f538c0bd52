"""The shape of a task kind: what one module of :mod:`nagedge.tasks` has to bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nagedge.errors import DataError
from nagedge.specs import TaskSpec, TensorSpec

__all__ = ["Array", "TaskKind", "check_finite", "check_shape", "linear_head"]

Array = NDArray[Any]


@dataclass(frozen=True)
class TaskKind:
    """One kind of task.

    Args:
        name: the kind's name in a run file.
        losses: names of the losses that fit, keys of :data:`nagedge.tasks.losses.LOSSES`.
        default_loss: the loss used when a task names none.
        target_spec: name, dtype and shape of the targets of a task.
        head: makes the module from ``[batch, in_features]`` to ``[batch, size]``.
        metrics: figures from outputs ``[n, size]`` (or ``[n]`` for size 1) and targets, never NaN for n >= 1.
        check_targets: raises :class:`~nagedge.errors.DataError` for targets that do not fit the task; the last
            argument says where they come from, for the error's text.
    """

    name: str
    losses: tuple[str, ...]
    default_loss: str
    target_spec: Callable[[TaskSpec], TensorSpec]
    head: Callable[[int, TaskSpec], nn.Module]
    metrics: Callable[[Array, Array, TaskSpec], dict[str, float]]
    check_targets: Callable[[TaskSpec, Array, str], None]


def linear_head(in_features: int, task: TaskSpec) -> nn.Module:
    """Return the head of every kind here: one linear layer from the trunk's features to the task's outputs."""
    return nn.Linear(in_features, task.size)


def check_shape(task: TaskSpec, targets: Array, where: str, *, row: tuple[int, ...]) -> None:
    """Refuse targets whose shape is not ``[n, *row]``; ``[n]`` and ``[n, 1]`` are the same where ``row`` allows it."""
    accepted = {row, (), (1,)} if row in ((), (1,)) else {row}
    if targets.ndim == 0 or targets.shape[1:] not in accepted:
        expected = "[n" + "".join(f", {size}" for size in row) + "]"
        raise DataError(
            f"{where}: targets of {task.kind} task {task.name!r} have shape {list(targets.shape)}, expected "
            f"{expected} for size {task.size}. Give one row a sample, or change the task's size."
        )


def check_finite(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse targets that are not numbers, and NaN or infinite values (the first row is named)."""
    if targets.dtype.kind not in "biuf":
        raise DataError(
            f"{where}: targets of {task.kind} task {task.name!r} have dtype {targets.dtype}, expected numbers."
            " Convert the column to numbers."
        )
    bad = ~np.isfinite(targets.astype(np.float64))
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise DataError(
            f"{where}: target of task {task.name!r} is {targets[row]} in row {row} ({int(bad.sum())} bad values),"
            " expected finite numbers. Remove or fill these rows."
        )
