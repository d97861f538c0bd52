"""``nagedge tune``: a search for the values of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run file.")],
    trials: Annotated[int, typer.Option(min=1, help="Runs to do now.")] = 20,
    storage: Annotated[
        Path | None, typer.Option(help="File that keeps the study: the same one again goes on with it.")
    ] = None,
    lr: Annotated[tuple[float, float], typer.Option(help="Lowest and highest learning rate.")] = (1e-3, 1.0),
    momentum: Annotated[tuple[float, float], typer.Option(help="Lowest and highest momentum.")] = (0.5, 0.98),
    weight: Annotated[
        tuple[float, float] | None, typer.Option(help="Lowest and highest weight of each task but the first.")
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option(help="Balancing methods to try; may be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
) -> None:
    """Search learning rate, momentum, task weights and balancing with Optuna; bad trials are stopped early."""
    from nagedge.cli.output import print_table, progress_bar
    from nagedge.training.tuning import Search, tune

    search = Search(lr=lr, momentum=momentum, weight=weight, methods=tuple(method or ()))
    with progress_bar() as bar:
        tuned = tune(
            run,
            trials=trials,
            search=search,
            storage=storage,
            seed=seed,
            report=lambda n, of: bar("trials", n, of),
        )
    complete = sorted((t for t in tuned.trials if t.score is not None), key=lambda t: t.score or 0.0)
    names = list(tuned.best.values)
    rows = [[t.number, t.state, t.score, *(t.values.get(name) for name in names)] for t in complete[:10]]
    print_table("Best trials", ["trial", "state", "validation loss", *names], rows)
    stopped = sum(t.state != "complete" for t in tuned.trials)
    typer.echo(f"{len(tuned.trials)} trials, {stopped} of them stopped early. For the run file:")
    for line in _run_file_lines(tuned.best.values):
        typer.echo(line)


def _run_file_lines(values: dict[str, float | str]) -> list[str]:
    """Return the best values as the lines of a run file."""
    lines = ["[optimizer]", f"lr = {values['lr']:.4g}", f"momentum = {values['momentum']:.4g}"]
    if "method" in values:
        lines += ["[balancing]", f'method = "{values["method"]}"']
    for name, value in values.items():
        if name.startswith("weight."):
            lines += [f"[tasks.{name.removeprefix('weight.')}]", f"weight = {value:.4g}"]
    return lines
