"""What a page shows: cards, charts and tables, ready to print."""

from __future__ import annotations

import base64
from dataclasses import dataclass

from nagedge.profiling.sections import Card
from nagedge.profiling.svg import Chart

__all__ = ["Download", "Page", "Part", "Table"]


@dataclass(frozen=True)
class Download:
    """A file that the page holds.

    Args:
        name: of the file. label: of the link. text: its content.
    """

    name: str
    label: str
    text: str

    @property
    def address(self) -> str:
        """The file as a data address: nothing is fetched."""
        return "data:application/json;base64," + base64.b64encode(self.text.encode()).decode("ascii")


@dataclass(frozen=True)
class Table:
    """A table of text.

    Args:
        rows, header: the cells; without a header the first column names the second. title, note: above and beneath it.
        numeric: the columns set flush right.
        folded: the summary of a closed table; empty for an open one.
        beside: whether it stands among the charts, in half the page's width.
    """

    rows: tuple[tuple[str, ...], ...]
    header: tuple[str, ...] = ()
    title: str = ""
    numeric: tuple[int, ...] = ()
    folded: str = ""
    note: str = ""
    beside: bool = False


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
    downloads: tuple[Download, ...] = ()


@dataclass(frozen=True)
class Page:
    """The whole page."""

    title: str
    subtitle: str
    highlights: tuple[Card, ...]
    parts: tuple[Part, ...]
    footer: str
