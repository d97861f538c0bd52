"""Balancing in the reference step: eager PyTorch, its autograd, and TorchJD's classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor

from nagedge.graphs.features import DividedGraph, divide
from nagedge.graphs.forward import ForwardGraph
from nagedge.specs import TaskSpec
from nagedge.step_rules import StepRules
from nagedge.tasks import labelled_tasks, total_loss, weighted_loss
from nagedge.training.balancing.on_device import ReferenceBalancing, pcgrad_factors

__all__ = ["Balancing", "ReferenceBatch", "balancing_of"]

State = Mapping[str, Tensor]


class ReferenceBatch:
    """A batch and the tasks to learn from it."""

    def __init__(
        self, tasks: Sequence[TaskSpec], inputs: Sequence[Tensor], targets: State, sample_weight: Tensor
    ) -> None:
        self.tasks, self.inputs, self.targets, self.sample_weight = tasks, inputs, targets, sample_weight

    def losses(self, outputs: State) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the sum of the losses with their tasks' weights, and the task losses."""
        return total_loss(self.tasks, outputs, self.targets, self.sample_weight)

    def weighted(self, by_task: State) -> Tensor:
        """Return the losses with their tasks' weights, ``[tasks]``."""
        return torch.stack([weighted_loss(task, by_task[task.name]) for task in self.tasks])

    def flags(self, outputs: State) -> Tensor:
        """Return 1 for a task with labels, else 0, ``[tasks]``."""
        return labelled_tasks(self.tasks, outputs, self.targets, self.sample_weight).float()


class Balancing(Protocol):
    """Takes the losses of a batch back to the gradients of the parameters."""

    def backward(self, model_state: State, batch: ReferenceBatch) -> tuple[Tensor, dict[str, Tensor], State]:
        """Add the gradients to ``.grad``; return total loss, task losses and the model's updated buffers."""

    def follow_up(self, model_state: State, batch: ReferenceBatch) -> None:
        """Learn from the parameters after the update."""

    def state(self) -> dict[str, Tensor]:
        """Return what is remembered for the next step."""


def balancing_of(
    rules: StepRules, forward: ForwardGraph, tasks: Sequence[TaskSpec], trainable: Sequence[str], state: State
) -> Balancing:
    """Return the balancing of a step; ``state`` by the names of :meth:`StepRules.balancing_state`."""
    if rules.balancing == "static":
        return _Static(forward)
    if rules.balancing == "pcgrad":
        return _Projected(divide(forward, trainable))
    return _Weighed(forward, ReferenceBalancing(rules, tasks, state), asks_again=rules.balancing == "famo")


class _Static:
    def __init__(self, forward: ForwardGraph) -> None:
        self._forward = forward

    def backward(self, model_state: State, batch: ReferenceBatch) -> tuple[Tensor, dict[str, Tensor], State]:
        outputs, buffers = self._forward(model_state, batch.inputs)
        total, by_task = batch.losses(outputs)
        torch.autograd.backward(total)
        return total, by_task, buffers

    def follow_up(self, model_state: State, batch: ReferenceBatch) -> None:
        """A sum remembers nothing."""

    def state(self) -> dict[str, Tensor]:
        return {}


class _Weighed:
    def __init__(self, forward: ForwardGraph, method: ReferenceBalancing, *, asks_again: bool) -> None:
        self._forward, self._method, self._asks_again = forward, method, asks_again

    def backward(self, model_state: State, batch: ReferenceBatch) -> tuple[Tensor, dict[str, Tensor], State]:
        outputs, buffers = self._forward(model_state, batch.inputs)
        total, by_task = batch.losses(outputs)
        losses = batch.weighted(by_task)
        torch.autograd.backward((self._method.factors(losses.detach(), batch.flags(outputs)) * losses).sum())
        return total, by_task, buffers

    def follow_up(self, model_state: State, batch: ReferenceBatch) -> None:
        if self._asks_again:
            with torch.no_grad():
                outputs, _ = self._forward(model_state, batch.inputs)
                losses = batch.weighted(batch.losses(outputs)[1])
            self._method.follow_up(losses, batch.flags(outputs))

    def state(self) -> dict[str, Tensor]:
        return self._method.state()


class _Projected:
    def __init__(self, graph: DividedGraph) -> None:
        self._graph = graph

    def backward(self, model_state: State, batch: ReferenceBatch) -> tuple[Tensor, dict[str, Tensor], State]:
        features, buffers = self._graph.shared(model_state, batch.inputs)
        leaves = [feature.detach().requires_grad_() for feature in features]
        outputs, more = self._graph.outputs(model_state, batch.inputs, leaves)
        total, by_task = batch.losses(outputs)
        rows = []
        for loss in batch.weighted(by_task):
            parts = torch.autograd.grad(loss, leaves, retain_graph=True, materialize_grads=True)
            rows.append(torch.cat([part.reshape(-1) for part in parts]))
        stacked = torch.stack(rows)
        combined = pcgrad_factors(stacked @ stacked.T) @ stacked
        torch.autograd.backward(total)  # the heads; what this leaves in the leaves is not used
        sizes = [leaf.numel() for leaf in leaves]
        directions = [
            part.reshape(leaf.shape) for part, leaf in zip(torch.split(combined, sizes), leaves, strict=True)
        ]
        torch.autograd.backward(features, directions)
        return total, by_task, {**buffers, **more}

    def follow_up(self, model_state: State, batch: ReferenceBatch) -> None:
        """PCGrad remembers nothing."""

    def state(self) -> dict[str, Tensor]:
        return {}
