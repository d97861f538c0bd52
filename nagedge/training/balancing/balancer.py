"""What a balancer is given, what it returns, and the parts of a model that it tells apart."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nagedge.models import MultiTaskModel
from nagedge.specs import TaskSpec
from nagedge.tasks import has_labels, loss_sums, task_loss
from nagedge.training.balancing.state import BalancerState
from nagedge.training.batches import Batch

__all__ = ["Balanced", "Balancer", "Context", "all_losses", "present_flags", "present_tasks"]


@dataclass(frozen=True)
class Context:
    """What stays the same from step to step.

    Attributes:
        fabric: the devices and processes.
        tasks: in the order of every tensor ``[tasks]``.
        module: torch's own model. model: the same, as Fabric wraps it.
        params: the trainable parameters by name.
    """

    fabric: Fabric
    tasks: Sequence[TaskSpec]
    module: nn.Module
    model: Callable[[Tensor], Mapping[str, Tensor]]
    params: Mapping[str, nn.Parameter]

    @functools.cached_property
    def weights(self) -> Tensor:
        """The tasks' own weights, ``[tasks]``; nobody changes them."""
        return torch.tensor([task.weight for task in self.tasks], device=self.fabric.device)

    @functools.cached_property
    def ones(self) -> Tensor:
        """``[tasks]``; nobody changes them."""
        return torch.ones_like(self.weights)

    def divided(self) -> MultiTaskModel | None:
        """Return the model if its trunk and heads are known, else ``None``."""
        return self.module if isinstance(self.module, MultiTaskModel) else None


@dataclass(frozen=True)
class Balanced:
    """What one step's backward pass gave; the gradients are in the parameters.

    Attributes:
        losses: ``[tasks]``, not weighted, detached; 0 for a task without labels.
        present: ``[tasks]``, 1 for a task with labels in this batch, else 0.
        weights: ``[tasks]``, the factor that each loss had in effect; 0 for a task without labels.
        follow_up: to be called after the optimizer's step.
    """

    losses: Tensor
    present: Tensor
    weights: Tensor
    follow_up: Callable[[], None] | None = None


class Balancer(Protocol):
    """Takes the losses of a batch back to the parameters' ``.grad``."""

    def backward(self, batch: Batch, *, last_of_epoch: bool) -> Balanced:
        """Do one forward and backward pass; gradients are added to those in the parameters."""

    def state(self) -> BalancerState:
        """Return what a new balancer needs to go on as this one would."""


def all_losses(context: Context, outputs: Mapping[str, Tensor], batch: Batch) -> list[Tensor]:
    """Return the loss of each task, scalars in the order of the tasks.

    Where several processes share a batch, the mean of their values and gradients is that of the whole batch, also when
    they have labels or weights of unequal number.
    """
    fabric, weight = context.fabric, batch.sample_weight
    if fabric.world_size == 1:
        return [
            task_loss(task, outputs[task.name], batch.targets[task.name], weight) for task in context.tasks
        ]
    pairs = [loss_sums(task, outputs[task.name], batch.targets[task.name], weight) for task in context.tasks]
    table = fabric.all_reduce(torch.stack([count.detach() for _, count in pairs]), reduce_op="sum")
    assert isinstance(table, Tensor)
    counts = torch.where(table == 0, torch.ones_like(table), table)
    return [total * fabric.world_size / count for (total, _), count in zip(pairs, counts, strict=True)]


def present_tasks(context: Context, batch: Batch) -> list[int]:
    """Return the indices of the tasks with a label in this batch, on any process."""
    flags = [has_labels(task, batch.targets[task.name], batch.sample_weight) for task in context.tasks]
    if context.fabric.device.type == "cpu" and context.fabric.world_size == 1:
        return [index for index, flag in enumerate(flags) if flag]
    if all(flag is True for flag in flags):
        return list(range(len(flags)))
    table = torch.stack([torch.as_tensor(flag, device=context.fabric.device).float() for flag in flags])
    if context.fabric.world_size > 1:
        reduced = context.fabric.all_reduce(table, reduce_op="sum")
        assert isinstance(reduced, Tensor)
        table = reduced
    return [index for index, flag in enumerate(table.tolist()) if flag > 0]


def present_flags(context: Context, present: Sequence[int]) -> Tensor:
    """Return ``[tasks]``, 1 for the tasks of these indices, else 0; it is not to be changed."""
    if len(present) == len(context.tasks):
        return context.ones
    flags = torch.zeros_like(context.ones)
    flags[list(present)] = 1.0
    return flags
