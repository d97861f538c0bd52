"""Binary: one yes/no answer a sample, one logit ``[batch]`` or ``[batch, 1]``."""

from __future__ import annotations

from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.tasks.kind import Array, TaskKind, check_shape, linear_head
from nagedge.tasks.multilabel import check_probabilities, label_metrics

__all__ = ["KIND"]


def target_spec(task: TaskSpec) -> TensorSpec:
    """Return the spec of the answers: float32 ``[batch]``, 0 or 1."""
    return TensorSpec(task.name, "float32", (BATCH,))


def metrics(output: Array, target: Array, task: TaskSpec) -> dict[str, float]:
    """Return ``accuracy`` and ``f1`` of the positive answer, deciding at logit 0."""
    return label_metrics(output.reshape(-1), target.reshape(-1))


def check_targets(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse targets that are not numbers ``[n]`` in [0, 1]."""
    check_shape(task, targets, where, row=())
    check_probabilities(task, targets, where)


KIND = TaskKind(
    name="binary",
    answers="probabilities",
    losses=("bce_with_logits",),
    default_loss="bce_with_logits",
    target_spec=target_spec,
    head=linear_head,
    metrics=metrics,
    check_targets=check_targets,
)
