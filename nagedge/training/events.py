"""What training reports while it runs: plain data, for a progress display or a log."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = [
    "CheckpointWritten",
    "EpochFinished",
    "Event",
    "Progress",
    "StepSkipped",
    "StepsDone",
    "TrainingFinished",
    "TrainingStarted",
]


@dataclass(frozen=True)
class TrainingStarted:
    """The model is built and the data is loaded.

    Args:
        step: the first step, > 0 for a resumed run.
        steps: steps of the whole run.
        epochs: epochs of the whole run.
        parameter_count: trainable numbers in the model.
        train_size, validation_size, test_size: examples.
        device: where it runs, in torch's words.
    """

    step: int
    steps: int
    epochs: int
    parameter_count: int
    train_size: int
    validation_size: int
    test_size: int
    device: str


@dataclass(frozen=True)
class StepsDone:
    """Some more steps are done: ``step`` of ``steps``, in ``epoch`` (from 1); losses are those of the last step."""

    step: int
    steps: int
    epoch: int
    losses: dict[str, float]


@dataclass(frozen=True)
class StepSkipped:
    """A step whose loss or gradient was not finite changed nothing; ``lr_factor`` now scales the learning rate."""

    step: int
    lr_factor: float


@dataclass(frozen=True)
class EpochFinished:
    """One pass over the training examples.

    Args:
        epoch: from 1.
        step: steps done so far.
        lr: learning rate of the epoch's last step.
        losses: mean training loss of each task and of their weighted sum, under ``"loss"``.
        validation_losses: the same on the validation examples; empty without any.
        validation: task name -> metric name -> value, in the tasks' units; empty without validation examples.
        cosines: ``"first, second"`` -> cosine between the gradients of two tasks on the trunk's features, on up to 256
            training examples after the epoch.
        weights: mean weight that each task's loss had in effect, over the steps with labels for it.
        seconds: wall time of the epoch's steps, without validation; of this process when resumed within it.
    """

    epoch: int
    step: int
    lr: float
    losses: dict[str, float]
    validation_losses: dict[str, float]
    validation: dict[str, dict[str, float]]
    seconds: float
    weights: dict[str, float] = field(default_factory=dict)
    cosines: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class CheckpointWritten:
    """The checkpoint at ``path`` now holds the state after ``step`` steps."""

    path: Path
    step: int


@dataclass(frozen=True)
class TrainingFinished:
    """All steps are done; ``test`` holds task name -> metric name -> value on the test examples."""

    path: Path
    test: dict[str, dict[str, float]]


Event = TrainingStarted | StepsDone | StepSkipped | EpochFinished | CheckpointWritten | TrainingFinished
Progress = Callable[[Event], None]
