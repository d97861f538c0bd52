"""``nagedge profile``: what inference and a training step cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nagedge.profiling.results import Profile

__all__ = ["command", "print_profile"]


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    device: Annotated[str, typer.Option(help="Where to run: host.")] = "host",
    what: Annotated[str, typer.Option(help="What to measure, separated by commas.")] = "infer,train",
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything measured here.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report with plots here.")] = None,
) -> None:
    """Measure latency, memory and time by operator of inference and of a training step."""
    from nagedge import load, profile
    from nagedge.cli.output import print_paths, progress_bar
    from nagedge.files import write_file
    from nagedge.profiling.report import write_report

    parts = tuple(part.strip() for part in what.split(","))
    with progress_bar() as progress:
        result = profile(load(bundle), what=parts, device=device, progress=progress)
    print_profile(result)
    if json is not None:
        write_file(json, result.to_json())
    if html is not None:
        write_report(html, result)
    written = {name: path for name, path in (("json", json), ("html", html)) if path is not None}
    if written:
        print_paths(written)


def print_profile(profile: Profile) -> None:
    """Print one row a workload."""
    from nagedge.cli.output import print_table

    rows = []
    for workload in profile.workloads:
        latency = workload.latency
        quantiles = {quantile.name: quantile.value for quantile in latency.quantiles}
        rows.append(
            [
                workload.name,
                workload.runtime,
                workload.threads,
                workload.batch,
                latency.first_ms,
                latency.warm_up_calls,
                latency.steady_calls,
                *(quantiles.get(name) for name in ("p50", "p90", "p99")),
                None if workload.memory is None else workload.memory.step_bytes / 2**20,
            ]
        )
    columns = (
        "what",
        "runtime",
        "threads",
        "batch",
        "first_ms",
        "warm-up calls",
        "n",
        "p50_ms",
        "p90_ms",
        "p99_ms",
    )
    print_table(f"Profile on {profile.host.cpu_model}", [*columns, "step_mib"], rows)
