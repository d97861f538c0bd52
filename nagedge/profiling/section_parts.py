"""From sections and profiles to what the page shows: cards, charts and tables, ready to print."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nagedge.profiling.measure import Distribution
from nagedge.profiling.memory import MemoryPeak
from nagedge.profiling.operators import OperatorTable
from nagedge.profiling.plots import (
    Chart,
    before_after_chart,
    curves_chart,
    distribution_chart,
    errors_chart,
    operators_chart,
    timeline_chart,
)
from nagedge.profiling.results import Profile, WorkloadProfile
from nagedge.profiling.sections import (
    BeforeAfter,
    Card,
    ComparisonLike,
    Curve,
    FineTuningSection,
    Section,
    TrainingSection,
    Verdict,
    VerificationSection,
)

__all__ = ["Page", "Part", "Table", "environment_part", "section_part", "workload_part"]

_TITLES = {"infer": "Inference latency", "train": "Training step latency"}


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


def section_part(section: Section) -> Part:
    """Lay out a section."""
    if isinstance(section, TrainingSection):
        return _training(section)
    if isinstance(section, VerificationSection):
        return _verification(section)
    if isinstance(section, FineTuningSection):
        return _fine_tuning(section)
    tables = (Table(rows=section.rows, header=section.header),) if section.rows else ()
    return Part(title=section.title, lead=section.lead, cards=section.cards, tables=tables)


def _training(section: TrainingSection) -> Part:
    charts = [curves_chart("Loss", section.losses, x_label=section.x_label)] if section.losses else []
    metrics = [
        curves_chart(curve.label, [curve], x_label=section.x_label, small=True) for curve in section.metrics
    ]
    facts = tuple((fact.name, fact.value) for fact in section.facts)
    return Part(
        title=section.title,
        lead=section.lead,
        cards=section.cards,
        charts=tuple(charts),
        small_charts=tuple(metrics),
        tables=(Table(rows=facts),) if facts else (),
    )


def _verification(section: VerificationSection) -> Part:
    comparisons = list(section.comparisons)
    if not comparisons:
        return Part(title=section.title, lead=section.lead, notes=("Nothing was compared.",))
    failures = [item for item in comparisons if not item.within_tolerance]
    tensors = {item.tensor for item in comparisons}
    steps = {item.step for item in comparisons if item.step}
    targets = {item.target for item in comparisons}
    first_failures: dict[tuple[str, str], ComparisonLike] = {}
    # What goes wrong first is the cause of what follows; what agrees is listed by how little it does.
    for item in sorted(
        comparisons, key=lambda c: (c.within_tolerance, 0 if c.within_tolerance else c.step, -c.excess)
    ):
        first_failures.setdefault((item.target, item.tensor), item)
    listed = list(first_failures.values())[: section.worst]
    rows = tuple(
        (
            f"{item.tensor} ({item.target})" if len(targets) > 1 else item.tensor,
            str(item.step) if item.step else "inference",
            f"{item.max_abs:.2e}",
            f"{item.max_rel:.2e}",
            f"{item.excess:.3f}",
            "yes" if item.within_tolerance else "NO",
        )
        for item in listed
    )
    worst = listed[0]
    where = f"step {worst.step}" if worst.step else "inference"
    verdict: Verdict = "bad" if failures else "good"
    cards = (
        Card(
            "Within tolerance",
            f"{len(comparisons) - len(failures):,} of {len(comparisons):,}",
            f"{len(tensors):,} tensors, {len(steps):,} steps",
            verdict,
        ),
        Card(
            "Furthest off" if failures else "Nearest to its tolerance",
            f"{worst.excess:.2g} of it",
            f"{worst.tensor}, {where}",
        ),
        Card(
            "Tolerance",
            f"{worst.atol:.0e} + {worst.rtol:.0e} · max|x|",
            "absolute + relative, of that tensor",
        ),
        Card("Compared", section.runtime, f"against {section.reference}"),
    )
    header = ("Tensor", "Step", "Max. absolute", "Max. relative", "Difference / allowed", "Within")
    curves = _excess_by_step(comparisons)
    return Part(
        title=section.title,
        lead=section.lead,
        cards=cards,
        charts=(errors_chart(curves, reference=section.reference),) if curves else (),
        tables=(
            Table(rows=rows, header=header, title="The most telling tensors first", numeric=(1, 2, 3, 4)),
        ),
    )


def _excess_by_step(comparisons: Sequence[ComparisonLike]) -> list[Curve]:
    """The largest excess of each group of tensors at each training step."""
    names = {"loss": "losses", "params": "parameters", "momentum": "momentum buffers", "buffers": "buffers"}
    groups: dict[str, dict[int, float]] = {name: {} for name in names.values()}
    for item in comparisons:
        name = names.get(item.tensor.split(".", 1)[0])
        if name is not None and item.step:
            groups[name][item.step] = max(groups[name].get(item.step, 0.0), item.excess)
    return [
        Curve(
            name, tuple(float(step) for step in sorted(found)), tuple(found[step] for step in sorted(found))
        )
        for name, found in groups.items()
        if found
    ]


def _fine_tuning(section: FineTuningSection) -> Part:
    firsts: dict[str, BeforeAfter] = {}
    for result in section.results:
        firsts.setdefault(result.task, result)
    cards = tuple(
        Card(
            f"{result.task}: {result.metric}",
            f"{result.after:.4g} {result.unit}".strip(),
            f"before: {result.before:.4g} {result.unit}".strip(),
            "good" if result.improved else "bad",
        )
        for result in firsts.values()
    )
    charts = [before_after_chart(section.results)] if section.results else []
    if section.losses:
        charts.append(curves_chart("Loss while fine-tuning", section.losses, x_label=section.x_label))
    facts = tuple((fact.name, fact.value) for fact in section.facts)
    return Part(
        title=section.title,
        lead=section.lead,
        cards=cards,
        charts=tuple(charts),
        tables=(Table(rows=facts),) if facts else (),
    )


def workload_part(profile: Profile, workload: WorkloadProfile) -> Part:
    """Lay out what one artifact costs."""
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
    tables = [_latency_table(workload)]
    if workload.operators is not None:
        charts.append(operators_chart(workload.operators))
        tables.append(_node_table(workload.operators))
    title = _TITLES.get(workload.name, workload.name)
    threads = "one thread" if workload.threads == 1 else f"{workload.threads} threads"
    return Part(
        title=title if profile.device == "host" else f"{title} on {profile.device}",
        lead=(
            f"{workload.artifact} on {workload.runtime}, batch {workload.batch}, {threads}. "
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


def _latency_table(workload: WorkloadProfile) -> Table:
    latency = workload.latency
    drift, modes, outliers = latency.drift, latency.modes, latency.outliers
    rows = [
        ("First call", milliseconds(latency.first_ms)),
        (
            "Warm-up",
            f"{latency.warm_up_calls} calls, {milliseconds(latency.warm_up_total_ms)} in all"
            if latency.warm_up_calls
            else "none found after the first call",
        ),
        ("How warm-up was found", latency.warm_up_method),
        (
            "Steady state",
            f"{latency.steady_calls} calls" + ("" if latency.steady_reached else " (not settled)"),
        ),
        (
            "Mean, standard deviation",
            f"{milliseconds(latency.mean_ms)}, {milliseconds(latency.standard_deviation_ms)}",
        ),
        ("Fastest, slowest", f"{milliseconds(latency.min_ms)}, {milliseconds(latency.max_ms)}"),
        ("Intervals", latency.interval_method),
        (
            "Outliers",
            f"{outliers.count} above {milliseconds(outliers.fence)} (Tukey's outer fence); none removed",
        ),
        (
            "Trend",
            f"{drift.relative_change * 100:+.1f} % over the run (Mann-Kendall z = {drift.z:.1f})"
            + ("" if drift.detected else ", not significant"),
        ),
        (
            "Modes",
            f"two: {milliseconds(modes.low)} and {milliseconds(modes.high)}, {modes.share_high:.0%} in the slower"
            if modes.bimodal
            else "one",
        ),
        ("Ended by", f"{latency.stopped_by} ({latency.budget_s:g} s allowed)"),
    ]
    if latency.involuntary_switches is not None:
        rows.append(("Times the system took the core away", str(latency.involuntary_switches)))
    if workload.memory is not None:
        memory = workload.memory
        rows.append(("How memory was measured", f"{memory.method}; {memory.steps} steps in a fresh process"))
    return Table(rows=tuple(rows), folded="All figures of the timed run")


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
            f"Means of {table.steps} traced calls of {table.step_ms:.3g} ms, {table.kernels_ms:.3g} ms of them inside "
            "operators. Tracing slows a call down, so these come from a run of their own."
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
        ("Target", profile.target),
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


def milliseconds(value: float) -> str:
    """Three significant figures with the unit: ``"46.3 µs"``, ``"0.123 ms"``, ``"12.3 ms"``, ``"1.23 s"``."""
    if 0.0 < value < 0.1:
        return f"{value * 1000.0:.3g} µs"
    if value >= 1000.0:
        return f"{value / 1000.0:.3g} s" if value < 1e6 else f"{value / 1000.0:,.0f} s"
    return f"{value:.3g} ms"


def size(value: int) -> str:
    """Binary units with three significant figures: ``"512 B"``, ``"1.5 KiB"``, ``"23.1 GiB"``."""
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1000.0 or unit == "GiB":
            return f"{amount:.3g} {unit}"
        amount /= 1024.0
    raise AssertionError
