"""``nagedge finetune``: what a device does with a bundle, done here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nagedge.finetuning import FinetuneResult

__all__ = ["command", "print_finetuning"]


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    data: Annotated[Path, typer.Option(metavar="FILE", help="Raw examples: .npz, .csv or .parquet.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the new bundle.")],
    runtime: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="What runs the training step, instead of the target's own."),
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="NAME", help="Whose training step, instead of the first one's.")
    ] = None,
    evaluation: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Examples to measure on, instead of every fifth of --data."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the examples.")] = 5,
    lr: Annotated[float | None, typer.Option(help="Step size, instead of the bundle's.")] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Nesterov momentum, instead of the bundle's.")
    ] = None,
) -> None:
    """Train a bundle on new examples with a runtime that knows nothing of training."""
    from nagedge import finetune, load
    from nagedge.cli.output import print_paths, progress_bar

    with progress_bar() as progress:
        result = finetune(
            load(bundle),
            data,
            runtime=runtime,
            target=target,
            evaluation=evaluation,
            epochs=epochs,
            lr=lr,
            momentum=momentum,
            out=out,
            progress=progress,
        )
    for report in result.reports:
        typer.echo(f"{report}")
    print_finetuning(result)
    print_paths({"bundle": result.bundle.path})


def print_finetuning(result: FinetuneResult) -> None:
    """Print every metric before and after."""
    from nagedge.cli.output import print_table

    rows = [
        [task, metric, value, result.after[task][metric]]
        for task, metrics in result.before.items()
        for metric, value in metrics.items()
    ]
    typer.echo(
        f"{result.examples} examples learnt in {len(result.losses)} steps on {result.runtime}, "
        f"measured on {result.evaluated} others"
    )
    print_table("Fine-tuning", ["task", "metric", "before", "after"], rows)
