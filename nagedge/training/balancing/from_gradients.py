"""Balancers that combine the gradients of the tasks, on the shared features or on the shared parameters."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.models import MultiTaskModel
from nagedge.training.balancing.balancer import Balanced, Context, all_losses, present_tasks
from nagedge.training.balancing.config import BalancingConfig
from nagedge.training.balancing.directions import make_direction
from nagedge.training.balancing.state import BalancerState
from nagedge.training.batches import Batch

__all__ = ["GradientBalancer"]


class GradientBalancer:
    """Task gradients, one direction of them, and that into ``.grad`` of what the tasks share.

    What a task does not share (its head) gets the gradient of its own weighted loss, as in TorchJD. With the scope
    ``features`` the gradients are those with respect to the trunk's output: the heads are passed back once a task, the
    trunk once in all. With ``trunk`` they are those with respect to the shared parameters: one whole backward pass a
    task, one after the other, which on a CPU is faster than all at once.

    Args:
        config: method, scope, options.
        context: see there.
        state: of the balancer whose work this one goes on with.

    Raises:
        ConfigurationError: several processes, a model whose features are not known, or as
            :func:`~nagedge.training.balancing.directions.make_direction`.
    """

    def __init__(self, config: BalancingConfig, context: Context, state: BalancerState) -> None:
        if context.fabric.world_size > 1:
            raise ConfigurationError(
                f"balancing method {config.method!r} compares gradients, which {context.fabric.world_size} processes"
                " do not share. Train in one process, or take a method that works on losses, such as 'uncertainty'."
            )
        self._features = config.chosen_scope == "features"
        if self._features and context.divided() is None:
            raise ConfigurationError(
                f"balancing scope 'features' needs a model that returns features, but {type(context.module).__name__}"
                " returns the tasks' outputs. Set balancing.scope to 'trunk', or return features and leave the heads to"
                " the run."
            )
        if config.method == "db_mtl" and self._features and config.option("beta"):
            raise ConfigurationError(
                "balancing option 'beta' of 'db_mtl' averages gradients over steps, which those of the features of"
                " different batches do not allow. Set balancing.scope to 'trunk', or leave beta at 0."
            )
        self._context, self._logarithmic = context, config.method == "db_mtl"
        self._direction = make_direction(config, context.tasks, state)
        self._shared: list[bool] | None = None

    def backward(self, batch: Batch, *, last_of_epoch: bool) -> Balanced:
        """See :class:`~nagedge.training.balancing.balancer.Balancer`."""
        del last_of_epoch
        context = self._context
        model = context.divided()
        own_weights = context.weights
        if self._features:
            assert model is not None
            features: Tensor = model.trunk(batch.x)
            leaf = features.detach().requires_grad_()
            outputs = {name: head(leaf) for name, head in model.heads.items()}
            columns: list[Tensor] = [leaf, *model.heads.parameters()]
        else:
            outputs = dict(context.model(batch.x))
            columns = list(context.params.values())
        losses = all_losses(context, outputs, batch)
        shared = self._shared_columns(columns, losses, model)
        present = present_tasks(context, batch)
        rows: list[Tensor] = []
        for place, task in enumerate(present):
            weighted = losses[task] * own_weights[task]
            last = place + 1 == len(present)
            gradients = torch.autograd.grad(weighted, columns, retain_graph=not last, allow_unused=True)
            rows.append(_flat(columns, gradients, shared))
            scale = 1 / weighted.detach().clamp_min(1e-8) if self._logarithmic else 1.0
            _add_own(columns, gradients, shared, scale)
        seen = torch.stack([loss.detach() for loss in losses])
        flags, weights = torch.zeros_like(seen), torch.zeros_like(seen)
        if rows:
            # the gradient of a mean is divided by the batch; methods with thresholds expect that of an example
            size = float(len(batch.x)) if self._features else 1.0
            combined, factors = self._combine(
                torch.stack(rows) * size, (seen * own_weights)[present], present
            )
            combined = combined / size
            _add_shared(columns, combined, shared)
            flags[present] = 1.0
            weights[present] = factors * own_weights[present]
            if self._features and features.requires_grad:
                assert leaf.grad is not None
                features.backward(leaf.grad)  # type: ignore[no-untyped-call]
        return Balanced(seen * flags, flags, weights)

    def state(self) -> BalancerState:
        """See :class:`~nagedge.training.balancing.balancer.Balancer`."""
        return self._direction.state()

    def _combine(self, rows: Tensor, losses: Tensor, present: Sequence[int]) -> tuple[Tensor, Tensor]:
        if len(rows) == 1 and not self._logarithmic:
            return rows[0], torch.ones(1, device=rows.device)
        if not bool(
            rows.isfinite().all() & losses.isfinite().all()
        ):  # what becomes of the step is decided elsewhere
            return rows.sum(0), torch.ones(len(rows), device=rows.device)
        return self._direction.combine(rows, losses, present)

    def _shared_columns(
        self, columns: Sequence[Tensor], losses: Sequence[Tensor], model: MultiTaskModel | None
    ) -> list[bool]:
        """Say which columns belong to all tasks: features, the trunk, or what at least two losses reach."""
        if self._shared is None:
            if self._features:
                self._shared = [place == 0 for place in range(len(columns))]
            elif model is not None:
                heads = {id(param) for param in model.heads.parameters()}
                self._shared = [id(column) not in heads for column in columns]
            else:
                reached = [
                    torch.autograd.grad(loss, list(columns), retain_graph=True, allow_unused=True)
                    for loss in losses
                ]
                self._shared = [
                    sum(g is not None for g in by_task) > 1 for by_task in zip(*reached, strict=True)
                ]
        return self._shared


def _flat(columns: Sequence[Tensor], gradients: Sequence[Tensor | None], shared: Sequence[bool]) -> Tensor:
    """Return the gradient of what is shared as one vector; zeros where the task does not reach."""
    return torch.cat([
        (torch.zeros_like(column) if gradient is None else gradient).reshape(-1)
        for column, gradient, belongs in zip(columns, gradients, shared, strict=True)
        if belongs
    ])  # fmt: skip


def _add_own(
    columns: Sequence[Tensor],
    gradients: Sequence[Tensor | None],
    shared: Sequence[bool],
    scale: Tensor | float,
) -> None:
    for column, gradient, belongs in zip(columns, gradients, shared, strict=True):
        if not belongs and gradient is not None:
            _add(column, gradient * scale)


def _add_shared(columns: Sequence[Tensor], combined: Tensor, shared: Sequence[bool]) -> None:
    chosen = [column for column, belongs in zip(columns, shared, strict=True) if belongs]
    parts = torch.split(combined, [column.numel() for column in chosen])
    for column, part in zip(chosen, parts, strict=True):
        _add(column, part.view_as(column))


def _add(column: Tensor | nn.Parameter, gradient: Tensor) -> None:
    column.grad = gradient if column.grad is None else column.grad + gradient
