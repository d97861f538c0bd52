"""``nagedge demo``: the whole path on real digits, from data to a model that keeps learning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder for everything it makes.")] = Path(
        "nagedge-demo"
    ),
) -> None:
    """Train, export, verify, fine-tune and profile a small multi-task model on real handwritten digits."""
