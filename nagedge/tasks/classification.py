"""Classification: one label in 0 .. size-1 a sample, logits ``[batch, size]``."""

from __future__ import annotations

from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.tasks.kind import Array, TaskKind, check_labels, check_shape, linear_head
from nagedge.tasks.losses import ignored_label

__all__ = ["KIND"]


def target_spec(task: TaskSpec) -> TensorSpec:
    """Return the spec of the labels: int64 ``[batch]``."""
    return TensorSpec(task.name, "int64", (BATCH,))


def metrics(output: Array, target: Array, task: TaskSpec) -> dict[str, float]:
    """Return ``accuracy`` over the labelled samples (0 when none is labelled)."""
    labels = target.reshape(-1)
    labelled = labels != ignored_label(task)
    hits = output.argmax(axis=1) == labels
    return {"accuracy": float(hits[labelled].mean()) if labelled.any() else 0.0}


def check_targets(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse labels that are not integers ``[n]`` in 0 .. size-1 (the loss's ``ignore_index`` is allowed)."""
    check_shape(task, targets, where, row=())
    check_labels(task, targets, where)


KIND = TaskKind(
    name="classification",
    answers="labels",
    losses=("cross_entropy",),
    default_loss="cross_entropy",
    target_spec=target_spec,
    head=linear_head,
    metrics=metrics,
    check_targets=check_targets,
)
