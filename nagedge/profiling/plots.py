"""Charts as inline SVG: no script, no file, the page's own colours in light and dark.

Drawn with :class:`matplotlib.figure.Figure` (never pyplot, which keeps global state). The figures are drawn in
marker colours which are then replaced by CSS variables, so that one drawing follows the reader's colour scheme.
Text stays text, and equal data give equal bytes.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nagedge.profiling.measure import Distribution
from nagedge.profiling.operators import OperatorTable
from nagedge.profiling.sections import BeforeAfter, Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "Chart",
    "before_after_chart",
    "curves_chart",
    "distribution_chart",
    "errors_chart",
    "numbered",
    "operators_chart",
    "timeline_chart",
]

# Marker colours: never seen, each stands for a CSS variable of the template.
_INK, _LINE, _SHADE = "#010203", "#010204", "#010205"
_SERIES = tuple(f"#0102{16 + index:02x}" for index in range(6))
_GOOD, _BAD = "#010220", "#010221"
_VARIABLES = {_INK: "--ink-soft", _LINE: "--line", _SHADE: "--warm", _GOOD: "--good", _BAD: "--bad"} | {
    colour: f"--series-{index + 1}" for index, colour in enumerate(_SERIES)
}

_DENSE = 60
"""Curves of more points are smoothed."""

_MANY = 400
"""Beyond so many points a timeline is drawn as a band with its median."""


@dataclass(frozen=True)
class Chart:
    """One chart.

    Args:
        title: above it. svg: inline markup. alternative: what it shows, in words, for readers who do not see it.
        caption: beneath it.
    """

    title: str
    svg: str
    alternative: str
    caption: str = ""


def timeline_chart(latency: Distribution) -> Chart:
    """Each call's duration in order of time; first call and warm-up shaded."""
    values = np.array(latency.samples_ms)
    middle = float(np.median(latency.steady_ms))
    figure, axes = _figure()
    steady_from = 1 + latency.warm_up_calls
    axes.axvspan(-len(values), steady_from + 0.5, color=_SHADE, alpha=0.35, linewidth=0)
    calls = np.arange(1, len(values) + 1)
    if len(values) <= _MANY:
        axes.plot(calls, values, "o", markersize=2.2, color=_SERIES[0], markeredgewidth=0, alpha=0.8)
    else:
        _band(axes, calls, values)
    axes.plot(1, values[0], "D", markersize=5, color=_SERIES[1], markeredgewidth=0, label="first call")
    axes.axhline(middle, color=_INK, linewidth=0.8, linestyle=(0, (4, 3)))
    _latency_scale(axes, values, middle)
    axes.set_xlim(0.5 - 0.015 * len(values), len(values) + 0.5)  # the diamond needs room
    axes.set_xlabel("call")
    axes.set_ylabel("ms")
    if not latency.steady_reached:
        share = f"{latency.warm_up_calls} calls without having settled"
    else:
        share = f"{latency.warm_up_calls} warm-up calls" if latency.warm_up_calls else "no warm-up"
    return Chart(
        title="Every call in order of time",
        svg=_svg(figure),
        alternative=(
            f"Duration of {len(values)} calls: the first took {latency.first_ms:.3g} ms, then {share}, then "
            f"{latency.steady_calls} calls around {middle:.3g} ms."
        ),
        caption=(
            f"Diamond: first call. Shaded: what the figures leave out: the first call and {share}. "
            "Dashed: median of the others."
        ),
    )


def _band(axes: Axes, calls: NDArray[Any], values: NDArray[np.float64]) -> None:
    """The range and the median of consecutive groups."""
    parts = np.array_split(np.arange(len(values)), 200)
    centre = [float(calls[part].mean()) for part in parts]
    low = [float(values[part].min()) for part in parts]
    high = [float(values[part].max()) for part in parts]
    median = [float(np.median(values[part])) for part in parts]
    axes.fill_between(centre, low, high, color=_SERIES[0], alpha=0.3, linewidth=0)
    axes.plot(centre, median, color=_SERIES[0], linewidth=1.1)


def _latency_scale(axes: Axes, values: NDArray[np.float64], middle: float) -> None:
    """A logarithmic axis where the first call would else flatten the rest; labels in plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if values.max() > 6 * middle > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(base=10, subs=(1.0, 2.0, 5.0), numticks=8))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(values.min() * 0.8, values.max() * 1.3)
    else:
        axes.set_ylim(0.0, values.max() * 1.1)


def distribution_chart(latency: Distribution) -> Chart:
    """Histogram of the steady state, with the quantiles that the samples support."""
    values = np.array(latency.steady_ms)
    inside = values[values <= latency.outliers.fence]
    figure, axes = _figure()
    bins = int(np.clip(len(np.histogram_bin_edges(inside, "fd")) - 1, 8, 60)) if len(inside) > 1 else 8
    axes.hist(inside, bins=bins, color=_SERIES[0], alpha=0.75, linewidth=0)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top * 1.22)
    everything = [(q.name, q.value) for q in latency.quantiles if q.value is not None]
    limit = float(inside.max())
    known = [(name, value) for name, value in everything if value <= limit]
    for index, (name, value) in enumerate(known):
        height = top * (1.04 + 0.08 * ((len(known) - 1 - index) % 3))
        axes.plot([value, value], [0, height], color=_INK, linewidth=1.0, linestyle=(0, (4, 2)))
        axes.annotate(
            name, (value, height), (3, -1), textcoords="offset points", color=_INK, fontsize=8, va="center"
        )
    span = limit - float(inside.min())
    axes.set_xlim(float(inside.min()) - 0.03 * span, limit + 0.10 * span if span else limit + 1e-3)
    axes.set_xlabel("ms")
    axes.set_ylabel("calls")
    beyond = len(values) - len(inside)
    words = (
        ", ".join(f"{name} {value:.3g} ms" for name, value in everything) or "too few calls for a quantile"
    )
    return Chart(
        title="Distribution in the steady state",
        svg=_svg(figure),
        alternative=f"Histogram of {len(values)} steady-state calls: {words}; {beyond} outliers beyond the axis.",
        caption=_outliers_caption(latency, beyond, [name for name, value in everything if value > limit]),
    )


def _outliers_caption(latency: Distribution, beyond: int, names: Sequence[str]) -> str:
    if not beyond:
        return f"n = {latency.steady_calls}; no outliers."
    caption = (
        f"n = {latency.steady_calls}; {beyond} outliers above {latency.outliers.fence:.3g} ms are counted in "
        f"every figure but not drawn (largest {latency.outliers.largest:.3g} ms)."
    )
    return f"{caption} Beyond the axis: {', '.join(names)}." if names else caption


def operators_chart(table: OperatorTable, *, most: int = 10) -> Chart:
    """Time by operator type, largest first."""
    rows = table.by_type[:most]
    rest = table.by_type[most:]
    names = [row.op_type for row in rows] + ([f"{len(rest)} others"] if rest else [])
    times = [row.total_ms for row in rows] + ([sum(row.total_ms for row in rest)] if rest else [])
    shares = [row.share for row in rows] + ([sum(row.share for row in rest)] if rest else [])
    figure, axes = _figure(height=0.55 + 0.235 * len(names))
    axes.barh(names, times, color=_SERIES[0], height=0.68, linewidth=0)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    for index, (time, share) in enumerate(zip(times, shares, strict=True)):
        text = f"{share * 100:.1f} %"
        axes.annotate(
            text, (time, index), (3, 0), textcoords="offset points", va="center", fontsize=8, color=_INK
        )
    axes.set_xlim(0, max(times) * 1.16 or 1.0)
    axes.set_xlabel("ms a call, traced")
    words = ", ".join(
        f"{name} {share * 100:.0f} %" for name, share in list(zip(names, shares, strict=True))[:5]
    )
    return Chart("Time by operator", _svg(figure), f"Share of time by operator type: {words}.")


def curves_chart(title: str, curves: Sequence[Curve], *, x_label: str, small: bool = False) -> Chart:
    """Lines in one pair of axes, with a legend when there are several.

    Curves whose labels differ only in a last part in parentheses share a colour; the later ones are dashed. Curves of
    more than 60 points are drawn faintly with their moving average.
    """
    figure, axes = _figure(2.3, 3.6) if small else _figure(2.7 + 0.17 * (max(0, len(curves) - 1) // 2))
    smoothed = 0
    seen: dict[str, int] = {}
    for curve in curves:
        base = re.sub(r"\s*\([^()]*\)$", "", curve.label) if len(curves) > 1 else curve.label
        again = base in seen
        colour = _SERIES[seen.setdefault(base, len(seen)) % len(_SERIES)]
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
            label=_plain(curve.label),
        )
    axes.margins(x=0.02)
    axes.set_xlabel(_plain(x_label))
    _whole_numbers(axes)
    if len(curves) > 1:
        _legend(axes)
    words = "; ".join(f"{c.label} from {c.y[0]:.3g} to {c.y[-1]:.3g}" for c in curves if c.y)
    caption = f"Strong lines: moving average over {smoothed} values; faint: each value." if smoothed else ""
    return Chart(title, _svg(figure), f"{title} over {x_label}: {words}.", caption)


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
    figure, axes = _figure(height=2.9)
    shown = [value for curve in curves for value in curve.y if 0 < value < np.inf]
    for index, curve in enumerate(curves):
        y = [value if 0 < value < np.inf else np.nan for value in curve.y]
        marker = "o" if len(curve.x) <= 30 else ""
        colour = _SERIES[index % len(_SERIES)]
        axes.plot(
            curve.x, y, marker=marker, markersize=2.5, linewidth=1.4, color=colour, label=_plain(curve.label)
        )
    axes.axhline(1.0, color=_BAD, linewidth=1.1, linestyle=(0, (5, 3)), label="tolerance")
    axes.set_yscale("log")
    axes.set_ylim(min([*shown, 1.0]) / 3, max([*shown, 1.0]) * 4)
    axes.margins(x=0.02)
    axes.set_xlabel("step")
    axes.set_ylabel("difference / allowed")
    _whole_numbers(axes)
    _legend(axes)
    words = "; ".join(f"{curve.label} at most {max(curve.y):.2g}" for curve in curves if curve.y)
    infinite = any(value == np.inf for curve in curves for value in curve.y)
    return Chart(
        f"Difference from {reference} by step",
        _svg(figure),
        f"Largest difference over what is allowed, tolerance 1: {words}.",
        "The largest difference over what the target's tolerance allows, logarithmic. Exact agreement is not drawn"
        + (", nor are values that are not finite." if infinite else "."),
    )


def _whole_numbers(axes: Axes) -> None:
    """Steps and epochs have no fractions."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def before_after_chart(results: Sequence[BeforeAfter]) -> Chart:
    """One pair of bars a task and metric, each in its own axes as their units differ."""
    figure = _bare_figure(height=0.25 + 0.78 * len(results))
    for index, result in enumerate(results):
        axes = figure.add_subplot(len(results), 1, index + 1)
        _style(axes)
        colours = [_SERIES[4], _GOOD if result.improved else _BAD]
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
            text, at = f"{value:.4g} {_plain(result.unit)}".strip(), (max(value, 0.0), row)
            axes.annotate(text, at, (4, 0), textcoords="offset points", va="center", fontsize=8.5, color=_INK)
        better = "higher is better" if result.higher_is_better else "lower is better"
        axes.set_title(
            f"{_plain(result.task)}: {_plain(result.metric)} ({better})", loc="left", fontsize=9, color=_INK
        )
    words = "; ".join(
        f"{r.task} {r.metric} from {r.before:.4g} to {r.after:.4g} {r.unit}".strip() for r in results
    )
    return Chart("Before and after", _svg(figure), f"Metrics before and after fine-tuning: {words}.")


def _plain(text: str) -> str:
    """Text that matplotlib must not read as mathematics."""
    return text.replace("$", r"\$")


def _bare_figure(height: float, width: float = 5.4) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _figure(height: float = 2.7, width: float = 5.4) -> tuple[Figure, Axes]:
    figure = _bare_figure(height, width)
    axes = figure.add_subplot()
    _style(axes)
    return figure, axes


def _style(axes: Axes) -> None:
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.patch.set_alpha(0.0)
    axes.patch.set_alpha(0.0)
    axes.grid(visible=True, color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(_LINE)
    axes.tick_params(which="both", colors=_INK, labelsize=8.5, color=_LINE)
    axes.xaxis.label.set(color=_INK, fontsize=8.5)
    axes.yaxis.label.set(color=_INK, fontsize=8.5)


def _legend(axes: Axes) -> None:
    columns = min(3, len(axes.get_lines()))
    axes.figure.legend(loc="outside upper left", frameon=False, fontsize=8.5, labelcolor=_INK, ncols=columns)


def numbered(chart: Chart, number: int) -> Chart:
    """The chart with identifiers of its own, so that any number of charts can share a page."""

    def mark(found: re.Match[str]) -> str:
        return f"{found[1]}c{number}-{found[2]}"

    # Inside tags only: a label of the user's may look like an identifier.
    svg = re.sub(
        r"<[^>]*>",
        lambda tag: re.sub(r'( id="| href="#|url\(#)([\w.]+)', mark, tag[0]),
        chart.svg,
    )
    return replace(chart, svg=svg)


def _svg(figure: Figure) -> str:
    """The figure as inline SVG in the page's colours; only identifiers that something refers to are kept."""
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nagedge", "axes.unicode_minus": True}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r"<style.*?</style>\s*", "", text, flags=re.DOTALL)  # it would apply to the whole page
    text = re.sub(r"<!--.*?-->\s*", "", text, flags=re.DOTALL)
    text = re.sub(r" font-family: [^;]*;", "", text)
    text = re.sub(r' xmlns(?::\w+)?="[^"]*"', "", text.split(">", 1)[0]) + ">" + text.split(">", 1)[1]
    text = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"([^>]*?) width="[^"]*"', r"\1\2", text, count=1)
    text = re.sub(r"(<svg[^>]*?) version=\"1.1\"", r"\1", text, count=1)
    text = text.replace(' xlink:href="', ' href="')
    used = set(re.findall(r'(?:href="|url\()#([\w.]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    return text.replace("<svg", '<svg class="plot" aria-hidden="true" focusable="false"', 1).strip()
