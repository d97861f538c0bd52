"""The learning-rate range test (Smith 2017): the loss of every step while the learning rate grows."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError, TrainingDivergedError
from nagedge.training.batches import epoch_order
from nagedge.training.fit import make_fabric
from nagedge.training.run import Run, load_run
from nagedge.training.step import set_up, training_step

__all__ = ["LrSweep", "find_lr"]


@dataclass(frozen=True)
class LrSweep:
    """What a sweep found.

    Attributes:
        rates: learning rate of each step. losses: smoothed total loss after it, of one length.
        suggestion: a tenth of the learning rate at which the smoothed loss was lowest.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def find_lr(
    run: Run | str | Path,
    *,
    lowest: float = 1e-5,
    highest: float = 10.0,
    steps: int = 100,
    data: DataSplits | None = None,
) -> LrSweep:
    """Train a new model for some steps with a learning rate that grows geometrically; nothing is written.

    The sweep ends early where the smoothed loss exceeds four times the lowest. The momentum is that of the run.

    Args:
        run: the run, or the path of its file. lowest, highest: ends of the sweep. steps: of it, >= 10.
        data: the examples, instead of those of the run.

    Raises:
        ConfigurationError: the range is empty, or there are too few steps.
        TrainingDivergedError: not even the lowest rate gives a finite loss.
    """
    if not (0 < lowest < highest and steps >= 10):
        raise ConfigurationError(
            f"a sweep from {lowest:g} to {highest:g} in {steps} steps cannot be done, expected 0 < lowest < highest"
            " and at least 10 steps."
        )
    run = run if isinstance(run, Run) else load_run(run)
    tasks = run.task_specs()
    if data is None:
        from nagedge.data.load import load_data

        data = load_data(run.data, tasks)
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        setup = set_up(make_fabric(1, "cpu", "auto"), run, Path(folder), tasks, data, None)
        setup.model.train()
        for step in range(steps):
            rate = lowest * (highest / lowest) ** (step / (steps - 1))
            epoch, place = divmod(step, setup.steps_per_epoch)
            order = epoch_order(len(setup.train), seed=run.seed, epoch=epoch)
            rows = order[place * setup.batch_size : (place + 1) * setup.batch_size]
            loss = float(training_step(setup, step, rows, rate=rate)[0])
            mean = 0.9 * mean + 0.1 * loss
            smoothed = mean / (1 - 0.9 ** (step + 1))
            if not math.isfinite(loss) or (losses and smoothed > 4 * min(losses)):
                break
            rates.append(rate)
            losses.append(smoothed)
    if len(losses) < 2:
        raise TrainingDivergedError(
            f"the loss is not finite at a learning rate of {lowest:g} already. Check the data, or give a lower one."
        )
    return LrSweep(tuple(rates), tuple(losses), rates[int(np.argmin(losses))] / 10)
