"""Mixture density: the distribution of one number a sample, as ``size`` Gaussians (Bishop 1994)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.tasks.kind import Array, TaskKind, check_finite, check_shape

__all__ = ["KIND"]


def target_spec(task: TaskSpec) -> TensorSpec:
    """Return the spec of the values: float32 ``[batch]``."""
    return TensorSpec(task.name, "float32", (BATCH,), task.unit)


def output_shape(task: TaskSpec) -> tuple[int, ...]:
    """Return logits, means and logarithms of the scales, one each a component."""
    return (3 * task.size,)


def head(in_features: int, task: TaskSpec) -> nn.Module:
    """Return one linear layer to ``[batch, 3 size]``; the means begin spread over (-1, 1), so that they differ."""
    layer = nn.Linear(in_features, 3 * task.size)
    with torch.no_grad():
        layer.bias[task.size : 2 * task.size] += torch.linspace(-1.0, 1.0, task.size + 2)[1:-1]
    return layer


def metrics(output: Array, target: Array, task: TaskSpec) -> dict[str, float]:
    """Return ``nll`` in nats and ``mae`` of the mixture's mean, both in the unit of the outputs."""
    y = target.reshape(-1).astype(np.float64)
    known = ~np.isnan(y)
    if not known.any():
        return {}
    y = y[known]
    logits, means, log_scales = np.split(
        output.reshape(-1, 3 * task.size).astype(np.float64)[known], 3, axis=1
    )
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares /= shares.sum(axis=1, keepdims=True)
    z = (y[:, None] - means) * np.exp(-log_scales)
    joint = np.log(np.maximum(shares, 1e-300)) - 0.5 * z**2 - log_scales - 0.5 * np.log(2 * np.pi)
    highest = joint.max(axis=1)
    likelihood = highest + np.log(np.exp(joint - highest[:, None]).sum(axis=1))
    return {
        "nll": float(-likelihood.mean()),
        "mae": float(np.abs((shares * means).sum(axis=1) - y).mean()),
    }


def check_targets(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse targets that are not finite numbers ``[n]``."""
    check_shape(task, targets, where, row=())
    check_finite(task, targets, where)


KIND = TaskKind(
    name="mixture",
    answers="values",
    losses=("mixture_nll",),
    default_loss="mixture_nll",
    target_spec=target_spec,
    head=head,
    metrics=metrics,
    check_targets=check_targets,
    output_shape=output_shape,
)
