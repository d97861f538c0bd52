"""The commands of ``nagedge`` in one application."""

from __future__ import annotations

from typing import Annotated

import typer

import nagedge
from nagedge.cli import demo, doctor, export, finetune, init, profile, targets, train, verify
from nagedge.cli.errors import ErrorsInPlainWords

__all__ = ["app"]

app = typer.Typer(
    name="nagedge",
    cls=ErrorsInPlainWords,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Train compact multi-task models, export them with their training step, prove them, keep training.",
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"nagedge {nagedge.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Hold the options that stand before a command; the group and the callback act on them."""


for module in (init, train, export, verify, finetune, profile, doctor, demo):
    app.command(module.__name__.rpartition(".")[2])(module.command)
app.add_typer(targets.app, name="targets")
