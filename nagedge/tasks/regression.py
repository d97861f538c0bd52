"""Regression: ``size`` real outputs a sample."""

from __future__ import annotations

import numpy as np

from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.tasks.kind import Array, TaskKind, check_finite, check_shape, linear_head

__all__ = ["KIND"]


def target_spec(task: TaskSpec) -> TensorSpec:
    """Return the spec of the values: float32 ``[batch, size]``, ``[batch]`` for size 1."""
    return TensorSpec(task.name, "float32", (BATCH,) if task.size == 1 else (BATCH, task.size), task.unit)


def metrics(output: Array, target: Array, task: TaskSpec) -> dict[str, float]:
    """Return ``mae``, ``rmse`` (in the units of the arrays) and ``r2``.

    R2 is the mean over the outputs of 1 - residual / total sum of squares; an output whose targets are all equal
    has no variance to explain and counts 0. Targets that are NaN are left out; without any other there are no figures.
    """
    y = target.reshape(-1, task.size).astype(np.float64)
    known = ~np.isnan(y)
    if not known.any():
        return {}
    error = output.reshape(-1, task.size).astype(np.float64) - np.where(known, y, 0.0)
    error = np.where(known, error, 0.0)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, y, 0.0).sum(axis=0) / count
    with np.errstate(invalid="ignore"):  # figures of outputs that are not finite are NaN, without a warning
        residual = (error**2).sum(axis=0)
        total = np.where(known, (y - mean) ** 2, 0.0).sum(axis=0)
    explained = np.where(total > 0, 1 - residual / np.where(total > 0, total, 1), 0.0)
    return {
        "mae": float(np.abs(error).sum() / known.sum()),
        "rmse": float(np.sqrt((error**2).sum() / known.sum())),
        "r2": float(explained[known.any(axis=0)].mean()),
    }


def check_targets(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse targets that are not finite numbers ``[n, size]`` (``[n]`` for size 1)."""
    check_shape(task, targets, where, row=() if task.size == 1 else (task.size,))
    check_finite(task, targets, where)


KIND = TaskKind(
    name="regression",
    answers="values",
    losses=("mse", "l1", "huber"),
    default_loss="mse",
    target_spec=target_spec,
    head=linear_head,
    metrics=metrics,
    check_targets=check_targets,
)
