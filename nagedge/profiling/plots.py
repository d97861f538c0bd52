"""The charts of the reports, each from the data that it shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nagedge.profiling.measure import Distribution
from nagedge.profiling.operators import OperatorTable
from nagedge.profiling.sections import BeforeAfter, Curve
from nagedge.profiling.svg import (
    BAD,
    GOOD,
    INK,
    SERIES,
    SHADE,
    Chart,
    add_legend,
    bare_figure,
    new_figure,
    plain,
    style_axes,
    to_svg,
)  # fmt: skip
from nagedge.profiling.units import milliseconds

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "before_after_chart",
    "curves_chart",
    "distribution_chart",
    "errors_chart",
    "operators_chart",
    "timeline_chart",
]

_DENSE = 60
"""Curves of more points are smoothed."""

_WIDE = 30.0
"""Curves whose largest value is more than so many times the smallest share a logarithmic axis."""

_MANY = 600
"""Beyond so many points a timeline is drawn as a band with its median."""


def timeline_chart(latency: Distribution) -> Chart:
    """Each call's duration in order of time; first call and warm-up shaded."""
    scale, unit = _unit(float(np.median(latency.steady_ms)))
    values = np.array(latency.samples_ms) * scale
    middle = float(np.median(latency.steady_ms)) * scale
    figure, axes = new_figure()
    steady_from = 1 + latency.warm_up_calls
    axes.axvspan(-len(values), steady_from + 0.5, color=SHADE, alpha=0.35, linewidth=0)
    calls = np.arange(1, len(values) + 1)
    if len(values) <= _MANY:
        axes.plot(calls, values, "o", markersize=2.2, color=SERIES[0], markeredgewidth=0, alpha=0.8)
    else:
        _band(axes, calls, values)
    axes.plot(1, values[0], "D", markersize=5, color=SERIES[1], markeredgewidth=0, label="first call")
    axes.axhline(middle, color=INK, linewidth=0.8, linestyle=(0, (4, 3)))
    _latency_scale(axes, values, middle)
    axes.set_xlim(0.5 - 0.015 * len(values), len(values) + 0.5)  # the diamond needs room
    axes.set_xlabel("call")
    axes.set_ylabel(unit)
    if not latency.steady_reached:
        share = f"{latency.warm_up_calls} calls without having settled"
    else:
        share = f"{latency.warm_up_calls} warm-up calls" if latency.warm_up_calls else "no warm-up"
    return Chart(
        title="Every call in order of time",
        svg=to_svg(figure),
        alternative=(
            f"Duration of {len(values)} calls: the first took {milliseconds(latency.first_ms)}, then {share}, "
            f"then {latency.steady_calls} calls around {middle:.3g} {unit}."
        ),
        caption=(
            f"Diamond: first call. Shaded: left out of the figures (first call; {share}). "
            "Dashed: median of the others."
        ),
    )


def _unit(typical_ms: float) -> tuple[float, str]:
    """What to multiply milliseconds with, and the unit that it gives: labels of many zeros cannot be read."""
    return (1e3, "µs") if 0.0 < typical_ms < 0.1 else (1.0, "ms")


def _band(axes: Axes, calls: NDArray[Any], values: NDArray[np.float64]) -> None:
    """The range and the median of consecutive groups."""
    parts = np.array_split(np.arange(len(values)), 200)
    centre = [float(calls[part].mean()) for part in parts]
    low = [float(values[part].min()) for part in parts]
    high = [float(values[part].max()) for part in parts]
    median = [float(np.median(values[part])) for part in parts]
    axes.fill_between(centre, low, high, color=SERIES[0], alpha=0.3, linewidth=0)
    axes.plot(centre, median, color=SERIES[0], linewidth=1.1)


def _latency_scale(axes: Axes, values: NDArray[np.float64], middle: float) -> None:
    """A logarithmic axis where the first call would else flatten the rest; labels in plain numbers."""
    if values.max() > 6 * middle > 0:
        _logarithmic(axes, (1.0, 2.0, 5.0))
        axes.set_ylim(values.min() * 0.8, values.max() * 1.3)
    else:
        axes.set_ylim(0.0, values.max() * 1.1)


def _logarithmic(axes: Axes, digits: tuple[float, ...]) -> None:
    """A logarithmic axis with plain numbers at the multiples ``digits`` of powers of ten."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(base=10, subs=digits, numticks=8))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_locator(NullLocator())


def distribution_chart(latency: Distribution) -> Chart:
    """Histogram of the steady state, with the quantiles that the samples support."""
    scale, unit = _unit(float(np.median(latency.steady_ms)))
    values = np.array(latency.steady_ms) * scale
    inside = values[values <= latency.outliers.fence * scale]
    figure, axes = new_figure()
    bins = int(np.clip(len(np.histogram_bin_edges(inside, "fd")) - 1, 8, 60)) if len(inside) > 1 else 8
    numbers, edges = np.histogram(inside, bins)
    axes.stairs(numbers, edges, fill=True, color=SERIES[0], alpha=0.75, linewidth=0)
    top = float(numbers.max()) * 1.05
    axes.set_ylim(0, top * 1.22)
    everything = [(q.name, q.value * scale) for q in latency.quantiles if q.value is not None]
    limit = float(inside.max())
    known = [(name, value) for name, value in everything if value <= limit]
    for index, (name, value) in enumerate(known):
        height = top * (1.04 + 0.08 * ((len(known) - 1 - index) % 3))
        axes.plot([value, value], [0, height], color=INK, linewidth=1.0, linestyle=(0, (4, 2)))
        axes.annotate(
            name, (value, height), (3, -1), textcoords="offset points", color=INK, fontsize=8, va="center"
        )
    span = limit - float(inside.min())
    axes.set_xlim(float(inside.min()) - 0.03 * span, limit + 0.10 * span if span else limit + 1e-3)
    axes.set_xlabel(unit)
    axes.set_ylabel("calls")
    beyond = len(values) - len(inside)
    words = (
        ", ".join(f"{name} {value:.3g} {unit}" for name, value in everything)
        or "too few calls for a quantile"
    )
    return Chart(
        title="Distribution in the steady state",
        svg=to_svg(figure),
        alternative=f"Histogram of {len(values)} steady-state calls: {words}; {beyond} outliers beyond the axis.",
        caption=_outliers_caption(latency, beyond, [name for name, value in everything if value > limit]),
    )


def _outliers_caption(latency: Distribution, beyond: int, names: Sequence[str]) -> str:
    if not beyond:
        return f"n = {latency.steady_calls}; no outliers."
    caption = (
        f"n = {latency.steady_calls}; {beyond} outliers above {milliseconds(latency.outliers.fence)} are counted in "
        f"every figure but not drawn (largest {milliseconds(latency.outliers.largest)})."
    )
    return f"{caption} Beyond the axis: {', '.join(names)}." if names else caption


def operators_chart(table: OperatorTable, *, most: int = 10) -> Chart:
    """Time by operator type, largest first."""
    rows = table.by_type[:most]
    rest = table.by_type[most:]
    scale, unit = _unit(max((row.total_ms for row in rows), default=0.0))
    names = [row.op_type for row in rows] + ([f"{len(rest)} others"] if rest else [])
    times = [scale * row.total_ms for row in rows]
    times += [scale * sum(row.total_ms for row in rest)] if rest else []
    shares = [row.share for row in rows] + ([sum(row.share for row in rest)] if rest else [])
    figure, axes = new_figure(height=0.55 + 0.235 * len(names))
    axes.barh(names, times, color=SERIES[0], height=0.68, linewidth=0)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for index, (time, share) in enumerate(zip(times, shares, strict=True)):
        text = f"{share * 100:.1f} %"
        axes.annotate(
            text, (time, index), (3, 0), textcoords="offset points", va="center", fontsize=8, color=INK
        )
    axes.set_xlim(0, max(times) * 1.16 or 1.0)
    axes.set_xlabel(f"{unit} a call, traced")
    words = ", ".join(
        f"{name} {share * 100:.0f} %" for name, share in list(zip(names, shares, strict=True))[:5]
    )
    return Chart("Time by operator", to_svg(figure), f"Share of time by operator type: {words}.")


def curves_chart(title: str, curves: Sequence[Curve], *, x_label: str, small: bool = False) -> Chart:
    """Lines in one pair of axes, with a legend when there are several.

    Curves whose labels differ only in a last part in parentheses share a colour and a place in the legend; the later
    ones are dashed, and the caption names both parts. Curves of more than 60 points are drawn faintly with their
    moving average. Several positive curves that differ much are drawn on a logarithmic axis.
    """
    figure, axes = new_figure(1.65, 2.6) if small else new_figure()
    smoothed = 0
    seen: dict[str, str] = {}
    parts: list[str] = []  # in parentheses: of the solid and of the dashed lines
    for curve in curves:
        found = re.fullmatch(r"(.*?)\s*\(([^()]*)\)", curve.label) if len(curves) > 1 else None
        base, part = (found[1], found[2]) if found else (curve.label, "")
        again = base in seen
        colour = seen.setdefault(base, SERIES[len(seen) % len(SERIES)])
        if part not in parts:
            parts.append(part)
        y: Sequence[float] = curve.y
        if len(y) > _DENSE:
            axes.plot(curve.x, y, color=colour, linewidth=0.6, alpha=0.3)
            smoothed = max(smoothed, len(y) // 20)
            y = _moving_average(y, len(y) // 20)
        axes.plot(
            curve.x,
            y,
            linestyle=(0, (3, 2)) if again else "-",
            marker="o" if len(curve.x) <= 12 else "",
            markersize=3,
            linewidth=1.4,
            color=colour,
            label="_again" if again else plain(base),
        )
    values = [value for curve in curves for value in curve.y]
    if len(curves) > 1 and values and 0 < _WIDE * min(values) < max(values) < np.inf:
        _logarithmic(axes, (1.0, 3.0))
    axes.margins(x=0.02)
    axes.set_xlabel(plain(x_label))
    if small:
        axes.locator_params(axis="y", nbins=4)
    _whole_numbers(axes, most=5 if small else 9)
    if len(curves) > 1:
        add_legend(axes)
    captions = []
    if len(parts) == 2 and all(parts):
        captions.append(f"Solid: {parts[0]}. Dashed: {parts[1]}.")
    if smoothed:
        captions.append(f"Strong lines: moving average over {smoothed} values; faint: each value.")
    words = "; ".join(f"{c.label} from {c.y[0]:.3g} to {c.y[-1]:.3g}" for c in curves if c.y)
    return Chart(title, to_svg(figure), f"{title} over {x_label}: {words}.", " ".join(captions))


def _moving_average(values: Sequence[float], width: int) -> Sequence[float]:
    """Centred means over ``width`` values, over fewer at the ends."""
    kernel = np.ones(max(1, width))
    sums = np.convolve(values, kernel, mode="same")
    averages: list[float] = (sums / np.convolve(np.ones(len(values)), kernel, mode="same")).tolist()
    return averages


def errors_chart(curves: Sequence[Curve], *, reference: str) -> Chart:
    """Largest difference over what is allowed, by step, on a logarithmic axis with the tolerance at 1.

    Values of 0 (exact agreement) and infinity cannot be drawn; the caption says so.
    """
    figure, axes = new_figure(height=2.9)
    shown = [value for curve in curves for value in curve.y if 0 < value < np.inf]
    for index, curve in enumerate(curves):
        y = [value if 0 < value < np.inf else np.nan for value in curve.y]
        marker = "o" if len(curve.x) <= 30 else ""
        colour = SERIES[index % len(SERIES)]
        axes.plot(
            curve.x, y, marker=marker, markersize=2.5, linewidth=1.4, color=colour, label=plain(curve.label)
        )
    axes.axhline(1.0, color=BAD, linewidth=1.1, linestyle=(0, (5, 3)), label="tolerance")
    axes.set_yscale("log")
    axes.set_ylim(min([*shown, 1.0]) / 3, max([*shown, 1.0]) * 4)
    axes.margins(x=0.02)
    axes.set_xlabel("step")
    axes.set_ylabel("difference / allowed")
    _whole_numbers(axes)
    add_legend(axes)
    words = "; ".join(f"{curve.label} at most {max(curve.y):.2g}" for curve in curves if curve.y)
    infinite = any(value == np.inf for curve in curves for value in curve.y)
    return Chart(
        f"Difference from {reference} by step",
        to_svg(figure),
        f"Largest difference over what is allowed, tolerance 1: {words}.",
        "The largest difference over what the target's tolerance allows, logarithmic. Exact agreement is not drawn"
        + (", nor are values that are not finite." if infinite else "."),
    )


def _whole_numbers(axes: Axes, most: int = 9) -> None:
    """Steps and epochs have no fractions."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=most, integer=True))


def before_after_chart(results: Sequence[BeforeAfter]) -> Chart:
    """One pair of bars a task and metric, each in its own axes as their units differ."""
    figure = bare_figure(height=0.25 + 0.78 * len(results))
    for index, result in enumerate(results):
        axes = figure.add_subplot(len(results), 1, index + 1)
        style_axes(axes)
        colours = [SERIES[4], GOOD if result.improved else BAD]
        axes.barh(["before", "after"], [result.before, result.after], color=colours, height=0.7, linewidth=0)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.tick_params(axis="both", length=0)
        axes.set_xticks([])
        top = max(abs(result.before), abs(result.after)) or 1.0
        low = min(result.before, result.after, 0.0)
        axes.set_xlim(low * 1.2, top * 1.2)
        for row, value in enumerate((result.before, result.after)):
            text, at = f"{value:.4g} {plain(result.unit)}".strip(), (max(value, 0.0), row)
            axes.annotate(text, at, (4, 0), textcoords="offset points", va="center", fontsize=8.5, color=INK)
        better = "higher is better" if result.higher_is_better else "lower is better"
        axes.set_title(
            f"{plain(result.task)}: {plain(result.metric)} ({better})", loc="left", fontsize=9, color=INK
        )
    words = "; ".join(
        f"{r.task} {r.metric} from {r.before:.4g} to {r.after:.4g} {r.unit}".strip() for r in results
    )
    return Chart(
        "Before and after",
        to_svg(figure),
        f"Metrics before and after fine-tuning: {words}.",
        tall=len(results) > 4,
    )
