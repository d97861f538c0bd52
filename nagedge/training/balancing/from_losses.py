"""Balancers that make one number of the losses: a plain sum, and TorchJD's scalarisers."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nagedge.tasks import weighted_loss
from nagedge.training.balancing.balancer import Balanced, Context, all_losses, present_flags, present_tasks
from nagedge.training.balancing.config import BalancingConfig
from nagedge.training.balancing.library import make_scalarizer
from nagedge.training.balancing.methods import METHODS
from nagedge.training.balancing.state import BalancerState, module_state, restore_module
from nagedge.training.batches import Batch

if TYPE_CHECKING:
    from torchjd.scalarization import Scalarizer

__all__ = ["LossBalancer", "SumBalancer"]


class SumBalancer:
    """The sum of the losses, each with its task's weight: what an exported step computes."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def backward(self, batch: Batch, *, last_of_epoch: bool) -> Balanced:
        """See :class:`~nagedge.training.balancing.balancer.Balancer`."""
        del last_of_epoch
        context = self._context
        losses = all_losses(context, context.model(batch.x), batch)
        terms = [weighted_loss(task, loss) for task, loss in zip(context.tasks, losses, strict=True)]
        context.fabric.backward(functools.reduce(torch.add, terms))
        values = torch.stack([loss.detach() for loss in losses])
        flags = present_flags(context, present_tasks(context, batch))
        return Balanced(values, flags, context.weights * flags)

    def state(self) -> BalancerState:
        """Return nothing: each step is a new one."""
        return BalancerState()


class LossBalancer:
    """A scalariser of TorchJD, ``S(w_1 L_1, ..., w_n L_n)`` with the tasks' own weights w.

    The backward pass is that of ``sum_t dS/dL_t L_t``, which has the gradient of S. A task without labels in a batch
    is left out of a method without state; to one with state it says what it said last, so that the state of the others
    moves on as if nothing were missing, and what is learnt about it stays as it is.

    Args:
        config: the method and its options.
        context: see there.
        state: of the balancer whose work this one goes on with.
    """

    def __init__(self, config: BalancingConfig, context: Context, state: BalancerState) -> None:
        self._config, self._context = config, context
        self._stateful = METHODS[config.method].stateful
        self._scalarizer = make_scalarizer(config, context.tasks).to(context.fabric.device)
        self._last = torch.ones(len(context.tasks), device=context.fabric.device)
        if state.tensors or state.values:
            self._last = state.tensors["last"].to(context.fabric.device)
            restore_module(self._scalarizer, state.under("module/"))
        self._famo = _Famo(self._scalarizer, state) if config.method == "famo" else None

    def backward(self, batch: Batch, *, last_of_epoch: bool) -> Balanced:
        """See :class:`~nagedge.training.balancing.balancer.Balancer`."""
        context = self._context
        raw = torch.stack(all_losses(context, context.model(batch.x), batch))
        losses = raw * context.weights
        present = present_tasks(context, batch)
        seen = self._on_all_processes(losses.detach())
        flags = present_flags(context, present)
        if not bool(
            seen.isfinite().all()
        ):  # not to be learnt from; what becomes of the step is decided elsewhere
            context.fabric.backward(losses.sum())
            return Balanced(raw.detach(), flags, flags * context.weights)
        if present:
            self._last = torch.where(flags > 0, seen, self._last)
        factors = self._factors(seen, flags, present) if present else torch.zeros_like(seen)
        context.fabric.backward((factors * losses).sum())
        if last_of_epoch:
            self._finish_epoch()
        follow_up = self._famo.follow_up(self, batch, flags) if self._famo and present else None
        return Balanced(raw.detach(), flags, factors * context.weights, follow_up)

    def state(self) -> BalancerState:
        """See :class:`~nagedge.training.balancing.balancer.Balancer`."""
        if not self._stateful:
            return BalancerState()
        own = BalancerState({"last": self._last.clone()}) | module_state(self._scalarizer).prefixed("module/")
        return own | self._famo.state() if self._famo else own

    def losses_now(self, batch: Batch, flags: Tensor) -> Tensor:
        """Return the weighted losses of a batch without leaving a trace in the model; the last known where missing."""
        context = self._context
        with torch.no_grad(), _statistics_kept(context.module):
            values = torch.stack(all_losses(context, context.model(batch.x), batch)) * context.weights
        return torch.where(flags > 0, self._on_all_processes(values), self._last)

    def _finish_epoch(self) -> None:
        from torchjd.scalarization import DWA

        if isinstance(self._scalarizer, DWA):
            self._scalarizer.step()

    def _on_all_processes(self, values: Tensor) -> Tensor:
        if self._context.fabric.world_size == 1:
            return values
        reduced = self._context.fabric.all_reduce(values, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        return reduced

    def _factors(self, seen: Tensor, flags: Tensor, present: list[int]) -> Tensor:
        """Return ``dS/dL`` at the losses, ``[tasks]``; take a step with what the scalariser learns."""
        if not self._stateful:
            tasks = [self._context.tasks[index] for index in present]
            values = seen[present].requires_grad_()
            total = make_scalarizer(self._config, tasks).to(seen.device)(values)
            return torch.zeros_like(seen).index_copy(
                0, torch.tensor(present, device=seen.device), torch.autograd.grad(total, values)[0]
            )
        values = torch.where(flags > 0, seen, self._last).requires_grad_()
        total = self._scalarizer(values)
        learnt = [param for param in self._scalarizer.parameters() if self._famo is None]
        gradients = torch.autograd.grad(total, [values, *learnt])
        with torch.no_grad():
            for param, gradient in zip(learnt, gradients[1:], strict=True):
                param.sub_(self._config.option("lr") * flags * gradient)
        return gradients[0] * flags


class _Famo:
    """FAMO's second half: its logits learn from the losses before and after the optimizer's step."""

    def __init__(self, scalarizer: Scalarizer, state: BalancerState) -> None:
        from torchjd.scalarization import FAMO

        assert isinstance(scalarizer, FAMO)
        self._scalarizer = scalarizer
        if "adam/step" in state.tensors:
            logits = scalarizer._w  # noqa: SLF001 - FAMO has no public way to save its optimizer
            adam = torch.optim.Adam([logits], lr=scalarizer.lr, weight_decay=scalarizer.weight_decay)
            adam.state[logits] = {name: value.clone() for name, value in state.under("adam/").tensors.items()}
            scalarizer._optimizer = adam  # noqa: SLF001

    def follow_up(self, balancer: LossBalancer, batch: Batch, flags: Tensor) -> FollowUp:
        return FollowUp(self._scalarizer, balancer, batch, flags)

    def state(self) -> BalancerState:
        adam = self._scalarizer._optimizer  # noqa: SLF001
        entries = adam.state[self._scalarizer._w] if adam is not None else {}  # noqa: SLF001
        return BalancerState({f"adam/{name}": value.detach().clone() for name, value in entries.items()})


class FollowUp:
    """One call of FAMO's ``update`` after the optimizer's step."""

    def __init__(self, scalarizer: Scalarizer, balancer: LossBalancer, batch: Batch, flags: Tensor) -> None:
        self._scalarizer, self._balancer, self._batch, self._flags = scalarizer, balancer, batch, flags

    def __call__(self) -> None:
        """Tell FAMO the losses of the same batch with the new parameters."""
        from torchjd.scalarization import FAMO

        assert isinstance(self._scalarizer, FAMO)
        self._scalarizer.update(self._balancer.losses_now(self._batch, self._flags))


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Put the buffers of a module (BatchNorm's statistics) back at the end."""
    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in module.named_buffers():
            buffer.copy_(before[name])
