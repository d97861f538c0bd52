"""``nagedge verify``: does the exported step compute what PyTorch computes?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["command"]

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
