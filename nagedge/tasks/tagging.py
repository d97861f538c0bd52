"""Sequence tagging: one label in 0 .. size-1 a step, logits ``[batch, size, steps]`` as in torch."""

from __future__ import annotations

from torch import Tensor, nn

from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.tasks.kind import Array, TaskKind, check_labels, check_shape
from nagedge.tasks.losses import ignored_label

__all__ = ["KIND", "TaggingHead"]


class TaggingHead(nn.Module):
    """One linear layer for every step.

    Args:
        in_features: channels of the features.
        size: classes.
    """

    def __init__(self, in_features: int, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, size)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``[batch, size, steps]`` from ``[batch, steps, in_features]``."""
        logits: Tensor = self.layer(features)
        return logits.transpose(1, 2)


def head(in_features: int, task: TaskSpec) -> nn.Module:
    """Return the head from ``[batch, steps, in_features]`` to ``[batch, size, steps]``."""
    return TaggingHead(in_features, task.size)


def target_spec(task: TaskSpec) -> TensorSpec:
    """Return the spec of the labels: int64 ``[batch, steps]``; padding has the loss's ``ignore_index``."""
    return TensorSpec(task.name, "int64", (BATCH, *task.shape))


def output_shape(task: TaskSpec) -> tuple[int, ...]:
    """Return one output a class and step."""
    return (task.size, *task.shape)


def metrics(output: Array, target: Array, task: TaskSpec) -> dict[str, float]:
    """Return ``accuracy`` over the labelled steps, and ``sequence_accuracy``: samples without any error."""
    labelled = target != ignored_label(task)
    if not labelled.any():
        return {}
    hits = output.argmax(axis=1) == target
    samples = labelled.any(axis=1)
    return {
        "accuracy": float(hits[labelled].mean()),
        "sequence_accuracy": float((hits | ~labelled).all(axis=1)[samples].mean()),
    }


def check_targets(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse labels that are not integers ``[n, steps]`` in 0 .. size-1."""
    check_shape(task, targets, where, row=task.shape)
    check_labels(task, targets, where)


KIND = TaskKind(
    name="tagging",
    answers="labels",
    losses=("cross_entropy",),
    default_loss="cross_entropy",
    target_spec=target_spec,
    head=head,
    metrics=metrics,
    check_targets=check_targets,
    output_shape=output_shape,
    features=3,
)
