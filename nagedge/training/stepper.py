"""One step of the optimizer: momentum schedules, restarts, decoupled weight decay, the guard against NaN."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nagedge.training.nesterov import is_decayed
from nagedge.training.optimizer_config import OptimizerConfig
from nagedge.training.schedule import momentum_at

__all__ = ["LARGEST_RUN_OF_SKIPS", "Stepper", "turns_back"]

LARGEST_RUN_OF_SKIPS = 10
"""So many steps without a finite gradient, one after the other, end a run."""
_RECOVERY_STEPS = 100


def turns_back(grads: Sequence[Tensor], buffers: Sequence[Tensor], momentum: float) -> bool:
    """Return O'Donoghue & Candes' gradient test (2015, section 3.2): would the next step go uphill?

    They restart when ``g . (x_k - x_{k-1}) > 0``; in torch's form ``x_k - x_{k-1} = -lr b'`` with ``b' = mu b + g``.

    Args:
        grads, buffers: of one length and of the same shapes.
        momentum: of the step that comes.
    """
    dots = [(g * (momentum * b + g)).sum() for g, b in zip(grads, buffers, strict=True)]
    return bool(dots) and float(torch.stack(dots).sum()) < 0


class Stepper:
    """Takes steps of ``torch.optim.SGD(nesterov=True)`` as the ``[optimizer]`` table says.

    Args:
        config: the table.
        optimizer: torch's. fabric_optimizer: the same, as Fabric wraps it.
        params: the trainable parameters by name.
        buffers: the model's buffers (BatchNorm's statistics), which a skipped step leaves as they were.
        state: what :meth:`state` returned.
    """

    def __init__(
        self,
        config: OptimizerConfig,
        optimizer: torch.optim.Optimizer,
        fabric_optimizer: Any,
        params: Mapping[str, nn.Parameter],
        buffers: Mapping[str, Tensor],
        state: Mapping[str, float],
    ) -> None:
        self._config, self._optimizer, self._fabric_optimizer = config, optimizer, fabric_optimizer
        self._params, self._buffers = params, buffers
        self._since_restart = int(state.get("since_restart", 0))
        self._last_loss = state.get("last_loss", math.inf)
        self._factor = state.get("lr_factor", 1.0)
        self._good = int(state.get("good_steps", 0))
        self.restarts, self.skipped = int(state.get("restarts", 0)), int(state.get("skipped", 0))
        self.skipped_in_a_row = int(state.get("skipped_in_a_row", 0))
        self._kept: dict[str, Tensor] = {}

    @property
    def guards(self) -> bool:
        """Whether steps without a finite gradient are skipped."""
        return self._config.on_nan == "skip"

    def prepare(self, rate: float) -> None:
        """Set the learning rate and the momentum of the step that comes; keep what a skipped step must not change."""
        momentum = momentum_at(
            self._since_restart, momentum=self._config.momentum, schedule=self._config.momentum_schedule
        )
        for group in self._optimizer.param_groups:
            group["lr"], group["momentum"] = rate * self._factor, momentum
        if self.guards:
            self._kept = {name: buffer.clone() for name, buffer in self._buffers.items()}

    def take(self, loss: Tensor, norm: Tensor) -> bool:
        """Take the step with the gradients in the parameters, or skip it; return whether it was taken.

        Args:
            loss: the total of the step. norm: of its gradient.
        """
        if self.guards and not bool(torch.isfinite(norm) & torch.isfinite(loss)):
            for name, buffer in self._buffers.items():
                buffer.copy_(self._kept[name])
            self._factor *= 0.5
            self._good = 0
            self.skipped += 1
            self.skipped_in_a_row += 1
            return False
        self._recover()
        if self._restarts_now(loss):
            self._restart()
        if self._config.decoupled and self._config.weight_decay:
            self._decay()
        self._fabric_optimizer.step()
        self._since_restart += 1
        return True

    def state(self) -> dict[str, float]:
        """Return plain numbers from which a new one goes on."""
        numbers = {
            "since_restart": float(self._since_restart),
            "restarts": float(self.restarts),
            "lr_factor": self._factor,
            "good_steps": float(self._good),
            "skipped": float(self.skipped),
            "skipped_in_a_row": float(self.skipped_in_a_row),
        }
        return numbers | ({"last_loss": self._last_loss} if math.isfinite(self._last_loss) else {})

    def _recover(self) -> None:
        """After steps without trouble go back to the scheduled learning rate, a factor of two at a time."""
        self.skipped_in_a_row = 0
        if self._factor < 1:
            self._good += 1
            if self._good >= _RECOVERY_STEPS:
                self._factor, self._good = min(1.0, 2 * self._factor), 0

    def _restarts_now(self, loss: Tensor) -> bool:
        kind = self._config.restart
        if kind == "gradient":
            pairs = [
                (param.grad, self._optimizer.state[param]["momentum_buffer"])
                for param in self._params.values()
                if param.grad is not None and "momentum_buffer" in self._optimizer.state[param]
            ]
            momentum = float(self._optimizer.param_groups[0]["momentum"])
            return turns_back([grad for grad, _ in pairs], [buffer for _, buffer in pairs], momentum)
        if kind == "loss":
            value, self._last_loss = self._last_loss, float(loss)
            return self._last_loss > value
        return kind == "scheduled" and self._since_restart >= self._config.restart_every

    def _restart(self) -> None:
        for state in self._optimizer.state.values():
            if "momentum_buffer" in state:
                state["momentum_buffer"].zero_()
        self._since_restart = 0
        self.restarts += 1
        momentum = momentum_at(0, momentum=self._config.momentum, schedule=self._config.momentum_schedule)
        for group in self._optimizer.param_groups:
            group["momentum"] = momentum

    def _decay(self) -> None:
        rate = float(self._optimizer.param_groups[0]["lr"])
        with torch.no_grad():
            for name, param in self._params.items():
                if is_decayed(name, param):
                    param.mul_(1 - rate * self._config.weight_decay)
