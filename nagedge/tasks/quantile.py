"""Quantile regression: ``size`` quantiles of one number a sample."""

from __future__ import annotations

import numpy as np

from nagedge.specs import BATCH, LossSpec, TaskSpec, TensorSpec
from nagedge.tasks.kind import Array, TaskKind, check_finite, check_shape, linear_head
from nagedge.tasks.losses import quantile_levels

__all__ = ["KIND"]


def target_spec(task: TaskSpec) -> TensorSpec:
    """Return the spec of the values: float32 ``[batch]``."""
    return TensorSpec(task.name, "float32", (BATCH,), task.unit)


def metrics(output: Array, target: Array, task: TaskSpec) -> dict[str, float]:
    """Return ``pinball`` and ``mae`` of the middle quantile in the unit, and ``coverage``.

    Coverage is the part of the targets between the lowest and the highest quantile.
    """
    y = target.reshape(-1).astype(np.float64)
    known = ~np.isnan(y)
    if not known.any():
        return {}
    said, y = output.reshape(-1, task.size).astype(np.float64)[known], y[known]
    levels = np.array(
        quantile_levels(task.loss if isinstance(task.loss, LossSpec) else LossSpec(""), task.size)
    )
    difference = y[:, None] - said
    middle = int(np.argmin(np.abs(levels - 0.5)))
    inside = (y >= said.min(axis=1)) & (y <= said.max(axis=1))
    return {
        "mae": float(np.abs(difference[:, middle]).mean()),
        "pinball": float(np.maximum(levels * difference, (levels - 1) * difference).mean()),
        "coverage": float(inside.mean()),
    }


def check_targets(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse targets that are not finite numbers ``[n]``."""
    check_shape(task, targets, where, row=())
    check_finite(task, targets, where)


KIND = TaskKind(
    name="quantile",
    answers="values",
    losses=("pinball",),
    default_loss="pinball",
    target_spec=target_spec,
    head=linear_head,
    metrics=metrics,
    check_targets=check_targets,
)
