"""``nagedge export``: from a checkpoint or a model of one's own to a bundle that was verified."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from nagedge import Bundle

__all__ = ["command", "print_files", "refuse_rest"]


def command(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="A checkpoint folder, or package.module:factory.")
    ],
    target: Annotated[
        list[str],
        typer.Option(metavar="NAME|FILE|all", help="What to export for; may be given again; all: every one."),
    ],
    out: Annotated[Path, typer.Option(metavar="BUNDLE", help="Folder of the bundle.")],
    trainable: Annotated[
        str,
        typer.Option(
            help="What the device may train: all, heads, bias, norm, lora:RANK or a regular expression."
        ),
    ] = "all",
    batch_norm: Annotated[
        Literal["fold", "freeze", "train"], typer.Option(help="What becomes of BatchNorm's statistics.")
    ] = "fold",
    batch: Annotated[
        int | None, typer.Option(min=1, help="Fix the batch size, which is free otherwise.")
    ] = None,
    balancing: Annotated[
        Literal["static", "uncertainty", "imtl_l", "dwa", "famo", "pcgrad"],
        typer.Option(
            help="How the step weighs its tasks: static weights, or a method that it computes itself."
        ),
    ] = "static",
    restart: Annotated[
        Literal["none", "gradient", "loss"],
        typer.Option(help="When the step starts its momentum again from zero."),
    ] = "none",
    calibration: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Raw examples for int8 ranges, instead of the checkpoint's training data."
        ),
    ] = None,
    memory_budget: Annotated[
        str | None,
        typer.Option(
            metavar="SIZE",
            help="The most that a training step may hold, such as 32MB: it computes again what it does not keep.",
        ),
    ] = None,
    verify_steps: Annotated[
        int,
        typer.Option(
            min=0, help="Training steps to verify before the bundle counts as exported; 0 leaves it out."
        ),
    ] = 3,
    android_assets: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Put what the Android app reads into this folder of assets."),
    ] = None,
) -> None:
    """Write a bundle: inference and the training step as files, with everything a device needs to know.

    Exit code 1: out of tolerance, the bundle is kept under a name that says so. Exit code 2: a target could not be
    served or verified here; the others are in the bundle.
    """
    from nagedge.cli.output import print_paths, progress_bar
    from nagedge.export import export

    with progress_bar() as progress:
        bundle = export(
            source,
            targets=target,
            out=out,
            trainable=trainable,
            batch_norm=batch_norm,
            batch=batch,
            balancing=balancing,
            restart=restart,
            calibration=calibration,
            memory_budget=memory_budget,
            progress=progress,
        )
    print_files(bundle.path)
    for name, entry in bundle.manifest.targets.items():
        if entry.planned_step_bytes is not None:
            typer.echo(
                f"{name}: a training step of {entry.planned_rows} rows is planned to hold "
                f"{entry.planned_step_bytes / 2**20:.1f} MiB"
            )
    if verify_steps and out.suffix != ".zip":
        _verify(bundle, verify_steps)
    written = {"bundle": bundle.path}
    if android_assets is not None:
        from nagedge.android_assets import write_android_assets

        written["android assets"] = write_android_assets(bundle, android_assets)
        typer.echo(f"bundle hash {bundle.manifest.content_hash()}")
    print_paths(written)
    refuse_rest(bundle)
    typer.echo(f"next: nagedge verify {bundle.path}")


def _verify(bundle: Bundle, steps: int) -> None:
    """Verify a fresh bundle and print the matrix.

    Raises:
        VerificationError: it is out of tolerance; it was renamed.
    """
    from nagedge import verify
    from nagedge.cli.output import progress_bar
    from nagedge.cli.verify import print_matrix, refuse_disagreement
    from nagedge.errors import VerificationError

    with progress_bar() as progress:
        comparisons = verify(bundle, steps=steps, progress=progress)
    print_matrix(bundle.path)
    try:
        refuse_disagreement(bundle.path, comparisons)
    except VerificationError as error:
        kept = _set_aside(bundle.path)
        raise VerificationError(f"{error} Nothing was exported; the artifacts are kept in {kept}.") from None


def _set_aside(bundle: Path) -> Path:
    """Rename a bundle so that nobody takes it for a good one, and return its new path."""
    for number in range(1, 1000):
        kept = bundle.with_name(f"{bundle.name}.out-of-tolerance{'' if number == 1 else f'-{number}'}")
        if not kept.exists():
            bundle.rename(kept)
            return kept
    return bundle


def refuse_rest(bundle: Bundle) -> None:
    """Do nothing when every target is in the bundle and was verified, or was not to be verified.

    Raises:
        typer.Exit: with code 2, after every reason was printed.
    """
    from nagedge import load

    manifest = load(bundle.path).manifest
    reasons = [f"target {name} was refused: {reason}" for name, reason in manifest.refused.items()]
    reasons += [
        f"target {name} was not verified: {check.reason}"
        for name, entries in manifest.verification.items()
        for entry in entries
        for check in list(entry.checks.values())[:1]
        if check.verdict == "skipped"
    ]
    for reason in reasons:
        typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
        typer.echo(reason, err=True)
    if reasons:
        raise typer.Exit(2)


def print_files(folder: Path) -> None:
    """Print every file of a bundle with its size."""
    from nagedge.cli.output import print_table

    files = sorted(path for path in folder.rglob("*") if path.is_file())
    rows = [[f"{path.relative_to(folder)}", path.stat().st_size] for path in files]
    print_table("Bundle", ["file", "size_bytes"], rows)
