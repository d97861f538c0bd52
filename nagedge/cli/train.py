"""``nagedge train``: from a run file to a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nagedge.training.events import EpochFinished, Event

__all__ = ["command", "print_epochs", "training_bar"]


class Precision(StrEnum):
    """What the forward pass computes with."""

    float32 = "32"
    bf16 = "bf16"


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run file.")],
    out: Annotated[
        Path | None, typer.Option(help="Folder of the checkpoint, instead of the run file's.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the checkpoint in the folder.")
    ] = False,
    devices: Annotated[int, typer.Option(min=1, help="Processes or accelerators to train on.")] = 1,
    strategy: Annotated[str, typer.Option(help="How they share the work: auto, ddp.")] = "auto",
    precision: Annotated[
        Precision, typer.Option(help="Of the forward pass: 32 or bf16; all else stays float32.")
    ] = Precision.float32,
    compiled: Annotated[bool, typer.Option("--compile", help="Train through torch.compile.")] = False,
    tensorboard: Annotated[
        Path | None, typer.Option(help="Folder of a TensorBoard log of losses, metrics and weights.")
    ] = None,
    mlflow: Annotated[
        Path | None, typer.Option(help="Folder of an MLflow log of the same; no server, no telemetry.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="HTML file with curves, task weights, cosines and confusion matrices.")
    ] = None,
    find_lr: Annotated[
        bool, typer.Option("--find-lr", help="Only look for a learning rate; nothing is written.")
    ] = False,
) -> None:
    """Train a multi-task model as a run file describes it."""
    from nagedge.cli.output import print_metrics, print_paths

    if find_lr:
        _print_sweep(run)
        return
    logs: list[Callable[[Event], None]] = []
    if tensorboard is not None:
        from nagedge.training.tensorboard import tensorboard_log

        logs.append(tensorboard_log(tensorboard))
    if mlflow is not None:
        from nagedge.training.mlflow_log import mlflow_log

        logs.append(mlflow_log(mlflow))
    from nagedge.training.fit import train

    with training_bar() as bar:

        def progress(event: Event) -> None:
            bar(event)
            for log in logs:
                log(event)

        checkpoint = train(
            run, out=out, resume=resume, devices=devices, strategy=strategy, progress=progress,
            precision="bf16" if precision is Precision.bf16 else "32", compiled=compiled,
        )  # fmt: skip
    print_epochs(checkpoint.state.history)
    print_metrics("Test examples", checkpoint.state.test)
    paths = {"checkpoint": checkpoint.path}
    if report is not None:
        from nagedge.training_report import write_training_report

        paths["report"] = write_training_report(checkpoint, report)
    print_paths(paths)
    typer.echo(f"next: nagedge export {checkpoint.path} --target any-any-onnxruntime-fp32-train --out BUNDLE")


def _print_sweep(run: Path) -> None:
    """Look for a learning rate and print a tenth of the steps that did it."""
    from nagedge.cli.output import print_table
    from nagedge.training.lr_finder import find_lr

    sweep = find_lr(run)
    shown = range(0, len(sweep.rates), max(1, len(sweep.rates) // 12))
    print_table(
        "Learning rates", ["lr", "smoothed loss"], [[f"{sweep.rates[i]:.2g}", sweep.losses[i]] for i in shown]
    )
    typer.echo(f"suggestion: optimizer.lr = {sweep.suggestion:.2g}")


@contextmanager
def training_bar() -> Iterator[Callable[[Event], None]]:
    """Yield a callback for :func:`nagedge.train` that draws the steps as a bar."""
    from nagedge.cli.output import progress_bar
    from nagedge.training.events import StepsDone, StepSkipped

    with progress_bar() as bar:

        def report(event: Event) -> None:
            if isinstance(event, StepsDone):
                bar("training", event.step, event.steps)
            elif isinstance(event, StepSkipped):
                typer.echo(
                    f"step {event.step} skipped: its loss or gradient is not finite; the learning rate is now"
                    f" {event.lr_factor:g} of the schedule's",
                    err=True,
                )

        yield report


def print_epochs(epochs: Sequence[EpochFinished]) -> None:
    """Print one row an epoch: learning rate, losses and the first validation metric of each task."""
    from nagedge.cli.output import print_table

    if not epochs:
        return
    metrics = [(task, next(iter(values))) for task, values in epochs[-1].validation.items() if values]
    columns = [
        "epoch",
        "lr",
        "train loss",
        "val loss",
        *(f"{task} {name}" for task, name in metrics),
        "seconds",
    ]
    rows = [
        [
            epoch.epoch,
            epoch.lr,
            epoch.losses["loss"],
            epoch.validation_losses.get("loss"),
            *(epoch.validation.get(task, {}).get(name) for task, name in metrics),
            round(epoch.seconds, 1),
        ]
        for epoch in epochs
    ]
    print_table("Training", columns, rows)
