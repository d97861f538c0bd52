"""A profile and what changed as plain tables, and those as Markdown: for terminals and pull requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nagedge.profiling.gate import Change
from nagedge.profiling.results import Profile

__all__ = ["Sheet", "change_sheet", "profile_sheets", "to_markdown"]

Cell = str | int | float | None


@dataclass(frozen=True)
class Sheet:
    """One table: a title, names of columns, and rows of cells; ``None`` is a cell without a figure."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]


def profile_sheets(profile: Profile) -> tuple[Sheet, ...]:
    """Return one table a class of evidence, and one of what could not be had; only those that have rows."""
    sheets = (
        _latencies(profile),
        _attached(profile),
        _counts(profile),
        _systems(profile),
        _modelled(profile),
        _failures(profile),
    )
    return tuple(sheet for sheet in sheets if sheet.rows)


def _latencies(profile: Profile) -> Sheet:
    rows = []
    for workload in profile.workloads:
        latency = workload.latency
        found = {quantile.name: quantile.value for quantile in latency.quantiles}
        memory = None if workload.memory is None else workload.memory.step_bytes / 2**20
        rows.append(
            (
                workload.name, workload.device, workload.target, workload.runtime, workload.threads, workload.batch,
                latency.first_ms, latency.warm_up_calls, latency.steady_calls,
                *(found.get(name) for name in ("p50", "p90", "p99")), memory,
            )
        )  # fmt: skip
    evidence = ", ".join(dict.fromkeys(workload.evidence for workload in profile.workloads))
    columns = (
        "what", "device", "target", "runtime", "threads", "batch", "first_ms", "warm-up", "n", "p50_ms", "p90_ms",
        "p99_ms", "step_mib",
    )  # fmt: skip
    attached = [workload.device.startswith("adb:") for workload in profile.workloads]
    where = [] if all(attached) else [profile.host.cpu_model]
    where += ["attached devices"] if any(attached) else []
    return Sheet(f"Latency on {' and '.join(where)} (evidence: {evidence})", columns, tuple(rows))


def _attached(profile: Profile) -> Sheet:
    rows = []
    for workload in profile.workloads:
        run = workload.device_run
        if run is None:
            continue
        seen = [reading.conditions for reading in run.readings]
        heat = [one.temperature_c for one in seen if one.temperature_c is not None]
        charge = [one.battery_percent for one in seen if one.battery_percent is not None]
        status = [one.thermal_status for one in seen if one.thermal_status is not None]
        rows.append(
            (
                workload.name, workload.device, run.program, run.cores, run.rounds, run.rounds_throttled,
                run.calls_throttled, heat[0] if heat else None, max(heat, default=None), max(status, default=None),
                charge[0] if charge else None, charge[-1] if charge else None, run.ended or run.why_throttled,
                workload.target, run.machine or None,
            )
        )  # fmt: skip
    columns = (
        "what", "device", "run by", "cores", "rounds", "throttled rounds", "throttled calls", "before_C", "most_C",
        "thermal status", "battery_%", "battery after_%", "remark", "target", "machine",
    )  # fmt: skip
    return Sheet(
        "Attached devices, before, during and after (throttled calls do not count)", columns, tuple(rows)
    )


def _counts(profile: Profile) -> Sheet:
    rows = []
    for count in profile.counts:
        traffic = count.traffic
        excess = count.parity.excess
        agrees = "yes" if count.parity.within_tolerance else "NO"
        rows.append(
            (
                count.name, count.device.removeprefix("emulated:"), count.target, count.batch,
                count.median.instructions, count.median.multiply_adds,
                count.median.vector + count.median.multiply_add + count.median.dot,
                None if traffic is None else traffic.read_bytes,
                None if traffic is None else traffic.written_bytes, count.first.instructions,
                (count.highest - count.lowest) / max(1, count.median.instructions) * 100,
                f"{agrees}, {'not finite' if excess is None else f'{excess:.2g}'} of what is allowed",
            )
        )  # fmt: skip
    columns = (
        "what", "core", "target", "batch", "instructions", "multiply-adds", "vector", "bytes read", "bytes written",
        "first call", "spread_%", "agrees with the host",
    )  # fmt: skip
    return Sheet("Instructions of a call (evidence: emulated-count)", columns, tuple(rows))


def _systems(profile: Profile) -> Sheet:
    rows = tuple(
        (
            one.name, one.device.partition(":")[2], one.target, one.runtime, one.threads, one.batch, one.median_ticks,
            one.lowest_ticks, one.highest_ticks, one.first_ticks, "yes" if one.parity.within_tolerance else "NO",
        )
        for one in profile.systems
    )  # fmt: skip
    columns = (
        "what", "cores", "target", "runtime", "threads", "batch", "ticks", "lowest", "highest", "first call",
        "agrees with the host",
    )  # fmt: skip
    return Sheet("Ticks of a whole machine (evidence: emulated-count)", columns, rows)


def _modelled(profile: Profile) -> Sheet:
    rows = tuple(
        (one.name, one.title, one.target, one.core, one.low_ms, one.high_ms, one.bound_by)
        for one in profile.modelled
    )
    columns = ("what", "device", "target", "counted on", "from_ms", "to_ms", "fast end bound by")
    return Sheet("Modelled range of latency (evidence: modelled, measured on no device)", columns, rows)


def _failures(profile: Profile) -> Sheet:
    rows = tuple((one.name, one.device, one.target, one.reason) for one in profile.failures)
    return Sheet("Not profiled", ("what", "device", "target", "reason"), rows)


def change_sheet(changes: Sequence[Change], limit: float) -> Sheet:
    """Return what changed, what fails first."""
    rows = []
    for change in sorted(changes, key=lambda one: not one.fails):
        ratio = change.ratio
        relative = None if ratio is None else f"{(ratio.value - 1) * 100:+.2f} %"
        interval = ""
        if ratio is not None and ratio.low != ratio.high:
            interval = f"{(ratio.low - 1) * 100:+.1f} to {(ratio.high - 1) * 100:+.1f} %"
        rows.append(
            (
                change.verdict, change.name, change.device, change.target, change.figure, change.before,
                change.after, relative, interval, change.note,
            )
        )  # fmt: skip
    columns = (
        "verdict",
        "what",
        "device",
        "target",
        "figure",
        "before",
        "after",
        "change",
        "95 % interval",
        "note",
    )
    return Sheet(f"Against the baseline, {limit * 100:g} % allowed", columns, tuple(rows))


def to_markdown(sheets: Sequence[Sheet]) -> str:
    """Return the tables as Markdown (GitHub's); text is escaped."""
    parts = []
    for sheet in sheets:
        lines = [f"### {sheet.title}", "", "| " + " | ".join(sheet.columns) + " |"]
        numeric = [
            bool(sheet.rows) and all(isinstance(row[i], int | float | None) for row in sheet.rows)
            for i in range(len(sheet.columns))
        ]
        lines.append("|" + "|".join("---:" if flush else "---" for flush in numeric) + "|")
        lines += ["| " + " | ".join(_text(cell) for cell in row) + " |" for row in sheet.rows]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _text(cell: Cell) -> str:
    if cell is None:
        return ""
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if cell.is_integer() and cell >= 1000 else f"{cell:.4g}"
    escaped = cell.replace("\\", "\\\\").replace("|", "\\|").replace("\n", " ")
    return escaped.replace("<", "&lt;").replace(">", "&gt;")
