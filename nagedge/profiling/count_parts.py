"""From counts, modelled ranges, changes and failures to what the page shows of them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from nagedge.profiling.count_plots import (
    changes_chart,
    mix_chart,
    modelled_chart,
    precision_chart,
    training_chart,
)
from nagedge.profiling.gate import Change
from nagedge.profiling.parts import Download, Part, Table
from nagedge.profiling.results import Profile
from nagedge.profiling.sections import Card, Verdict
from nagedge.profiling.tables import Sheet, change_sheet, profile_sheets
from nagedge.profiling.units import milliseconds

__all__ = ["change_part", "count_parts", "summary_cards", "trace_part"]

_MOST_CALLS = 500
"""Calls a workload in the trace that can be downloaded."""


def summary_cards(profile: Profile) -> tuple[Card, ...]:
    """Return one card a class of evidence: the fastest of each kind."""
    cards = []
    for name, words in (("infer", "Inference"), ("train", "Training step")):
        times = [
            (value, workload)
            for workload in profile.workloads
            if workload.name == name and (value := workload.latency.quantile(0.5).value) is not None
        ]
        if times:
            value, best = min(times, key=lambda pair: pair[0])
            detail = f"p50 on {best.device}, {best.target}; {best.evidence}"
            cards.append(Card(f"{words}, fastest", milliseconds(value), detail))
        counted = [count for count in profile.counts if count.name == name]
        if counted:
            least = min(counted, key=lambda count: count.median.instructions)
            detail = f"{least.target} on {least.device}; {least.evidence}"
            cards.append(Card(f"{words}, fewest instructions", f"{least.median.instructions:,}", detail))
    return tuple(cards)


def count_parts(profile: Profile) -> tuple[Part, ...]:
    """Lay out what was counted, what was modelled, and what could not be had."""
    parts = []
    sheets = {sheet.title.split(" (")[0]: sheet for sheet in profile_sheets(profile)}
    attached = "Attached devices, before, during and after"
    if attached in sheets:
        lead = "What ran it, on which cores, and how hot the device was. Evidence: measured-device."
        parts.append(Part(title="Attached devices", lead=lead, tables=(_table(sheets[attached]),)))
    if profile.counts:
        wrong = [count for count in profile.counts if not count.parity.within_tolerance]
        charts = [mix_chart(profile.counts), precision_chart(profile.counts), training_chart(profile.counts)]
        parts.append(
            Part(
                title="Emulated cores",
                lead=(
                    "Instructions that one call executes on one thread, counted in an emulated processor; an "
                    "empty region is "
                    "subtracted, the first call stands apart. Evidence: emulated-count. A count is no time."
                ),
                notes=tuple(
                    f"{count.target} on {count.device} does not compute what this machine computes: "
                    f"{count.parity.worst}."
                    for count in wrong
                ),
                charts=tuple(chart for chart in charts if chart is not None),
                tables=(_table(sheets["Instructions of a call"]),),
            )
        )
    if profile.systems:
        parts.append(
            Part(
                title="Whole machine",
                lead=(
                    "Ticks of an emulated machine's virtual clock: one for each instruction that any of its cores "
                    "executes, the kernel's included, and as many as pass while all wait. Evidence: emulated-count. A "
                    "tick is no time."
                ),
                tables=(_table(sheets["Ticks of a whole machine"]),),
            )
        )
    if profile.modelled:
        assumptions = dict.fromkeys(text for one in profile.modelled for text in one.assumptions)
        parts.append(
            Part(
                title="Modelled latency",
                lead=(
                    "A range for each device, computed from the counts and the data sheet of its core. Evidence: "
                    "modelled. "
                    "No figure of it was measured, and none within a range is likelier than another."
                ),
                charts=(modelled_chart(profile.modelled),),
                tables=(
                    _table(sheets["Modelled range of latency"]),
                    Table(
                        rows=tuple((str(i + 1), text) for i, text in enumerate(assumptions)),
                        folded="Assumptions",
                    ),
                ),
            )
        )
    if profile.failures:
        parts.append(Part(title="Not profiled", tables=(_table(sheets["Not profiled"]),)))
    return tuple(parts)


def change_part(changes: Sequence[Change], before: Profile, limit: float) -> Part:
    """Lay out the comparison with a baseline."""
    failing = [change for change in changes if change.fails]
    chart = changes_chart(changes)
    verdict: Verdict = "bad" if failing else "good"
    card = Card("Grew or missing", f"{len(failing)} of {len(changes)}", f"{limit * 100:g} % allowed", verdict)
    return Part(
        title="Against the baseline",
        lead=f"{before.bundle}, profiled on {before.created}.",
        cards=(card,),
        charts=() if chart is None else (chart,),
        tables=(_table(change_sheet(changes, limit)),),
    )


def trace_part(profile: Profile) -> Part | None:
    """Offer the timed calls as a trace that Perfetto and Chrome's viewer open; None where nothing was timed."""
    if not profile.workloads:
        return None
    events: list[dict[str, object]] = []
    for row, workload in enumerate(profile.workloads):
        title = f"{workload.name} {workload.target} on {workload.device}"
        events.append({"ph": "M", "name": "thread_name", "pid": 1, "tid": row, "args": {"name": title}})
        start_us = 0.0
        for number, sample_ms in enumerate(workload.latency.samples_ms[:_MOST_CALLS]):
            steady = number > workload.latency.warm_up_calls
            name = "first call" if number == 0 else "steady" if steady else "warm-up"
            times = {"ts": round(start_us, 3), "dur": round(sample_ms * 1e3, 3)}
            events.append({"ph": "X", "name": name, "pid": 1, "tid": row, **times})
            start_us += sample_ms * 1e3
    text = json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, separators=(",", ":"))
    return Part(
        title="Trace",
        lead=f"The first {_MOST_CALLS} timed calls of each workload, for Perfetto or Chrome's trace viewer.",
        downloads=(Download("trace.json", "Download the trace", text),),
    )


def _table(sheet: Sheet) -> Table:
    numeric = tuple(
        i
        for i in range(len(sheet.columns))
        if all(isinstance(row[i], int | float | None) for row in sheet.rows)
    )
    rows = tuple(tuple(_cell(cell) for cell in row) for row in sheet.rows)
    return Table(rows=rows, header=sheet.columns, title=sheet.title, numeric=numeric)


def _cell(cell: str | float | None) -> str:
    if cell is None:
        return ""
    if isinstance(cell, str):
        return cell
    return f"{cell:,.0f}" if isinstance(cell, int) or (cell.is_integer() and cell >= 1000) else f"{cell:.4g}"
