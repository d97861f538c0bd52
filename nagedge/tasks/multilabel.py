"""Multilabel: ``size`` independent yes/no labels a sample, logits ``[batch, size]``."""

from __future__ import annotations

import numpy as np

from nagedge.errors import DataError
from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.tasks.kind import Array, TaskKind, check_finite, check_shape, linear_head

__all__ = ["KIND", "check_probabilities", "label_metrics"]


def target_spec(task: TaskSpec) -> TensorSpec:
    """Return the spec of the labels: float32 ``[batch, size]``, each 0 or 1."""
    return TensorSpec(task.name, "float32", (BATCH, task.size))


def label_metrics(output: Array, target: Array) -> dict[str, float]:
    """Return ``accuracy`` and micro-averaged ``f1`` over all labels, deciding at logit 0 and target 0.5.

    F1 is 1 when there is nothing to find and nothing was found. Without any label there are no figures.
    """
    known = ~np.isnan(target)
    said, true = output[known] > 0, target[known] > 0.5
    if not known.any():
        return {}
    hits, errors = float((said & true).sum()), float((said != true).sum())
    return {
        "accuracy": float((said == true).mean()),
        "f1": 2 * hits / (2 * hits + errors) if hits or errors else 1.0,
    }


def metrics(output: Array, target: Array, task: TaskSpec) -> dict[str, float]:
    """Return ``accuracy`` over all labels and the micro-averaged ``f1``."""
    return label_metrics(output.reshape(-1, task.size), target.reshape(-1, task.size))


def check_probabilities(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse targets that are not finite numbers in [0, 1] (soft labels are allowed, as in torch)."""
    check_finite(task, targets, where)
    values = targets.astype(np.float64)
    bad = (values < 0) | (values > 1)
    if bad.any():
        at = tuple(int(i) for i in np.argwhere(bad)[0])
        raise DataError(
            f"{where}: target {values[at]:g} of {task.kind} task {task.name!r} in row {at[0]} is out of range"
            f" ({int(bad.sum())} such values), expected 0 or 1. Encode the labels as 0 and 1."
        )


def check_targets(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse targets that are not numbers ``[n, size]`` in [0, 1]."""
    check_shape(task, targets, where, row=(task.size,))
    check_probabilities(task, targets, where)


KIND = TaskKind(
    name="multilabel",
    answers="probabilities",
    losses=("bce_with_logits",),
    default_loss="bce_with_logits",
    target_spec=target_spec,
    head=linear_head,
    metrics=metrics,
    check_targets=check_targets,
)
