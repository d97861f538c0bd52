"""``nagedge verify``: does the exported step compute what PyTorch computes?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nagedge.verification import Comparison

__all__ = [
    "command",
    "print_agreement",
    "print_comparisons",
    "print_matrix",
    "refuse_disagreement",
    "write_comparisons",
]

_ROWS = 12


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    steps: Annotated[int, typer.Option(min=1, help="Training steps of the trajectory.")] = 20,
    target: Annotated[str | None, typer.Option(metavar="NAME", help="Verify only this one.")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Held-out raw examples, for the metrics of quantised targets: .npz, .csv, .parquet.",
        ),
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every comparison here.")] = None,
) -> None:
    """Run the same steps in every target's runtime and in PyTorch and compare; exit code 1 when out of tolerance.

    Exit code 2 when a target's runtime cannot be had on this machine.
    """
    from nagedge import load, verify
    from nagedge.cli.export import refuse_rest
    from nagedge.cli.output import progress_bar

    loaded = load(bundle)
    with progress_bar() as progress:
        comparisons = verify(loaded, steps=steps, target=target, data=data, progress=progress)
    if json is not None:
        write_comparisons(json, comparisons)
    if comparisons:
        print_comparisons(comparisons)
    print_matrix(bundle)
    refuse_disagreement(bundle, comparisons)
    if comparisons:
        print_agreement(bundle, comparisons, steps)
    refuse_rest(loaded)


def write_comparisons(path: Path, comparisons: Sequence[Comparison]) -> None:
    """Write every comparison as JSON; a difference that is not finite becomes null, as JSON has no infinity."""
    import dataclasses
    import math

    from nagedge.cli.output import write_json

    rows = [dataclasses.asdict(comparison) for comparison in comparisons]
    write_json(
        path,
        [
            {
                key: None if isinstance(value, float) and not math.isfinite(value) else value
                for key, value in row.items()
            }
            for row in rows
        ],
    )


def print_agreement(bundle: Path, comparisons: Sequence[Comparison], steps: int) -> None:
    """Print that all is within tolerance, and the steps at which that took a second look."""
    from nagedge import load

    stored = load(bundle).manifest.verification
    for target, entry in ((name, entry) for name, entries in stored.items() for entry in entries):
        if entry.realigned:
            typer.echo(
                f"{target}: PyTorch went on from the runtime's state after step "
                f"{', '.join(map(str, entry.realigned))}, where they parted at a kink within rounding"
            )
    typer.echo(f"all {len(comparisons)} comparisons over {steps} steps are within tolerance")


def print_matrix(bundle: Path) -> None:
    """Print target x {inference, training}: the most telling tensor, its difference, and the verdict."""
    from nagedge import load
    from nagedge.cli.output import print_table

    stored = [
        (name, entry) for name, entries in load(bundle).manifest.verification.items() for entry in entries
    ]
    rows = [
        [name, half, check.verdict, check.max_rel, check.rtol, check.tensor, entry.runtime]
        for name, entry in stored
        for half, check in entry.checks.items()
    ]
    columns = ["target", "half", "verdict", "max_rel", "rtol", "tensor", "runtime"]
    print_table("Against PyTorch", columns, rows)
    metrics = [
        [name, m.task, m.metric, m.reference, m.target, m.examples]
        for name, entry in stored
        for m in entry.metrics
    ]
    if metrics:
        columns = ["target", "task", "metric", "fp32 in PyTorch", "target's", "examples"]
        print_table("Held-out metrics", columns, metrics)


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """Print the tensors that agree least, the most telling first."""
    from nagedge.cli.output import print_table
    from nagedge.verification import worst_first

    worst = worst_first(comparisons)
    columns = ("target", "tensor", "step", "max_abs", "max_rel", "rtol", "atol", "within_tolerance")
    rows = [[getattr(comparison, column) for column in columns] for comparison in worst[:_ROWS]]
    print_table(f"Worst of {len(worst)} tensors", columns, rows)


def refuse_disagreement(bundle: Path, comparisons: Sequence[Comparison]) -> None:
    """Do nothing when every comparison is within tolerance.

    Raises:
        VerificationError: names the tensor that went wrong first, and the step.
    """
    from nagedge.errors import VerificationError
    from nagedge.verification import worst_first

    worst = worst_first(comparisons)
    outside = [comparison for comparison in worst if not comparison.within_tolerance]
    if outside:
        first = outside[0]
        raise VerificationError(
            f"bundle {bundle}, target {first.target}: {len(outside)} of {len(worst)} tensors are out of tolerance, "
            f"first {first.tensor!r} at step {first.step}: it differs by {first.max_abs:.3g}, allowed are "
            f"rtol {first.rtol:g} and atol {first.atol:g}. Do not ship it; report the model with this text."
        )
