"""From a profile to what the page shows of it."""

from __future__ import annotations

from nagedge.profiling.measure import Distribution
from nagedge.profiling.memory import MemoryPeak
from nagedge.profiling.memory_plot import memory_chart
from nagedge.profiling.operators import OperatorTable
from nagedge.profiling.parts import Part, Table
from nagedge.profiling.plots import (
    distribution_chart,
    operators_chart,
    timeline_chart,
)
from nagedge.profiling.results import Profile, WorkloadProfile
from nagedge.profiling.sections import Card
from nagedge.profiling.units import milliseconds, size

__all__ = ["environment_part", "workload_part"]

_TITLES = {"infer": "Inference latency", "train": "Training step latency"}


def workload_part(workload: WorkloadProfile, *, one_of_several: bool = False) -> Part:
    """Lay out what one artifact costs; one of several has its target in the title."""
    latency = workload.latency
    median = latency.quantile(0.5)
    cards = [_quantile_card(latency, index) for index in range(len(latency.quantiles))]
    cards.append(
        Card("First call", milliseconds(latency.first_ms), f"loading: {milliseconds(workload.load_ms)}")
    )
    if median.value:
        rate = 1000.0 * workload.batch / median.value
        cards.append(Card("Throughput", f"{rate:,.0f} / s", f"examples at p50, batch {workload.batch}"))
    if workload.memory is not None:
        cards.append(_memory_card(workload.memory))
    charts = [timeline_chart(latency), distribution_chart(latency)]
    tables = [_latency_table(latency), _method_table(workload)]
    if workload.operators is not None:
        charts.append(operators_chart(workload.operators))
        tables.append(_node_table(workload.operators))
    if workload.memory is not None and workload.memory.timeline is not None:
        charts.append(memory_chart(workload.memory, workload.memory.timeline))
    title = _TITLES.get(workload.name, workload.name)
    threads = "one thread" if workload.threads == 1 else f"{workload.threads} threads"
    return Part(
        title=(title if workload.device == "host" else f"{title} on {workload.device}")
        + (f": {workload.target}" if one_of_several else ""),
        lead=(
            f"{workload.artifact} ({workload.target}) on {workload.runtime}, batch {workload.batch}, {threads}. "
            f"Evidence: {workload.evidence}."
        ),
        notes=workload.notes,
        cards=tuple(cards),
        charts=tuple(charts),
        tables=tuple(tables),
    )


def _quantile_card(latency: Distribution, index: int) -> Card:
    quantile = latency.quantiles[index]
    if quantile.value is None or quantile.low is None or quantile.high is None:
        return Card(
            quantile.name, "not reported", f"{quantile.samples} calls; it needs {quantile.samples_needed}"
        )
    interval = f"{milliseconds(quantile.low)} to {milliseconds(quantile.high)} (95 %), n = {quantile.samples}"
    return Card(quantile.name, milliseconds(quantile.value), interval)


def _memory_card(memory: MemoryPeak) -> Card:
    sign = "≥ " if memory.lower_bound else ""
    detail = f"above the loaded session ({size(memory.loaded_bytes)})"
    return Card("Peak memory of a step", sign + size(memory.step_bytes), detail)


def _latency_table(latency: Distribution) -> Table:
    drift, modes, outliers = latency.drift, latency.modes, latency.outliers
    rows = [
        (
            "Warm-up",
            f"{latency.warm_up_calls} calls, {milliseconds(latency.warm_up_total_ms)} in all"
            if latency.warm_up_calls
            else "none found after the first call",
        ),
        (
            "Steady state",
            f"{latency.steady_calls} calls" + ("" if latency.steady_reached else " (not settled)"),
        ),
        (
            "Mean, standard deviation",
            f"{milliseconds(latency.mean_ms)}, {milliseconds(latency.standard_deviation_ms)}",
        ),
        ("Fastest, slowest", f"{milliseconds(latency.min_ms)}, {milliseconds(latency.max_ms)}"),
        ("Outliers", f"{outliers.count} above {milliseconds(outliers.fence)}; none removed"),
        (
            "Trend",
            f"{drift.relative_change * 100:+.1f} % over the run"
            + ("" if drift.detected else ", not significant"),
        ),
        (
            "Modes",
            f"two: {milliseconds(modes.low)} and {milliseconds(modes.high)}, {modes.share_high:.0%} in the slower"
            if modes.bimodal
            else "one",
        ),
    ]
    if latency.involuntary_switches is not None:
        rows.append(("Involuntary context switches", str(latency.involuntary_switches)))
    return Table(rows=tuple(rows), title="The timed run", beside=True)


def _method_table(workload: WorkloadProfile) -> Table:
    latency = workload.latency
    rows = [
        ("Warm-up", latency.warm_up_method),
        ("Intervals", latency.interval_method),
        ("Outliers", "beyond Tukey's outer fence"),
        ("Trend", f"Mann-Kendall test (here z = {latency.drift.z:.1f}) and Theil-Sen slope"),
        ("Length of the run", f"ended by the {latency.stopped_by} ({latency.budget_s:g} s allowed)"),
    ]
    if workload.memory is not None:
        memory = workload.memory
        rows.append(("Memory", f"{memory.method}; {memory.steps} steps in a fresh process"))
    return Table(rows=tuple(rows), folded="How these figures were found")


def _node_table(table: OperatorTable, most: int = 25) -> Table:
    rows = tuple(
        (
            row.node or "(unnamed)",
            row.op_type,
            f"{row.calls:g}",
            f"{row.total_ms:.3f}",
            f"{row.share * 100:.1f} %",
        )
        for row in table.by_node[:most]
    )
    left = len(table.by_node) - len(rows)
    return Table(
        rows=rows,
        header=("Node", "Operator", "Calls", "ms a call", "Share"),
        numeric=(2, 3, 4),
        folded=f"The {len(rows)} slowest of {len(table.by_node)} nodes" if left else f"All {len(rows)} nodes",
        note=(
            f"Interquartile means of {table.steps} traced calls of {table.step_ms:.3g} ms, {table.kernels_ms:.3g} ms "
            "of them inside operators. Tracing slows a call down, so these come from a run of their own."
        ),
    )


def environment_part(profile: Profile) -> Part:
    """Lay out the machine and the versions."""
    host = profile.host
    cores = f"{host.logical_cores} logical"
    if host.usable_cores != host.logical_cores:
        cores += f", {host.usable_cores} usable"
    rows = [
        ("Bundle", profile.bundle),
        ("Targets", ", ".join(profile.targets)),
        ("Processor", f"{host.cpu_model} ({host.architecture})"),
        ("Cores", cores),
        ("Memory", size(host.memory_bytes) if host.memory_bytes is not None else "unknown"),
        ("Operating system", f"{host.os_name}, {host.os_version}"),
        ("Virtual machine", {True: "yes", False: "no", None: "unknown"}[host.virtual_machine]),
        ("Clock governor", host.governor or "not readable"),
        ("Load average before", f"{host.load_average:g}" if host.load_average is not None else "unknown"),
    ]
    if host.max_frequency_mhz is not None:
        rows.insert(4, ("Highest clock", f"{host.max_frequency_mhz:,.0f} MHz"))
    rows += [(version.name, version.version) for version in profile.versions]
    return Part(title="Environment", tables=(Table(rows=tuple(rows)),))
