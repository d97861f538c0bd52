"""Losses, metrics and weights as MLflow keeps them, in a folder on this machine."""

from __future__ import annotations

import os
from pathlib import Path

from nagedge.errors import ConfigurationError
from nagedge.training.events import EpochFinished, Event, Progress, StepsDone, StepSkipped, TrainingFinished

__all__ = ["mlflow_log"]


def mlflow_log(folder: str | Path) -> Progress:
    """Return a callback for :func:`nagedge.train` that writes every event to a run of the experiment ``nagedge``.

    Names: ``loss/<task>``, ``validation_loss/<task>``, ``<metric>/<task>``, ``weight/<task>``, ``cosine/<pair>``,
    ``lr``, ``skipped``, ``test_<metric>/<task>``; steps are those of training. MLflow's telemetry is switched off.

    Raises:
        ConfigurationError: MLflow is not installed, or the folder cannot be written.
    """
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # read when it is imported
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # newer ones ask for a database without it
    try:
        from mlflow.tracking import MlflowClient
    except ImportError:
        raise ConfigurationError(
            "the MLflow log needs mlflow, which is not installed: pip install 'nagedge[mlflow]'."
        ) from None
    try:
        client = MlflowClient(tracking_uri=Path(folder).resolve().as_uri())
        experiment = client.get_experiment_by_name("nagedge")
        place = client.create_experiment("nagedge") if experiment is None else experiment.experiment_id
        run_id: str = client.create_run(place).info.run_id
    except Exception as error:  # MLflow's own, and OSError of every kind
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(
            f"the MLflow log cannot be written to {str(folder)!r}: {reason} Give another folder."
        ) from error
    last_step = 0

    def keep(group: str, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            client.log_metric(run_id, f"{group}/{name.replace(', ', '-')}", value, step=step)

    def write(event: Event) -> None:
        nonlocal last_step
        if isinstance(event, StepsDone):
            last_step = event.step
            keep("loss", event.losses, event.step)
        elif isinstance(event, StepSkipped):
            client.log_metric(run_id, "skipped", event.lr_factor, step=event.step)
        elif isinstance(event, EpochFinished):
            client.log_metric(run_id, "lr", event.lr, step=event.step)
            keep("validation_loss", event.validation_losses, event.step)
            keep("weight", event.weights, event.step)
            keep("cosine", event.cosines, event.step)
            for task, values in event.validation.items():
                for metric, value in values.items():
                    client.log_metric(run_id, f"{metric}/{task}", value, step=event.step)
        elif isinstance(event, TrainingFinished):
            for task, values in event.test.items():
                for metric, value in values.items():
                    client.log_metric(run_id, f"test_{metric}/{task}", value, step=last_step)
            client.set_terminated(run_id)

    return write
