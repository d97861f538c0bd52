"""The shape of a task kind: what one module of :mod:`nagedge.tasks` has to bring."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import nn

from nagedge.errors import DataError
from nagedge.specs import LossSpec, TaskSpec, TensorSpec
from nagedge.tasks.losses import ignored_label

__all__ = [
    "Array",
    "TaskKind",
    "allows_missing",
    "check_finite",
    "check_labels",
    "check_shape",
    "linear_head",
]

Array = NDArray[Any]


def one_output_a_size(task: TaskSpec) -> tuple[int, ...]:
    """Return the shape of one sample's outputs for most kinds: ``(size,)``."""
    return (task.size,)


@dataclass(frozen=True)
class TaskKind:
    """One kind of task.

    Args:
        name: the kind's name in a run file.
        answers: what a target is: ``"labels"`` (whole numbers, int64), ``"probabilities"`` or ``"values"``.
        losses: names of the losses that fit, keys of :data:`nagedge.tasks.losses.LOSSES`.
        default_loss: the loss used when a task names none.
        target_spec: name, dtype and shape of the targets of a task.
        head: makes the module from the features, with so many channels, to the outputs.
        metrics: figures from outputs ``[n, *output_shape]`` (or ``[n]`` for size 1) and targets, some of which may be
            missing; never NaN for n >= 1 outputs that are finite.
        check_targets: raises :class:`~nagedge.errors.DataError` for targets that do not fit the task; the last
            argument says where they come from, for the error's text.
        output_shape: of the outputs of one sample; ``(size,)`` unless said otherwise.
        features: rank of the features that the head takes: 2 for ``[batch, channels]``, 3 for
            ``[batch, steps, channels]``, 4 for ``[batch, channels, height, width]``.
    """

    name: str
    answers: Literal["labels", "probabilities", "values"]
    losses: tuple[str, ...]
    default_loss: str
    target_spec: Callable[[TaskSpec], TensorSpec]
    head: Callable[[int, TaskSpec], nn.Module]
    metrics: Callable[[Array, Array, TaskSpec], dict[str, float]]
    check_targets: Callable[[TaskSpec, Array, str], None]
    output_shape: Callable[[TaskSpec], tuple[int, ...]] = one_output_a_size
    features: int = 2


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


def check_labels(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse labels that are not integers in 0 .. size-1; the loss's ``ignore_index`` is allowed."""
    if targets.dtype.kind not in "iu":
        raise DataError(
            f"{where}: labels of {task.kind} task {task.name!r} have dtype {targets.dtype}, expected integers"
            f" 0 .. {task.size - 1}. Encode the classes as integers."
        )
    if targets.size == 0:
        return
    labels = targets.astype(np.int64).reshape(len(targets), -1)
    bad = ((labels < 0) | (labels >= task.size)) & (labels != ignored_label(task))
    if bad.any():
        row, place = (int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{where}: label {labels[row, place]} of task {task.name!r} in row {row} is out of range"
            f" ({int(bad.any(axis=1).sum())} such rows), expected 0 .. {task.size - 1}. Correct the labels, or raise"
            " the task's size."
        )


def allows_missing(task: TaskSpec) -> bool:
    """Return whether targets of the task may be missing."""
    return isinstance(task.loss, LossSpec) and task.loss.missing


def check_finite(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse targets that are not numbers, and NaN or infinite values (the first row is named).

    NaN is allowed where labels may be missing.
    """
    if targets.dtype.kind not in "biuf":
        raise DataError(
            f"{where}: targets of {task.kind} task {task.name!r} have dtype {targets.dtype}, expected numbers."
            " Convert the column to numbers."
        )
    values = targets.astype(np.float64)
    bad = ~np.isfinite(values) & ~(np.isnan(values) & allows_missing(task))
    if bad.any():
        row = int(np.argwhere(bad)[0][0])
        raise DataError(
            f"{where}: target of task {task.name!r} is {targets[row]} in row {row} ({int(bad.sum())} bad values),"
            " expected finite numbers. Remove or fill these rows."
        )
