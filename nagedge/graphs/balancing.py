"""Balancing inside a training step: from several losses to the one whose gradient is followed.

Every formula is written with a few operations on vectors ``[tasks]``, which any runtime has. They are those of TorchJD,
which trains on the host; :mod:`nagedge.training.balancing.on_device` holds them against its classes.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad

from nagedge.graphs.features import DividedGraph
from nagedge.graphs.forward import ForwardGraph
from nagedge.specs import TaskSpec
from nagedge.step_rules import StepRules
from nagedge.tasks import labelled_tasks, total_loss, weighted_loss

__all__ = ["Batch", "Objective", "follow_up", "objective"]

_FAMO_EPSILON = 1e-8
_ADAM_EPSILON, _BETA1, _BETA2 = 1e-8, 0.9, 0.999
"""FAMO's logits are learnt by Adam (Kingma & Ba 2015) with torch's defaults."""

State = Mapping[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """What a step is given: the model's inputs, the targets by task, and ``[batch]`` weights."""

    inputs: Sequence[Tensor]
    targets: Mapping[str, Tensor]
    sample_weight: Tensor


@dataclass(frozen=True)
class Objective:
    """What a step follows and reports.

    Attributes:
        value: the scalar whose gradient is followed.
        total: sum of the losses with their tasks' weights, which is reported.
        by_task: the task losses, not weighted.
        buffers: the model's updated buffers by name.
        state: what the balancing method remembers.
    """

    value: Tensor
    total: Tensor
    by_task: dict[str, Tensor]
    buffers: dict[str, Tensor]
    state: dict[str, Tensor]


def objective(
    rules: StepRules,
    graph: ForwardGraph | DividedGraph,
    tasks: Sequence[TaskSpec],
    model_state: State,
    batch: Batch,
    state: State,
) -> Objective:
    """Compute losses and what to follow.

    Args:
        rules: how.
        graph: the forward pass; divided at the features for ``"pcgrad"``.
        tasks: in the order of every vector ``[tasks]``.
        model_state: every tensor that the graph reads.
        batch: what is learnt from.
        state: what the method remembers, by the names of :meth:`StepRules.balancing_state`.
    """
    if isinstance(graph, DividedGraph):
        return _projected(graph, tasks, model_state, batch)
    outputs, buffers = graph(model_state, batch.inputs)
    total, losses = total_loss(tasks, outputs, batch.targets, batch.sample_weight)
    if rules.balancing == "static":
        return Objective(total, total, losses, buffers, {})
    # the same products as in the total: cleaning the graph makes them one
    weighted = [weighted_loss(task, losses[task.name]) for task in tasks]
    present = labelled_tasks(tasks, outputs, batch.targets, batch.sample_weight)
    seen = torch.where(present, torch.stack([loss.detach() for loss in weighted]), state["last"])
    flags = present.to(seen.dtype)
    factors, remembered = _FACTORS[rules.balancing](rules, seen, flags, state)
    followed = _sum([(factors * flags)[place] * loss for place, loss in enumerate(weighted)])
    return Objective(followed, total, losses, buffers, {"last": seen, **remembered})


def follow_up(
    rules: StepRules,
    graph: ForwardGraph,
    tasks: Sequence[TaskSpec],
    model_state: State,
    batch: Batch,
    state: State,
) -> dict[str, Tensor]:
    """Return what FAMO's logits learn from the losses of the same batch with the new parameters.

    Args:
        rules, graph, tasks, batch: as for :func:`objective`.
        model_state: with the new parameters.
        state: with ``last``, the losses before the update.
    """
    outputs, _ = graph(model_state, batch.inputs)
    _, losses = total_loss(tasks, outputs, batch.targets, batch.sample_weight)
    now = torch.stack([weighted_loss(task, losses[task.name]) for task in tasks])
    present = labelled_tasks(tasks, outputs, batch.targets, batch.sample_weight)
    now = torch.where(present, now, state["last"])
    delta = (state["last"] + _FAMO_EPSILON).log() - (now + _FAMO_EPSILON).log()
    shares = torch.softmax(state["logits"], 0)
    gradient = shares * (delta - (shares * delta).sum()) + rules.option("weight_decay") * state["logits"]
    count = state["count"] + 1
    first = _BETA1 * state["first_moment"] + (1 - _BETA1) * gradient
    second = _BETA2 * state["second_moment"] + (1 - _BETA2) * gradient * gradient
    size = (second / _left_out(_BETA2, count)).sqrt() + _ADAM_EPSILON
    logits = state["logits"] - rules.option("lr") * (first / _left_out(_BETA1, count)) / size
    return {"logits": logits, "first_moment": first, "second_moment": second, "count": count}


def _left_out(beta: float, count: Tensor) -> Tensor:
    """Return Adam's correction of a mean that began at zero, ``1 - beta ** count``."""
    return 1 - (count * math.log(beta)).exp()


def _sum(terms: Sequence[Tensor]) -> Tensor:
    return functools.reduce(torch.add, terms)


def _uncertainty(
    rules: StepRules, seen: Tensor, flags: Tensor, state: State
) -> tuple[Tensor, dict[str, Tensor]]:
    """Kendall et al. 2018: sum of ``exp(-s) L / 2 + s / 2``, with s learnt by plain gradient descent."""
    factors = 0.5 * (-state["log_variance"]).exp()
    slope = 0.5 - factors * seen
    return factors, {"log_variance": state["log_variance"] - rules.option("lr") * flags * slope}


def _imtl_l(rules: StepRules, seen: Tensor, flags: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
    """Liu et al. 2021: sum of ``exp(s) L - s``, with s learnt by plain gradient descent."""
    factors = state["log_scale"].exp()
    slope = factors * seen - 1
    return factors, {"log_scale": state["log_scale"] - rules.option("lr") * flags * slope}


def _dwa(rules: StepRules, seen: Tensor, flags: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
    """Liu et al. 2019: softmax of the ratio of two mean losses; a window of steps stands for an epoch."""
    del flags
    older, newer = state["older"], state["newer"]
    unknown = older == 0  # until two windows are over
    rates = torch.where(
        unknown, torch.ones_like(older), newer / torch.where(unknown, torch.ones_like(older), older)
    )
    factors = seen.shape[0] * torch.softmax(rates / rules.option("temperature"), 0)
    total, count = state["sum"] + seen, state["count"] + 1
    over = count >= rules.option("window")
    return factors, {
        "sum": torch.where(over, torch.zeros_like(total), total),
        "count": torch.where(over, torch.zeros_like(count), count),
        "older": torch.where(over, newer, older),
        "newer": torch.where(over, total / count, newer),
    }


def _famo(rules: StepRules, seen: Tensor, flags: Tensor, state: State) -> tuple[Tensor, dict[str, Tensor]]:
    """Liu et al. 2023: the convex combination of the gradients of log-losses; :func:`follow_up` learns the logits."""
    del rules, flags
    shares = torch.softmax(state["logits"], 0) / (seen + _FAMO_EPSILON)
    return shares / shares.sum(), {}


_FACTORS = {"uncertainty": _uncertainty, "imtl_l": _imtl_l, "dwa": _dwa, "famo": _famo}


def _projected(graph: DividedGraph, tasks: Sequence[TaskSpec], model_state: State, batch: Batch) -> Objective:
    """Yu et al. 2020 (PCGrad) on the gradients of the features; conflicts are taken in the order of the tasks.

    What only one task reads (its head) follows that task's own loss, what is shared the combined gradient: so the
    value is the sum of the losses of the detached features, plus the product of features and combined gradient.
    """
    features, buffers = graph.shared(model_state, batch.inputs)
    fixed = [feature.detach() for feature in features]

    def loss_of(index: int, given: list[Tensor]) -> Tensor:
        outputs, _ = graph.outputs(model_state, batch.inputs, given)
        return total_loss(tasks[index : index + 1], outputs, batch.targets, batch.sample_weight)[0]

    rows = [grad(lambda given, index=index: loss_of(index, given))(fixed) for index in range(len(tasks))]
    rows = [[part.detach() for part in row] for row in rows]
    products = [
        [_sum([(a * b).sum() for a, b in zip(one, other, strict=True)]) for other in rows] for one in rows
    ]
    factors = _pcgrad_factors(products)
    outputs, more = graph.outputs(model_state, batch.inputs, fixed)
    total, losses = total_loss(tasks, outputs, batch.targets, batch.sample_weight)
    followed = total
    for place, feature in enumerate(features):
        combined = _sum([factor * row[place] for factor, row in zip(factors, rows, strict=True)])
        followed = followed + (combined * feature).sum()
    return Objective(followed, total, losses, {**buffers, **more}, {})


def _pcgrad_factors(products: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """Return the factor of every gradient, scalars, from the inner products of all pairs."""
    one_of_each = torch.ones_like(products[0][0])
    projected: list[dict[int, Tensor]] = []
    for row in range(len(products)):
        own = {row: one_of_each}  # the gradient of this task, as factors of all
        for other in range(len(products)):
            if other != row:
                product = _sum([factor * products[other][index] for index, factor in own.items()])
                square = products[other][other]
                removed = product / torch.where(square > 0, square, one_of_each)
                own[other] = -torch.where(product < 0, removed, torch.zeros_like(removed))
        projected.append(own)
    return [_sum([own[index] for own in projected]) for index in range(len(products))]
