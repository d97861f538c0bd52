"""Adaptive restart inside a training step: when momentum starts again from zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from nagedge.step_rules import StepRules

__all__ = ["RestartTest"]


class RestartTest:
    """O'Donoghue & Candes' tests (2015, section 3.2), as :class:`nagedge.training.stepper.Stepper` makes them.

    Args:
        rules: which test.
        momentum: of this step, without dimensions.
        loss: its total loss, without dimensions.
        state: what the test remembers, by the names of :meth:`StepRules.restart_state`.
    """

    def __init__(self, rules: StepRules, momentum: Tensor, loss: Tensor, state: Mapping[str, Tensor]) -> None:
        self._kind, self._momentum, self._loss = rules.restart, momentum, loss.detach()
        self._state = dict(state)

    def __call__(self, gradients: Sequence[Tensor], velocities: Sequence[Tensor]) -> Tensor:
        """Return whether to restart, bool without dimensions.

        Args:
            gradients, velocities: of one length and of the same shapes, before weight decay.
        """
        if self._kind == "loss":
            last = self._state["last_loss"]
            turned = (self._loss.reshape(1) > last).reshape(())
            self._state["last_loss"] = self._loss.reshape(1).to(last.dtype)
        else:  # the next step's g . (x_k - x_{k-1}) > 0, with x_k - x_{k-1} = -lr (momentum b + g)
            products = [
                (gradient * (self._momentum * velocity + gradient)).sum()
                for gradient, velocity in zip(gradients, velocities, strict=True)
            ]
            turned = torch.stack(products).sum() < 0
        self._state["count"] = self._state["count"] + torch.where(turned, 1.0, 0.0)
        return turned

    def state(self) -> dict[str, Tensor]:
        """Return what is remembered for the next step."""
        return self._state
