"""``nagedge export``: from a checkpoint or a model of one's own to a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["command", "print_files"]


def command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A checkpoint folder, or package.module:factory.")
    ],
    target: Annotated[
        list[str], typer.Option(metavar="NAME|FILE", help="What to export for; may be given again.")
    ],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder of the bundle.")],
    trainable: Annotated[
        str,
        typer.Option(
            help="What the device may train: all, heads, bias, norm, lora:RANK or a regular expression."
        ),
    ] = "all",
    batch_norm: Annotated[
        Literal["fold", "freeze", "train"], typer.Option(help="What becomes of BatchNorm's statistics.")
    ] = "fold",
    batch: Annotated[
        int | None, typer.Option(min=1, help="Fix the batch size, which is free otherwise.")
    ] = None,
) -> None:
    """Write a bundle: inference and the training step as files, with everything a device needs to know."""
    from nagedge.cli.output import print_paths, progress_bar
    from nagedge.export import export

    with progress_bar() as progress:
        bundle = export(
            source,
            targets=target,
            out=out,
            trainable=trainable,
            batch_norm=batch_norm,
            batch=batch,
            progress=progress,
        )
    print_files(bundle.path)
    print_paths({"bundle": bundle.path})
    typer.echo(f"next: nagedge verify {bundle.path}")


def print_files(folder: Path) -> None:
    """Print every file of a bundle with its size."""
    from nagedge.cli.output import print_table

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    rows = [[f"{path.relative_to(folder)}", path.stat().st_size] for path in files]
    print_table("Bundle", ["file", "size_bytes"], rows)
