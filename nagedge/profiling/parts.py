"""What a page shows: cards, charts and tables, ready to print."""

from __future__ import annotations

from dataclasses import dataclass

from nagedge.profiling.sections import Card
from nagedge.profiling.svg import Chart

__all__ = ["Page", "Part", "Table"]


@dataclass(frozen=True)
class Table:
    """A table of text; ``numeric`` columns are set flush right, ``folded`` is the summary of a closed one."""

    rows: tuple[tuple[str, ...], ...]
    header: tuple[str, ...] = ()
    title: str = ""
    numeric: tuple[int, ...] = ()
    folded: str = ""
    note: str = ""


@dataclass(frozen=True)
class Part:
    """One section of the page."""

    title: str
    lead: str = ""
    notes: tuple[str, ...] = ()
    cards: tuple[Card, ...] = ()
    charts: tuple[Chart, ...] = ()
    small_charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()


@dataclass(frozen=True)
class Page:
    """The whole page."""

    title: str
    subtitle: str
    highlights: tuple[Card, ...]
    parts: tuple[Part, ...]
    footer: str
