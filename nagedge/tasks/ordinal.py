"""Ordinal: one of ``size`` ordered classes a sample, logits ``[batch, size - 1]`` of "above class k"."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.tasks.kind import Array, TaskKind, check_labels, check_shape
from nagedge.tasks.losses import ignored_label

__all__ = ["KIND", "OrdinalHead"]


class OrdinalHead(nn.Module):
    """One score for all thresholds, and an offset a threshold (Cao et al. 2020), so that the ranks are consistent.

    Args:
        in_features: channels of the features.
        size: classes.
    """

    def __init__(self, in_features: int, size: int) -> None:
        super().__init__()
        self.score = nn.Linear(in_features, 1, bias=False)
        # the offsets fall, as fewer samples are above a higher class
        self.offsets = nn.Parameter(torch.linspace(1.0, -1.0, size - 1) if size > 2 else torch.zeros(1))

    def forward(self, features: Tensor) -> Tensor:
        """Return ``[batch, size - 1]``."""
        score: Tensor = self.score(features)
        return score + self.offsets


def head(in_features: int, task: TaskSpec) -> nn.Module:
    """Return the head from ``[batch, in_features]`` to ``[batch, size - 1]``."""
    return OrdinalHead(in_features, task.size)


def target_spec(task: TaskSpec) -> TensorSpec:
    """Return the spec of the labels: int64 ``[batch]``, 0 the lowest class."""
    return TensorSpec(task.name, "int64", (BATCH,))


def output_shape(task: TaskSpec) -> tuple[int, ...]:
    """Return one output a threshold."""
    return (task.size - 1,)


def metrics(output: Array, target: Array, task: TaskSpec) -> dict[str, float]:
    """Return ``mae`` in classes and ``accuracy``; the class is the number of thresholds that are passed."""
    labels = target.reshape(-1)
    labelled = labels != ignored_label(task)
    if not labelled.any():
        return {}
    said = (output.reshape(len(labels), -1) > 0).sum(axis=1)
    distance = np.abs(said - labels)[labelled]
    return {"mae": float(distance.mean()), "accuracy": float((distance == 0).mean())}


def check_targets(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse labels that are not integers ``[n]`` in 0 .. size-1."""
    check_shape(task, targets, where, row=())
    check_labels(task, targets, where)


KIND = TaskKind(
    name="ordinal",
    answers="labels",
    losses=("cumulative",),
    default_loss="cumulative",
    target_spec=target_spec,
    head=head,
    metrics=metrics,
    check_targets=check_targets,
    output_shape=output_shape,
)
