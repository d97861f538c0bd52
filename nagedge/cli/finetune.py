"""``nagedge finetune``: what a device does with a bundle, done here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    data: Annotated[Path, typer.Option(metavar="FILE", help="Raw examples: .npz, .csv or .parquet.")],
    runtime: Annotated[str, typer.Option(metavar="NAME", help="What runs the training step.")],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of the new parameters and momentum buffers.")
    ],
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the examples.")] = 5,
    lr: Annotated[float | None, typer.Option(help="Step size, instead of the bundle's.")] = None,
    momentum: Annotated[
        float | None, typer.Option(help="Nesterov momentum, instead of the bundle's.")
    ] = None,
) -> None:
    """Train a bundle on new examples with a runtime that knows nothing of training."""
    from nagedge import finetune, load
    from nagedge.cli.output import progress_bar

    with progress_bar() as progress:
        result = finetune(
            load(bundle),
            data,
            runtime=runtime,
            epochs=epochs,
            lr=lr,
            momentum=momentum,
            out=out,
            progress=progress,
        )
    print_finetuning(result)
