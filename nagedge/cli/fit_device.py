"""``nagedge fit-device``: a model that fits a device."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nagedge.fitting import Fitted, Tried

__all__ = ["command"]


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN.toml", help="The run file.")],
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COST=SIZE",
            help="A limit: macs=20M, params=200k, memory=32MB or instructions=50M; may be repeated.",
        ),
    ] = None,
    trunk: Annotated[list[str] | None, typer.Option(help="A trunk to try; may be repeated.")] = None,
    width: Annotated[
        list[float] | None, typer.Option(help="A factor of the run's channels to try; may be repeated.")
    ] = None,
    resolution: Annotated[
        list[int] | None, typer.Option(help="A height of the images in pixels to try; may be repeated.")
    ] = None,
    norm: Annotated[
        list[str] | None, typer.Option(help="A normalisation to try, batch or group; may be repeated.")
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps of each candidate.")] = 100,
    batch: Annotated[int, typer.Option(min=1, help="Examples of the step whose memory is limited.")] = 16,
    core: Annotated[str, typer.Option(help="The emulated core that counts instructions.")] = "cortex-a72",
    storage: Annotated[
        Path | None, typer.Option(help="File that keeps what was found: the same one again goes on with it.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="The new run file, by default RUN.fitted.toml beside RUN.toml.")
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write every candidate to this file.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw cost against loss in this SVG file.")
    ] = None,
) -> None:
    """Choose trunk, width, resolution and norm under a budget; write the run file of the best one."""
    from nagedge.cli.output import print_paths, progress_bar, write_json
    from nagedge.fitting import fit_device, parse_budgets
    from nagedge.fitting.candidates import Choices
    from nagedge.fitting.plot import write_plot
    from nagedge.fitting.run_file import check_out, fitted_name, write_fitted

    budgets = parse_budgets(budget or [])
    path = out or fitted_name(run)
    check_out(run, path)
    choices = Choices(tuple(trunk or ()), tuple(width or ()), tuple(resolution or ()), tuple(norm or ()))
    with progress_bar() as bar:
        fitted = fit_device(
            run,
            budgets,
            choices=choices,
            steps=steps,
            batch=batch,
            core=core,
            storage=storage,
            progress=bar,
        )
    _print(fitted)
    written = {"run file": write_fitted(run, fitted.best.candidate, path, note=_note(fitted))}
    if json is not None:
        write_json(json, _document(fitted))
        written["json"] = json
    if plot is not None:
        written["plot"] = write_plot(fitted, plot)
    print_paths(written)
    typer.echo(f"next: nagedge train {path}")


def _print(fitted: Fitted) -> None:
    from nagedge.cli.output import print_table
    from nagedge.fitting.budget import COSTS, printed

    costs = [cost for cost in COSTS if any(cost in one.costs for one in fitted.tried)]
    metrics = list(fitted.best.score.metrics if fitted.best.score else {})
    rows = [
        [
            one.candidate.name,
            *(printed(cost, one.costs[cost]) if cost in one.costs else "" for cost in costs),
            None if one.score is None else one.score.loss,
            *(None if one.score is None else one.score.metrics.get(name) for name in metrics),
            _said(fitted, one),
        ]
        for one in fitted.tried
    ]
    print_table("Candidates", ["model", *costs, "validation loss", *metrics, ""], rows)
    for cost in costs:
        typer.echo(f"{cost}: {COSTS[cost]}")


def _said(fitted: Fitted, one: Tried) -> str:
    if not one.affordable:
        return "over the budget"
    if one.score is not None and one.score.loss is None:
        return "diverged"
    return "chosen" if one is fitted.best else "efficient" if one.efficient else ""


def _note(fitted: Fitted) -> str:
    from nagedge.fitting.budget import printed

    costs = ", ".join(f"{cost} {printed(cost, value)}" for cost, value in fitted.best.costs.items())
    return f"{fitted.best.candidate.name}: {costs}"


def _document(fitted: Fitted) -> dict[str, object]:
    return {
        "budgets": {budget.cost: budget.limit for budget in fitted.budgets},
        "chosen": fitted.best.candidate.name,
        "candidates": [
            {
                "name": one.candidate.name,
                "model": one.candidate.model.model_dump(mode="json", exclude_unset=True),
                "resolution": list(one.candidate.size),
                "costs": dict(one.costs),
                "affordable": one.affordable,
                "efficient": one.efficient,
                "validation_loss": None if one.score is None else one.score.loss,
                "metrics": {} if one.score is None else one.score.metrics,
                "steps": 0 if one.score is None else one.score.steps,
            }
            for one in fitted.tried
        ],
    }
