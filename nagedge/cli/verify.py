"""``nagedge verify``: does the exported step compute what PyTorch computes?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nagedge.verification import Comparison

__all__ = ["command", "print_comparisons"]

_ROWS = 12


def command(
    bundle: Annotated[Path, typer.Argument(help="Folder of the bundle.")],
    steps: Annotated[int, typer.Option(min=1, help="Training steps of the trajectory.")] = 20,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write every comparison here.")] = None,
) -> None:
    """Run the same steps in the runtime and in PyTorch and compare; exit code 1 when out of tolerance."""
    import dataclasses

    from nagedge import load, verify
    from nagedge.cli.output import progress_bars, write_json
    from nagedge.errors import VerificationError

    with progress_bars() as progress:
        comparisons = verify(load(bundle), steps=steps, progress=progress)
    if json is not None:
        write_json(json, [dataclasses.asdict(comparison) for comparison in comparisons])
    print_comparisons(comparisons)
    outside = [comparison for comparison in comparisons if not comparison.within_tolerance]
    if outside:
        raise VerificationError(
            f"bundle {bundle}: {len(outside)} of {len(comparisons)} comparisons are out of tolerance, the worst "
            f"'{outside[0].tensor}' at step {outside[0].step}: it differs by {outside[0].max_abs:.3g}."
        )
    typer.echo(f"all {len(comparisons)} comparisons over {steps} steps are within tolerance")


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """Print the tensors that agree least, each at its worst step; ``comparisons`` come worst first."""
    from nagedge.cli.output import print_table

    worst: dict[str, Comparison] = {}
    for comparison in comparisons:
        worst.setdefault(comparison.tensor, comparison)
    columns = ("tensor", "step", "max_abs", "max_rel", "rtol", "atol", "within_tolerance")
    rows = [
        [getattr(comparison, column) for column in columns] for comparison in list(worst.values())[:_ROWS]
    ]
    print_table(f"Worst of {len(worst)} tensors", columns, rows)
