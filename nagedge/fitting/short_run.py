"""A short training run of a candidate: as many steps for each, on the same examples."""

from __future__ import annotations

import dataclasses
import math
import shutil
import tempfile
from pathlib import Path

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError, TrainingDivergedError
from nagedge.training.events import EpochFinished, Event
from nagedge.training.fit import train
from nagedge.training.run import Run, ScheduleConfig

__all__ = ["Score", "short_score", "shortened"]


@dataclasses.dataclass(frozen=True)
class Score:
    """What a short run gave.

    Attributes:
        loss: on the validation rows, each task counted once whatever its weight; ``None`` where the run diverged.
        metrics: task name -> its first metric on the validation rows.
        steps: of the run.
    """

    loss: float | None
    metrics: dict[str, float]
    steps: int


def shortened(run: Run, data: DataSplits, steps: int) -> tuple[Run, DataSplits, int]:
    """Return the run and its data such that it takes about ``steps`` steps, and how many it takes: at least as many.

    Warm-up keeps its part of the schedule, which ends at zero as that of the whole run does.

    Raises:
        ConfigurationError: steps is below 1.
    """
    if steps < 1:
        raise ConfigurationError(f"steps is {steps}, expected at least 1.")
    batch = min(run.batch_size, len(data.train))
    epochs = math.ceil(steps / max(1, len(data.train) // batch))
    per_epoch = math.ceil(steps / epochs)
    rows = min(len(data.train), per_epoch * batch)
    warmup = run.schedule.warmup / run.schedule.epochs * epochs
    schedule = ScheduleConfig(epochs=epochs, warmup=warmup)
    short = run.model_copy(update={"schedule": schedule, "checkpoint_steps": 0})
    return short, dataclasses.replace(data, train=data.train.take(range(rows))), epochs * per_epoch


def short_score(run: Run, data: DataSplits, steps: int) -> Score:
    """Train a run for a few steps; nothing of it is kept.

    Raises:
        ConfigurationError: the run is wrong, or there are no validation rows.
    """
    if not len(data.validation):
        raise ConfigurationError(
            "there are no validation rows to compare candidates on. Raise data.split.validation."
        )
    short, part, taken = shortened(run, data, steps)
    last: list[EpochFinished] = []

    def watch(event: Event) -> None:
        if isinstance(event, EpochFinished):
            last[:] = [event]

    folder = tempfile.mkdtemp(prefix="nagedge-fit-")
    try:
        train(short, out=Path(folder) / "checkpoint", data=part, progress=watch)
    except TrainingDivergedError:
        return Score(None, {}, taken)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    record = last[0]
    metrics = {
        f"{task} {name}": value
        for task, values in record.validation.items()
        for name, value in list(values.items())[:1]
    }
    return Score(sum(record.validation_losses[name] for name in run.tasks), metrics, taken)
