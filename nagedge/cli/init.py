"""``nagedge init``: a run file to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The run file to write.")] = Path("run.toml"),
    schema: Annotated[
        Path | None, typer.Option(help="Also write the JSON Schema of run files here, for editors.")
    ] = None,
) -> None:
    """Write a commented run file. An existing file is kept."""
    from nagedge.cli.output import write_json
    from nagedge.errors import ConfigurationError
    from nagedge.training.run import RUN_TEMPLATE, run_json_schema

    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(RUN_TEMPLATE)
    except FileExistsError as error:
        raise ConfigurationError(f"{path} exists already and is kept; give another path.") from error
    typer.echo(f"wrote {path}")
    if schema is not None:
        write_json(schema, run_json_schema())
        typer.echo(f"wrote {schema}")
    typer.echo(f"next: nagedge train {path}")
