"""Losses, metrics and weights as TensorBoard reads them."""

from __future__ import annotations

from pathlib import Path

from nagedge.errors import ConfigurationError
from nagedge.training.events import EpochFinished, Event, Progress, StepsDone, StepSkipped, TrainingFinished

__all__ = ["tensorboard_log"]


def tensorboard_log(folder: str | Path) -> Progress:
    """Return a callback for :func:`nagedge.train` that writes every event below ``folder``.

    Tags: ``loss/<task>``, ``validation_loss/<task>``, ``<metric>/<task>``, ``weight/<task>``, ``cosine/<pair>``,
    ``lr``, ``skipped``, ``test_<metric>/<task>``; the x axis counts steps.

    Raises:
        ConfigurationError: TensorBoard is not installed, or the folder cannot be written.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ConfigurationError(
            "the TensorBoard log needs tensorboard, which is not installed: pip install 'nagedge[tensorboard]'."
        ) from None
    try:
        writer = SummaryWriter(str(folder))
    except OSError as error:
        raise ConfigurationError(
            f"the TensorBoard log cannot be written to {str(folder)!r}: {error.strerror}. Give another folder."
        ) from None
    last_step = 0

    def write(event: Event) -> None:
        nonlocal last_step
        if isinstance(event, StepsDone):
            last_step = event.step
            _scalars(writer, "loss", event.losses, event.step)
        elif isinstance(event, StepSkipped):
            writer.add_scalar("skipped", event.lr_factor, event.step)
        elif isinstance(event, EpochFinished):
            writer.add_scalar("lr", event.lr, event.step)
            _scalars(writer, "validation_loss", event.validation_losses, event.step)
            _scalars(writer, "weight", event.weights, event.step)
            _scalars(writer, "cosine", event.cosines, event.step)
            for task, values in event.validation.items():
                for metric, value in values.items():
                    writer.add_scalar(f"{metric}/{task}", value, event.step)
            writer.flush()
        elif isinstance(event, TrainingFinished):
            for task, values in event.test.items():
                for metric, value in values.items():
                    writer.add_scalar(f"test_{metric}/{task}", value, last_step)
            writer.close()

    return write


def _scalars(writer: object, group: str, values: dict[str, float], step: int) -> None:
    from torch.utils.tensorboard import SummaryWriter

    assert isinstance(writer, SummaryWriter)
    for name, value in values.items():
        writer.add_scalar(f"{group}/{name.replace(', ', '-')}", value, step)
