"""Task kinds: the head, the loss, the metrics and the target checks of each.

A new kind is one module with a ``KIND`` and one entry in :data:`TASK_KINDS` (and its name in
:data:`nagedge.specs.TASK_KIND_NAMES`).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from nagedge.errors import ConfigurationError, nearest_name
from nagedge.specs import MISSING, LossSpec, TaskSpec, TensorSpec
from nagedge.tasks import (
    binary,
    classification,
    embedding,
    mixture,
    multilabel,
    ordinal,
    quantile,
    regression,
    segmentation,
    tagging,
)
from nagedge.tasks.kind import Array, TaskKind, allows_missing
from nagedge.tasks.losses import LOSSES, weighted_mean, weighted_sums

__all__ = [
    "TASK_KINDS",
    "TaskKind",
    "check_targets",
    "has_labels",
    "labelled_tasks",
    "loss_spec",
    "loss_sums",
    "measure",
    "target_spec",
    "task_loss",
    "total_loss",
    "weighted_loss",
]

TASK_KINDS: Mapping[str, TaskKind] = {
    module.KIND.name: module.KIND
    for module in (
        classification,
        binary,
        multilabel,
        regression,
        ordinal,
        quantile,
        mixture,
        segmentation,
        tagging,
        embedding,
    )
}
"""The task kinds by name."""


def target_spec(task: TaskSpec) -> TensorSpec:
    """Return name, dtype and shape of the task's targets."""
    return TASK_KINDS[task.kind].target_spec(task)


def check_targets(task: TaskSpec, targets: Array, where: str) -> None:
    """Raise :class:`~nagedge.errors.DataError` when targets do not fit the task; ``where`` names their origin."""
    TASK_KINDS[task.kind].check_targets(task, targets, where)


@functools.cache
def loss_spec(task: TaskSpec) -> LossSpec:
    """Return the task's loss with its options, checked.

    Raises:
        ConfigurationError: the kind has no such loss, or an option is out of range or not one of this loss.
    """
    kind = TASK_KINDS[task.kind]
    spec = task.loss if isinstance(task.loss, LossSpec) else LossSpec(task.loss or kind.default_loss)
    if spec.name not in kind.losses:
        raise ConfigurationError(
            f"task {task.name!r}: a {task.kind} task has no loss {spec.name!r}; expected one of "
            f"{', '.join(kind.losses)}." + nearest_name(spec.name, kind.losses)
        )
    plain = LossSpec(spec.name)
    for option, owners in _OPTIONS.items():
        if spec.name not in owners and getattr(spec, option) != getattr(plain, option):
            raise ConfigurationError(
                f"task {task.name!r}: {option} is an option of {' and '.join(owners)}, not of {spec.name}."
                " Leave it out."
            )
    if not 0 <= spec.label_smoothing <= 1:
        raise ConfigurationError(
            f"task {task.name!r}: label_smoothing is {spec.label_smoothing}, expected a number in [0, 1]."
        )
    if not (math.isfinite(spec.delta) and spec.delta > 0):
        raise ConfigurationError(f"task {task.name!r}: delta is {spec.delta}, expected a finite number > 0.")
    _check_class_weights(task, spec)
    _check_quantiles(task, spec)
    return spec


_OPTIONS = {
    "label_smoothing": ("cross_entropy",),
    "ignore_index": ("cross_entropy", "cumulative"),
    "delta": ("huber",),
    "quantiles": ("pinball",),
}


def _check_quantiles(task: TaskSpec, spec: LossSpec) -> None:
    if spec.quantiles is None:
        return
    rising = all(low < high for low, high in itertools.pairwise(spec.quantiles))
    if len(spec.quantiles) != task.size or not rising or not all(0 < level < 1 for level in spec.quantiles):
        raise ConfigurationError(
            f"task {task.name!r}: quantiles are {list(spec.quantiles)}, expected {task.size} rising numbers between 0"
            " and 1, as many as its size."
        )


def _check_class_weights(task: TaskSpec, spec: LossSpec) -> None:
    if spec.class_weights is None:
        return
    if spec.name not in ("cross_entropy", "bce_with_logits"):
        raise ConfigurationError(f"task {task.name!r}: {spec.name} takes no class_weights. Leave them out.")
    if len(spec.class_weights) != task.size:
        raise ConfigurationError(
            f"task {task.name!r}: {len(spec.class_weights)} class_weights for size {task.size}; give one a class."
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in spec.class_weights):
        raise ConfigurationError(
            f"task {task.name!r}: class_weights are {list(spec.class_weights)}, expected finite numbers >= 0."
        )


def task_loss(task: TaskSpec, output: Tensor, target: Tensor, sample_weight: Tensor | None = None) -> Tensor:
    """Return the scalar loss of one task.

        L = sum_i w_i l_i / sum_i w_i n_i

    with l_i the loss of sample i and n_i its normaliser: 1, the label's class weight in weighted cross-entropy, 0 for
    an ignored label. Without sample weights this is torch's ``reduction="mean"``; with a denominator of 0 it is 0.
    It can be traced by ``make_fx`` with a symbolic batch size and needs no gather or scatter.

    Args:
        task: what to compute.
        output: ``[batch, ...]`` as the kind's head gives it; ``[batch]`` too for size 1. Floating; the loss has its
            dtype.
        target: as :func:`target_spec` says; ``[batch]`` and ``[batch, 1]`` are the same.
        sample_weight: ``[batch]``, >= 0, or ``None`` for ones.

    Raises:
        ConfigurationError: the task's loss or one of its options is wrong.
    """
    return weighted_mean(*_sample_losses(task, output, target), sample_weight)


def loss_sums(
    task: TaskSpec, output: Tensor, target: Tensor, sample_weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return numerator and denominator of :func:`task_loss`, for batches that several processes share."""
    return weighted_sums(*_sample_losses(task, output, target), sample_weight)


def _sample_losses(task: TaskSpec, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
    spec = loss_spec(task)
    output = output.unsqueeze(1) if output.dim() == 1 else output
    if TASK_KINDS[task.kind].answers == "labels":
        single = task.kind in ("classification", "ordinal", "embedding") and target.dim() == 2
        target = target.squeeze(1) if single else target
    else:
        target = (target.unsqueeze(1) if target.dim() == 1 else target).to(output.dtype)
    if task.kind == "embedding":
        output = output[:, task.shape[0] :]
    return LOSSES[spec.name](spec, output, target)


def has_labels(task: TaskSpec, target: Tensor, sample_weight: Tensor | None = None) -> Tensor | bool:
    """Return whether any sample of a batch has a label and a weight for the task: ``True``, or a bool scalar.

    Args:
        task: whose labels.
        target: as for :func:`task_loss`.
        sample_weight: ``[batch]``, >= 0, or ``None`` for ones.
    """
    spec = loss_spec(task)
    if TASK_KINDS[task.kind].answers == "labels":
        labelled = target != spec.ignore_index
    elif spec.missing:
        labelled = target > MISSING
    else:
        return True if sample_weight is None else (sample_weight > 0).any()
    if sample_weight is None:
        return labelled.any()
    return (labelled.reshape(len(target), -1).any(1) & (sample_weight > 0)).any()


def labelled_tasks(
    tasks: Sequence[TaskSpec],
    outputs: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    sample_weight: Tensor | None = None,
) -> Tensor:
    """Return which tasks a batch tells anything about, bool ``[tasks]``: where none, the loss's denominator is 0.

    Unlike :func:`has_labels` it takes labels of a class with weight 0 for none. It can be traced as
    :func:`task_loss` can.
    """
    counts = [
        loss_sums(task, outputs[task.name].detach(), targets[task.name], sample_weight)[1] for task in tasks
    ]
    return torch.stack(counts) > 0


def measure(task: TaskSpec, output: Array, target: Array) -> dict[str, float]:
    """Return the task's figures, in the units of the arrays; empty when no sample has a label.

    Args:
        task: what to measure.
        output: ``[n, ...]`` as the head gives it. target: ``[n, ...]``.
    """
    if allows_missing(task) and TASK_KINDS[task.kind].answers != "labels":
        target = np.where(target > MISSING, target, np.nan)
        if np.isnan(target).all():
            return {}
    return TASK_KINDS[task.kind].metrics(output, target, task)


def weighted_loss(task: TaskSpec, loss: Tensor) -> Tensor:
    """Return a task's loss with the task's weight; a weight of 1 adds nothing to a traced graph."""
    return loss if task.weight == 1 else task.weight * loss


def total_loss(
    tasks: Sequence[TaskSpec],
    outputs: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    sample_weight: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted sum of the task losses, and the task losses by task name (not weighted), all scalars."""
    losses = {
        task.name: task_loss(task, outputs[task.name], targets[task.name], sample_weight) for task in tasks
    }
    return functools.reduce(torch.add, [weighted_loss(task, losses[task.name]) for task in tasks]), losses
