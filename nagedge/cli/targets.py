"""``nagedge targets``: the deployment targets that come with NagEdge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["app"]

app = typer.Typer(help="List, print and copy the deployment targets.", no_args_is_help=True)


@app.command("ls")
def list_targets() -> None:
    """List the targets with what they hold."""
    from nagedge.cli.output import print_table
    from nagedge.targets import available_targets, load_target

    targets = [load_target(name) for name in available_targets()]
    columns = ("name", "train", "opset", "rtol", "atol", "inference_rtol", "inference_atol")
    print_table("Targets", columns, [[getattr(target, column) for column in columns] for target in targets])


@app.command("cat")
def print_target(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `nagedge targets ls`.")],
) -> None:
    """Print a target's file."""
    from nagedge.targets import target_file

    typer.echo(target_file(name).read_text(encoding="utf-8"), nl=False)


@app.command("cp")
def copy_target(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name of `nagedge targets ls`.")],
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The new file, or a folder.")],
) -> None:
    """Copy a target's file, to change it and to export for it. An existing file is kept."""
    from nagedge.errors import ConfigurationError
    from nagedge.targets import target_file

    source = target_file(name)
    path = path / source.name if path.is_dir() else path
    try:
        with path.open("x", encoding="utf-8") as copy:
            copy.write(source.read_text(encoding="utf-8"))
    except FileExistsError as error:
        raise ConfigurationError(f"{path} exists already and is kept; give another path.") from error
    typer.echo(f"wrote {path}")
