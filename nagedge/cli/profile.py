"""``nagedge profile``: what inference and a training step cost, and whether that grew."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nagedge.bundle import Bundle
    from nagedge.profiling.gate import Change
    from nagedge.profiling.results import Profile
    from nagedge.profiling.tables import Sheet

__all__ = ["command", "print_profile"]


def command(
    bundle: Annotated[Path, typer.Argument(metavar="BUNDLE", help="Folder of the bundle.")],
    device: Annotated[
        list[str] | None,
        typer.Option(help="A name of `nagedge devices ls`: host, emulated:CORE, ...; may be given again."),
    ] = None,
    what: Annotated[str, typer.Option(help="What to profile, separated by commas.")] = "infer,train",
    target: Annotated[
        list[str] | None, typer.Option(help="Only this target's artifacts; may be given again.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(help="Examples a call, where the artifact leaves it free.")
    ] = None,
    threads: Annotated[
        int, typer.Option(help="Threads inside operators; those of emulated:CORE have one.")
    ] = 1,
    model: Annotated[
        list[str] | None, typer.Option(help="Device profile, name or file, to model latencies of.")
    ] = None,
    json: Annotated[Path | None, typer.Option(metavar="FILE", help="Write everything measured here.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a report with plots here.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown instead of tables.")] = False,
    baseline: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH", help="Compare with this: a file of --json, or a bundle to measure in turns."
        ),
    ] = None,
    fail_above: Annotated[str, typer.Option(metavar="PERCENT", help="Growth that is allowed.")] = "1%",
) -> None:
    """Measure on this machine and on devices, count instructions on emulated cores, compare with a baseline."""
    from nagedge import load, profile
    from nagedge.cli.output import print_paths, progress_bar
    from nagedge.files import write_file
    from nagedge.profiling.gate import parse_limit
    from nagedge.profiling.report import write_report
    from nagedge.profiling.tables import change_sheet, profile_sheets

    limit = parse_limit(fail_above)
    parts = tuple(part.strip() for part in what.split(",") if part.strip())
    loaded = load(bundle)
    previous = None if baseline is None else _baseline(baseline)
    with progress_bar() as progress:
        result = profile(
            loaded,
            what=parts,
            device=device or ["host"],
            target=target,
            batch=batch,
            threads=threads,
            models=model,
            progress=progress,
        )
    changes: Sequence[Change] = ()
    if previous is not None:
        from nagedge.profiling.against import compare_with_baseline

        with progress_bar() as progress:
            before, changes = compare_with_baseline(
                result, loaded, previous, limit=limit, what=parts, targets=target, batch=batch, threads=threads,
                progress=progress,
            )  # fmt: skip
    else:
        before = None
    sheets = [*([change_sheet(changes, limit)] if previous is not None else []), *profile_sheets(result)]
    _print(sheets, markdown=markdown)
    if json is not None:
        write_file(json, result.to_json())
    if html is not None:
        write_report(html, result, before=before, changes=changes, limit=limit)
    written = {name: path for name, path in (("json", json), ("html", html)) if path is not None}
    if written and not markdown:
        print_paths(written)
    if any(change.fails for change in changes):
        raise typer.Exit(1)


def _baseline(path: Path) -> Profile | Bundle:
    """Return the profile or the bundle at ``path``, before anything is measured."""
    from nagedge import load
    from nagedge.profiling.results import Profile

    if path.is_file() and path.suffix != ".zip":
        return Profile.from_json(path.read_text(encoding="utf-8"))
    return load(path)


def print_profile(profile: Profile) -> None:
    """Print one table a class of evidence."""
    from nagedge.profiling.tables import profile_sheets

    _print(profile_sheets(profile), markdown=False)


def _print(sheets: Sequence[Sheet], *, markdown: bool) -> None:
    from nagedge.cli.output import print_table
    from nagedge.profiling.tables import to_markdown

    if markdown:
        typer.echo(to_markdown(sheets), nl=False)
        return
    for sheet in sheets:
        print_table(sheet.title, sheet.columns, sheet.rows)
