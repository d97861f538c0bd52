"""The learning rate of each step: linear warm-up, then a cosine to zero. And the momentum."""

from __future__ import annotations

import math

__all__ = ["learning_rate", "momentum_at"]


def learning_rate(
    step: int, *, lr: float, steps: int, warmup_steps: int = 0, constant: bool = False
) -> float:
    """Return the learning rate of one step; a pure function, so a resumed run needs no scheduler state.

        lr * (step + 1) / (warmup_steps + 1)                                     for step < warmup_steps
        lr * (1 + cos(pi * (step - warmup_steps) / (steps - warmup_steps))) / 2  after

    The cosine is that of Loshchilov and Hutter (2017) without restarts: lr at the end of the warm-up, and it
    would reach 0 one step after the last.

    Args:
        step: 0 .. steps - 1.
        lr: the largest learning rate.
        steps: steps of the whole run, >= 1.
        warmup_steps: steps of the warm-up, < steps.
        constant: no cosine: lr after the warm-up.
    """
    if step < warmup_steps:
        return lr * (step + 1) / (warmup_steps + 1)
    if constant:
        return lr
    progress = (step - warmup_steps) / (steps - warmup_steps)
    return lr * (1 + math.cos(math.pi * progress)) / 2


def momentum_at(step: int, *, momentum: float, schedule: str = "constant") -> float:
    """Return the momentum of one step.

        constant    momentum
        nesterov    min(k / (k + 3), momentum),  k = step + 1                         (Nesterov 1983; Su et al. 2016)
        sutskever   min(1 - 2 ** (-1 - log2(floor(step / 250) + 1)), momentum)        (Sutskever et al. 2013)

    Args:
        step: steps since the start or the last restart, from 0.
        momentum: the largest, in (0, 1).
        schedule: its name.
    """
    if schedule == "constant":
        return momentum
    if schedule == "nesterov":
        return min((step + 1) / (step + 4), momentum)
    return min(1 - 0.5 / (step // 250 + 1), momentum)
