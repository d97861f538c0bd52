"""Rows that cannot be used: found, then either refused with the first one named, or dropped and counted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import DataError

__all__ = ["CleaningReport", "Dropped", "Finding", "drop_rows"]

FIRST_ROWS = 5
"""So many rows of each reason are named in a report."""


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong with some of the rows of a source.

    Args:
        reason: a few words for the report, for example ``"target 'digit' is missing"``.
        rows: bool ``[n]``, the rows concerned.
        got: describes the value of the row at the given index (from 0).
        expected: what was expected instead.
        missing_input: a missing input value, which has a policy of its own.
        harmless: dropped and counted whatever the policy.
    """

    reason: str
    rows: npt.NDArray[np.bool_]
    got: Callable[[int], str]
    expected: str
    missing_input: bool = False
    harmless: bool = False


@dataclass(frozen=True)
class Dropped:
    """How many rows were dropped for one reason, and the first of them (``"row 7"``, or a file name)."""

    reason: str
    count: int
    first_rows: tuple[str, ...]


@dataclass(frozen=True)
class CleaningReport:
    """What became of the rows of a source; a row with several faults counts under the first.

    Rows count from 1; the header line of a CSV file does not count.
    """

    source: str
    rows_read: int
    rows_kept: int
    dropped: tuple[Dropped, ...] = ()
    filled_values: int = 0

    def with_more(self, later: CleaningReport) -> CleaningReport:
        """Return the report with what was dropped of the rows that it kept."""
        dropped = sum(entry.count for entry in later.dropped)
        return replace(self, rows_kept=self.rows_kept - dropped, dropped=(*self.dropped, *later.dropped))

    def merged(self) -> CleaningReport:
        """Return the report with one entry a reason, for rows that were looked at in pieces."""
        counts: dict[str, Dropped] = {}
        for entry in self.dropped:
            before = counts.get(entry.reason, Dropped(entry.reason, 0, ()))
            rows = (*before.first_rows, *entry.first_rows)[:FIRST_ROWS]
            counts[entry.reason] = Dropped(entry.reason, before.count + entry.count, rows)
        return replace(self, dropped=tuple(counts.values()))

    def to_json(self) -> dict[str, Any]:
        """Return plain values for ``json.dump``; :meth:`from_json` reads them back."""
        return {
            "source": self.source,
            "rows_read": self.rows_read,
            "rows_kept": self.rows_kept,
            "dropped": [
                {"reason": entry.reason, "count": entry.count, "first_rows": list(entry.first_rows)}
                for entry in self.dropped
            ],
            "filled_values": self.filled_values,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> CleaningReport:
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: for a field that is missing or of the wrong type.
        """
        try:
            return cls(
                source=str(document["source"]),
                rows_read=int(document["rows_read"]),
                rows_kept=int(document["rows_kept"]),
                dropped=tuple(
                    Dropped(str(entry["reason"]), int(entry["count"]), tuple(map(str, entry["first_rows"])))
                    for entry in document["dropped"]
                ),
                filled_values=int(document["filled_values"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(
                f"cleaning report cannot be read ({type(error).__name__}: {error}): expected the object that "
                "CleaningReport.to_json() writes."
            ) from None

    def __str__(self) -> str:
        text = f"{self.source}: {self.rows_read} rows read, {self.rows_kept} kept"
        for entry in self.dropped:
            more = ", ..." if entry.count > len(entry.first_rows) else ""
            text += f"; {entry.count} dropped: {entry.reason} ({', '.join(entry.first_rows)}{more})"
        if self.filled_values:
            text += f"; {self.filled_values} missing values filled"
        return text


def drop_rows(
    findings: Sequence[Finding],
    *,
    source: str,
    row_names: Sequence[str],
    missing: str,
    bad_rows: str,
    remedy: str,
    allow_none: bool = False,
) -> tuple[npt.NDArray[np.bool_], CleaningReport]:
    """Apply the policies to what was found.

    Args:
        findings: in order of precedence; all over the same n rows.
        source: the file, for texts.
        row_names: n names, ``"row 1"`` or file names.
        missing: ``"error"`` or ``"drop"`` for findings with ``missing_input``.
        bad_rows: ``"error"`` or ``"drop"`` for the others.
        remedy: ends the error's text.
        allow_none: whether no row may be left.

    Returns:
        bool ``[n]``, the rows to keep, and the report.

    Raises:
        DataError: a finding whose policy is ``"error"``, or no row left.
    """
    keep = np.ones(len(row_names), dtype=np.bool_)
    dropped: list[Dropped] = []
    for finding in findings:
        rows = np.flatnonzero(finding.rows & keep)
        if rows.size == 0:
            continue
        names = tuple(row_names[row] for row in rows[:FIRST_ROWS])
        if not finding.harmless and (missing if finding.missing_input else bad_rows) == "error":
            others = f" ({rows.size} such rows)" if rows.size > 1 else ""
            raise DataError(
                f"{source}, {names[0]}: {finding.reason}: got {finding.got(int(rows[0]))}, "
                f"expected {finding.expected}{others}. {remedy}"
            )
        dropped.append(Dropped(finding.reason, int(rows.size), names))
        keep[rows] = False
    report = CleaningReport(source, len(row_names), int(keep.sum()), tuple(dropped))
    if not keep.any() and not allow_none:
        raise DataError(f"no usable row is left. {report}. Correct the file.")
    return keep, report
