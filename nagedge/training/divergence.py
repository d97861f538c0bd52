"""The guard against training that runs away: which task, in which step."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nagedge.errors import TrainingDivergedError
from nagedge.specs import TaskSpec

__all__ = ["check_losses", "check_tensors", "diverged"]


def diverged(what: str, *, kept_step: int, path: Path) -> TrainingDivergedError:
    """Return the error that says what happened, what is kept and what to do."""
    return TrainingDivergedError(
        f"training diverged: {what}; the checkpoint of step {kept_step} in {str(path)!r} is kept."
        " Lower optimizer.lr, set optimizer.clip_norm, or check the data of this task."
    )


def check_losses(
    rows: Sequence[Sequence[float]], tasks: Sequence[TaskSpec], *, first_step: int, kept_step: int, path: Path
) -> None:
    """Raise for the first step with a number that is not finite.

    Args:
        rows: for each step: total loss, the loss of each task, norm of the gradient.
        tasks: names of the losses, in their order.
        first_step: number of the first row's step, from 1.
        kept_step: steps done in the checkpoint on disk, which is in the folder ``path``.

    Raises:
        TrainingDivergedError: names the task and the step.
    """
    for step, (_, *losses, norm) in enumerate(rows, first_step):
        for task, loss in zip(tasks, losses, strict=True):
            if not math.isfinite(loss):
                raise diverged(
                    f"the loss of task {task.name!r} became {loss} in step {step}",
                    kept_step=kept_step,
                    path=path,
                )
        if not math.isfinite(norm):
            loss, name = max(
                (task.weight * loss, task.name) for task, loss in zip(tasks, losses, strict=True)
            )
            raise diverged(
                f"the norm of the gradient became {norm} in step {step}, where task {name!r} has the largest loss,"
                f" {loss:g}",
                kept_step=kept_step, path=path,
            )  # fmt: skip


def check_tensors(tensors: Mapping[str, Tensor], *, step: int, kept_step: int, path: Path) -> None:
    """Raise when a parameter or buffer is not finite after ``step``; nothing like that is ever written.

    Raises:
        TrainingDivergedError: names the tensor and the step.
    """
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise diverged(f"{name!r} is no longer finite after step {step}", kept_step=kept_step, path=path)
