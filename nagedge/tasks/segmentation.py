"""Segmentation: one label in 0 .. size-1 a pixel, logits ``[batch, size, height, width]``."""

from __future__ import annotations

import numpy as np
from torch import nn

from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.tasks.kind import Array, TaskKind, check_labels, check_shape
from nagedge.tasks.losses import ignored_label

__all__ = ["KIND"]


def target_spec(task: TaskSpec) -> TensorSpec:
    """Return the spec of the labels: int64 ``[batch, height, width]``."""
    return TensorSpec(task.name, "int64", (BATCH, *task.shape))


def output_shape(task: TaskSpec) -> tuple[int, ...]:
    """Return one output a class and pixel."""
    return (task.size, *task.shape)


def head(in_features: int, task: TaskSpec) -> nn.Module:
    """Return a 1x1 convolution of a feature map and a bilinear enlargement of its logits to the labels' size."""
    return nn.Sequential(
        nn.Conv2d(in_features, task.size, 1),
        nn.Upsample(size=task.shape, mode="bilinear", align_corners=False),
    )


def metrics(output: Array, target: Array, task: TaskSpec) -> dict[str, float]:
    """Return ``accuracy`` over the labelled pixels and ``mean_iou`` over the classes that occur or are said."""
    said = output.argmax(axis=1).reshape(-1)
    labels = target.reshape(-1)
    labelled = labels != ignored_label(task)
    if not labelled.any():
        return {}
    said, labels = said[labelled], labels[labelled]
    counts = np.bincount(labels * task.size + said, minlength=task.size**2).reshape(task.size, task.size)
    both = np.diag(counts)
    either = counts.sum(axis=0) + counts.sum(axis=1) - both
    return {
        "accuracy": float(both.sum() / counts.sum()),
        "mean_iou": float((both[either > 0] / either[either > 0]).mean()),
    }


def check_targets(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse labels that are not integers ``[n, height, width]`` in 0 .. size-1."""
    check_shape(task, targets, where, row=task.shape)
    check_labels(task, targets, where)


KIND = TaskKind(
    name="segmentation",
    answers="labels",
    losses=("cross_entropy",),
    default_loss="cross_entropy",
    target_spec=target_spec,
    head=head,
    metrics=metrics,
    check_targets=check_targets,
    output_shape=output_shape,
    features=4,
)
