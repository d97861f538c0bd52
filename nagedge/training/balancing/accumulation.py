"""Importance-adaptive gradient accumulation: important tasks get more of the step's micro-batches.

A step's batch is divided into M micro-batches. Task t takes part in k_t of them; what it accumulates, divided by M, is
its part of the step. Its share s_t = k_t / M of the most important task's micro-batches follows its importance; what
rounding leaves over is credited to its next steps, so that a task whose share is below 1 / M has its turn when due.

With fixed shares the expected gradient is ``sum_t s_t w_t grad L_t``. With equal ones every task takes part in every
micro-batch, and the step is that of the plain sum, bit for bit. What is saved are the passes through the heads of the
tasks that sit out, and the whole of a micro-batch in which none takes part.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from nagedge.errors import ConfigurationError
from nagedge.tasks import has_labels, task_loss, weighted_loss
from nagedge.training.balancing.balancer import Balanced, Context
from nagedge.training.balancing.config import BalancingConfig
from nagedge.training.balancing.library import preferences
from nagedge.training.balancing.methods import METHODS
from nagedge.training.balancing.state import BalancerState
from nagedge.training.batches import Batch

__all__ = ["IMPORTANCES", "AccumulationBalancer", "allotted"]

IMPORTANCES = ("loss_rate", "gradient_norm", "preference")
"""How important a task is: the part of its first loss that is left; the norm of its gradient; as the user says."""


def allotted(shares: Tensor, credit: Tensor, micro_batches: int) -> tuple[Tensor, Tensor]:
    """Return how many micro-batches each task gets, int64 ``[tasks]``, and the credit that is left, in [0, 1).

    Args:
        shares: ``[tasks]``, in [0, 1], float64.
        credit: ``[tasks]``, from the step before.
        micro_batches: of the step.
    """
    due = credit + micro_batches * shares
    counts = torch.floor(due + 1e-9).clamp(max=micro_batches)
    return counts.to(torch.int64), (due - counts).clamp(min=0.0)


class AccumulationBalancer:
    """See the module.

    Args:
        config: the options ``micro_batches`` (>= 1), ``importance`` (one of :data:`IMPORTANCES`), ``every`` (steps
            between two estimates), ``smoothing`` (of the estimates, in [0, 1)), ``floor`` (smallest share, in (0, 1]).
        context: see there.
        state: of the balancer whose work this one goes on with.

    Raises:
        ConfigurationError: an option out of range, several processes, or gradient norms of a model without features.
    """

    def __init__(self, config: BalancingConfig, context: Context, state: BalancerState) -> None:
        self._context = context
        self._importance = str(
            config.options.get("importance", METHODS["accumulation"].options["importance"])
        )
        self._micro_batches, self._every = int(config.option("micro_batches")), int(config.option("every"))
        self._smoothing, self._floor = config.option("smoothing"), config.option("floor")
        self._check()
        count = len(context.tasks)
        fixed = preferences(config, context.tasks)
        start = torch.ones(count, dtype=torch.float64) if fixed is None else fixed.double()
        self._estimate = state.tensors.get("estimate", start)
        self._first = state.tensors.get("first", torch.full((count,), float("nan"), dtype=torch.float64))
        self._credit = state.tensors.get("credit", torch.zeros(count, dtype=torch.float64))
        self._steps = int(state.values.get("steps", "0"))

    def backward(self, batch: Batch, *, last_of_epoch: bool) -> Balanced:
        """See :class:`~nagedge.training.balancing.balancer.Balancer`."""
        del last_of_epoch
        context, tasks = self._context, self._context.tasks
        parts = min(self._micro_batches, len(batch.x))
        shares = (self._estimate / self._estimate.max().clamp_min(1e-30)).clamp(self._floor, 1.0)
        counts, self._credit = allotted(shares, self._credit, parts)
        estimate_now = self._importance == "gradient_norm" and self._steps % self._every == 0
        sums = torch.zeros(len(tasks), device=context.fabric.device)
        seen = torch.zeros(len(tasks), device=context.fabric.device)
        for part, rows in enumerate(torch.arange(len(batch.x), device=batch.x.device).chunk(parts)):
            active = [index for index in range(len(tasks)) if part < int(counts[index])]
            if not active:
                continue
            piece = batch.take(rows)
            losses = self._losses(piece, active, norms=estimate_now and part == 0)
            terms = [weighted_loss(tasks[index], losses[index]) for index in active]
            total = functools.reduce(torch.add, terms)
            context.fabric.backward(total if parts == 1 else total / parts)
            for index in active:
                if bool(has_labels(tasks[index], piece.targets[tasks[index].name], piece.sample_weight)):
                    sums[index] += losses[index].detach()
                    seen[index] += 1
        values = sums / seen.clamp_min(1)
        present = (seen > 0).to(sums)
        self._learn(values.double().cpu(), present.cpu() > 0)
        self._steps += 1
        return Balanced(values, present, present * counts.to(sums) / parts * context.weights)

    def state(self) -> BalancerState:
        """See :class:`~nagedge.training.balancing.balancer.Balancer`."""
        tensors = {"estimate": self._estimate, "first": self._first, "credit": self._credit}
        return BalancerState(
            {name: value.clone() for name, value in tensors.items()}, {"steps": str(self._steps)}
        )

    def _losses(self, piece: Batch, active: list[int], *, norms: bool) -> dict[int, Tensor]:
        """Return the losses of the active tasks; passes through the other heads are saved where they are known."""
        context = self._context
        model = context.divided()
        if model is None:
            outputs = dict(context.model(piece.x))
            features = None
        else:
            features = model.trunk(piece.x)
            outputs = {context.tasks[i].name: model.heads[context.tasks[i].name](features) for i in active}
        losses = {
            index: task_loss(task, outputs[task.name], piece.targets[task.name], piece.sample_weight)
            for index, task in ((index, context.tasks[index]) for index in active)
        }
        if norms and features is not None and features.requires_grad:
            for index, loss in losses.items():
                norm = torch.autograd.grad(loss, features, retain_graph=True)[0].norm().double().cpu()
                self._move(index, norm * context.tasks[index].weight)
        return losses

    def _learn(self, losses: Tensor, seen: Tensor) -> None:
        if self._importance != "loss_rate" or not bool(losses.isfinite().all()):
            return
        self._first = torch.where(seen & self._first.isnan(), losses.clamp_min(1e-12), self._first)
        if self._steps % self._every == 0:
            for index in torch.nonzero(seen).flatten().tolist():
                self._move(index, (losses[index] / self._first[index]).clamp_min(1e-12))

    def _move(self, index: int, value: Tensor) -> None:
        if not bool(value.isfinite()):
            return
        old = self._estimate[index]
        first = self._steps == 0
        moved = value if first else self._smoothing * old + (1 - self._smoothing) * value
        self._estimate = self._estimate.index_fill(0, torch.tensor([index]), float(moved))

    def _check(self) -> None:
        if self._importance not in IMPORTANCES:
            raise ConfigurationError(
                f"balancing option 'importance' is {self._importance!r}, expected one of {', '.join(IMPORTANCES)}."
            )
        ranges = {
            "micro_batches": (self._micro_batches, self._micro_batches >= 1, ">= 1"),
            "every": (self._every, self._every >= 1, ">= 1"),
            "smoothing": (self._smoothing, 0 <= self._smoothing < 1, "in [0, 1)"),
            "floor": (self._floor, 0 < self._floor <= 1, "in (0, 1]"),
        }
        for name, (value, fits, expected) in ranges.items():
            if not fits:
                raise ConfigurationError(
                    f"balancing option {name!r} is {value:g}, expected a number {expected}."
                )
        if self._context.fabric.world_size > 1:
            raise ConfigurationError(
                "balancing method 'accumulation' decides in one process which task sits out, but there are"
                f" {self._context.fabric.world_size}. Train in one process, or choose a method that works on losses."
            )
        if self._importance == "gradient_norm" and self._context.divided() is None:
            raise ConfigurationError(
                "balancing importance 'gradient_norm' needs a model that returns features. Set it to 'loss_rate'."
            )
