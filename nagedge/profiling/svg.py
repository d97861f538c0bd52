"""The look of the charts, and figures as inline SVG: no script, no file, the page's own colours in light and dark.

Drawn with :class:`matplotlib.figure.Figure` (never pyplot, which keeps global state). The figures are drawn in
marker colours which are then replaced by CSS variables, so that one drawing follows the reader's colour scheme.
Text stays text, and equal data give equal bytes.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.backend_bases import RendererBase
    from matplotlib.figure import Figure

__all__ = [
    "Chart",
    "add_legend",
    "bare_figure",
    "legend_above",
    "new_figure",
    "numbered",
    "plain",
    "style_axes",
    "to_svg",
]

# Marker colours: never seen, each stands for a CSS variable of the template.
INK, LINE, SHADE = "#010203", "#010204", "#010205"
SERIES = tuple(f"#0102{16 + index:02x}" for index in range(6))
GOOD, BAD = "#010220", "#010221"
_VARIABLES = {INK: "--ink-soft", LINE: "--line", SHADE: "--warm", GOOD: "--good", BAD: "--bad"} | {
    colour: f"--series-{index + 1}" for index, colour in enumerate(SERIES)
}

_MARGIN = 3.0
"""Points between a chart's labels and its edge."""


@dataclass(frozen=True)
class Chart:
    """One chart.

    Args:
        title: above it. svg: inline markup. alternative: what it shows, in words, for readers who do not see it.
        caption: beneath it. tall: whether it takes the height of two others.
    """

    title: str
    svg: str
    alternative: str
    caption: str = ""
    tall: bool = False


def plain(text: str) -> str:
    """Text that matplotlib must not read as mathematics."""
    return text.replace("$", r"\$")


def bare_figure(height: float, width: float = 5.0) -> Figure:
    """An empty figure for several axes; height and width in inches.

    Half the page is 5 inches wide, so letters appear in their size.
    """
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def new_figure(height: float = 2.6, width: float = 5.0) -> tuple[Figure, Axes]:
    """A figure with one pair of axes in the page's style; height and width in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axes = figure.add_subplot()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Give axes the page's style."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.grid(visible=True, color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(which="both", colors=INK, labelsize=8.5, color=LINE)
    axes.xaxis.label.set(color=INK, fontsize=8.5)
    axes.yaxis.label.set(color=INK, fontsize=8.5)


def add_legend(axes: Axes) -> None:
    """Put a legend above the axes, in at most three columns, or four of short names."""
    names = [name for line in axes.get_lines() if not (name := str(line.get_label())).startswith("_")]
    legend_above(axes, min(4 if sum(map(len, names)) <= 30 else 3, len(names)))


def legend_above(axes: Axes, columns: int) -> None:
    """Put a legend of so many columns above the axes."""
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.set_layout_engine("constrained")  # it alone knows of a legend outside
    figure.legend(loc="outside upper left", frameon=False, fontsize=8.5, labelcolor=INK, ncols=columns)


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


def to_svg(figure: Figure) -> str:
    """The figure as inline SVG in the page's colours; only identifiers that something refers to are kept."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import RendererSVG

    buffer = io.StringIO()
    # Not savefig: it draws everything twice, and charts are most of the time that a report takes.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "nagedge", "axes.unicode_minus": True}):
        figure.dpi = 72  # SVG's unit is a point
        renderer: Any = RendererSVG(*figure.bbox.size, buffer)  # type: ignore[no-untyped-call]
        if figure.get_layout_engine() is None:
            _fit_axes(figure, renderer)
        figure.draw(renderer)
        renderer.finalize()
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


def _fit_axes(figure: Figure, renderer: RendererBase) -> None:
    """Let a figure's only axes fill it with their labels: one pass, where matplotlib's layouts take several."""
    (axes,) = figure.axes
    taken, inner, whole = axes.get_tightbbox(renderer), axes.bbox, figure.bbox
    assert taken is not None
    figure.subplots_adjust(
        left=(inner.x0 - taken.x0 + _MARGIN) / whole.width,
        bottom=(inner.y0 - taken.y0 + _MARGIN) / whole.height,
        right=1 - (taken.x1 - inner.x1 + _MARGIN) / whole.width,
        top=1 - (taken.y1 - inner.y1 + _MARGIN) / whole.height,
    )
