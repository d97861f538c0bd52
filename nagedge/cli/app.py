"""The commands of ``nagedge`` in one application."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Annotated

import typer

import nagedge
from nagedge.cli import (
    demo,
    devices,
    doctor,
    export,
    finetune,
    fit_device,
    init,
    profile,
    targets,
    train,
    tune,
    verify,
    web,
)
from nagedge.cli.errors import ErrorsInPlainWords

__all__ = ["app"]

# On Linux torch computes with libgomp, whose threads wait for each other by spinning, for 300,000 rounds by default. A
# thread that spins while the one it waits for has no core wastes its whole slice. The template's run on two cores,
# medians: 60 steps on a quiet machine 0.49 s with the default, 0.52 s with 10,000 rounds, 0.75 s with none
# (OMP_WAIT_POLICY=PASSIVE); an epoch (63 steps) on a busy one 30 s, 3.7 s and 2.0 s.
_SPIN_ROUNDS = "10000"

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
    """Start a command. The options are acted on by the group and by the version's own callback."""
    del debug, version
    spin_briefly(os.environ)


def spin_briefly(environment: MutableMapping[str, str]) -> None:
    """Let OpenMP threads soon sleep when they wait, unless the user said how; torch reads this when it is imported."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & environment.keys():
        environment["GOMP_SPINCOUNT"] = _SPIN_ROUNDS


for module in (init, train, tune, fit_device, export, verify, finetune, profile, web, doctor, demo):
    app.command(module.__name__.rpartition(".")[2].replace("_", "-"))(module.command)
app.add_typer(targets.app, name="targets")
app.add_typer(devices.app, name="devices")
