"""What an exported training step does beside gradients and update: plain data, standard library only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from nagedge.errors import ConfigurationError, nearest_name

__all__ = [
    "BALANCING",
    "BALANCING_PREFIX",
    "PLAIN",
    "RESTARTS",
    "RESTART_PREFIX",
    "StepRules",
    "entries_under",
]

_Value = TypeVar("_Value")

BALANCING: Mapping[str, Mapping[str, float]] = {
    "static": {},
    "uncertainty": {"lr": 0.025},
    "imtl_l": {"lr": 0.025},
    "dwa": {"temperature": 2.0, "window": 10},
    "famo": {"lr": 0.025, "weight_decay": 1e-3},
    "pcgrad": {},
}
"""The balancing methods that a step can compute itself, with the defaults of their options."""

RESTARTS = ("none", "gradient", "loss")
"""When a step starts its momentum again from zero."""

BALANCING_PREFIX, RESTART_PREFIX = "balancing.", "restart."

_HIGHEST = 3.0e38  # no loss is above it: the first step never restarts
_PER_TASK: Mapping[str, Mapping[str, float]] = {
    "static": {},
    "uncertainty": {"last": 1.0, "log_variance": 0.0},
    "imtl_l": {"last": 1.0, "log_scale": 0.0},
    "dwa": {"last": 1.0, "sum": 0.0, "older": 0.0, "newer": 0.0},
    "famo": {"last": 1.0, "logits": 0.0, "first_moment": 0.0, "second_moment": 0.0},
    "pcgrad": {},
}
_COUNTS: Mapping[str, tuple[str, ...]] = {"dwa": ("count",), "famo": ("count",)}


@dataclass(frozen=True)
class StepRules:
    """How a step makes one gradient of several losses, and when it restarts.

    Args:
        balancing: one of :data:`BALANCING`. ``"static"`` is the sum of the losses with their tasks' weights.
        options: the method's numbers; what is not named has its default.
        restart: one of :data:`RESTARTS`: ``"gradient"`` when the step would go uphill, ``"loss"`` when the loss is
            above that of the step before (O'Donoghue & Candes 2015, section 3.2).

    Raises:
        ConfigurationError: an unknown name, or an option out of range.
    """

    balancing: str = "static"
    options: Mapping[str, float] = field(default_factory=dict)
    restart: str = "none"

    def __post_init__(self) -> None:
        for what, got, known in (
            ("balancing", self.balancing, tuple(BALANCING)),
            ("restart", self.restart, RESTARTS),
        ):
            if got not in known:
                raise ConfigurationError(
                    f"{what} of an exported step is {got!r}, expected one of {', '.join(known)}."
                    + nearest_name(got, known)
                )
        defaults = BALANCING[self.balancing]
        for name, value in self.options.items():
            if name not in defaults:
                raise ConfigurationError(
                    f"balancing {self.balancing!r} of an exported step has no option {name!r}; it has: "
                    f"{', '.join(defaults) or 'none'}."
                )
            least = 1.0 if name == "window" else 0.0
            if not least <= value < _HIGHEST or (name == "temperature" and value == 0):
                raise ConfigurationError(
                    f"option {name!r} of balancing {self.balancing!r} is {value}, expected a finite number "
                    f"{'> 0' if name == 'temperature' else f'>= {least:g}'}."
                )

    def option(self, name: str) -> float:
        """Return a number of the balancing method, given or by default."""
        return float(self.options.get(name, BALANCING[self.balancing][name]))

    def balancing_state(self, tasks: int) -> dict[str, list[float]]:
        """Return what the balancing method remembers from step to step, as it is at first: float32 vectors by name.

        ``last`` are the last losses seen, which stand for those of tasks without labels in a batch.
        """
        per_task = {name: [first] * tasks for name, first in _PER_TASK[self.balancing].items()}
        return per_task | {name: [0.0] for name in _COUNTS.get(self.balancing, ())}

    def restart_state(self) -> dict[str, list[float]]:
        """Return what restarting remembers: their count, and for ``"loss"`` the last loss."""
        if self.restart == "none":
            return {}
        return {"count": [0.0]} | ({"last_loss": [_HIGHEST]} if self.restart == "loss" else {})

    def state(self, tasks: Sequence[object]) -> dict[str, list[float]]:
        """Return the whole state under the names of the step's buffers, such as ``balancing.last``."""
        return {
            **{
                f"{BALANCING_PREFIX}{name}": value for name, value in self.balancing_state(len(tasks)).items()
            },
            **{f"{RESTART_PREFIX}{name}": value for name, value in self.restart_state().items()},
        }


def entries_under(prefix: str, entries: Mapping[str, _Value]) -> dict[str, _Value]:
    """Return the entries whose name begins with ``prefix``, without it."""
    return {name.removeprefix(prefix): value for name, value in entries.items() if name.startswith(prefix)}


PLAIN = StepRules()
"""A plain sum of the losses and no restart."""
