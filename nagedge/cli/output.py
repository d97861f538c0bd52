"""Tables on stdout, progress on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

__all__ = ["ProgressCallback", "print_metrics", "print_paths", "print_table", "progress_bar", "write_json"]

ProgressCallback = Callable[[str, int, int], None]
"""``(description, completed, total)``: ``description`` says what is being done."""


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table; columns whose cells are all numbers or blank are aligned to the right.

    Where stdout is no terminal the table is as wide as it needs to be, up to 200 characters.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float | None) for row in rows)
        table.add_column(
            Text(name), justify="right" if numeric else "left", overflow="fold", no_wrap=index == 0
        )
    for row in rows:
        table.add_row(*(Text(_cell(value)) for value in row))
    console = Console()
    Console(width=None if console.is_terminal else 200).print(table)


def print_metrics(title: str, metrics: Mapping[str, Mapping[str, float]]) -> None:
    """Print task name -> metric name -> value, one row each."""
    rows = [[task, name, value] for task, values in metrics.items() for name, value in values.items()]
    print_table(title, ["task", "metric", "value"], rows)


def print_paths(paths: dict[str, Path]) -> None:
    """Print what was made and where, one a line, never wrapped: a path is there to be copied."""
    import typer

    width = max(len(name) for name in paths)
    for name, path in paths.items():
        typer.echo(f"{name:<{width}}  {path}")


@contextmanager
def progress_bar() -> Iterator[ProgressCallback]:
    """Yield a callback that draws a bar on stderr; nothing is drawn when that is no terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        task = bars.add_task("starting", total=None)

        def report(description: str, completed: int, total: int) -> None:
            bars.update(task, description=description, completed=completed, total=total)

        yield report


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as indented JSON, complete or not at all."""
    import json

    from nagedge.files import write_file

    write_file(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def _cell(value: object) -> str:
    """Return a short text: blank for ``None``, four significant digits for a float."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
