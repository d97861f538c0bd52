"""Cost against validation loss, as a drawing that stands alone."""

from __future__ import annotations

import re
from pathlib import Path

from nagedge.files import write_file
from nagedge.fitting.budget import COSTS, printed
from nagedge.fitting.search import Fitted, Tried
from nagedge.profiling.svg import BAD, INK, SERIES, add_legend, new_figure, plain, to_svg

__all__ = ["write_plot"]

_COLOURS = (
    ":root { --ink-soft: #566174; --line: #dfe3e9; --bad: #b93a3a; --series-1: #2f6fd0; --series-2: #cf6a1c;"
    " --series-3: #1f8f6b; --series-4: #8257c9; --series-5: #8a94a6; --series-6: #b8456f; font-family: sans-serif }"
    " @media (prefers-color-scheme: dark) { :root { --ink-soft: #a6b0bf; --line: #313a47; --bad: #f08080;"
    " --series-1: #6ea3f5; --series-2: #f0994f; --series-3: #4fc59b; --series-4: #b193ee; --series-5: #8b96a8;"
    " --series-6: #ea86aa } }"
)


def write_plot(fitted: Fitted, path: Path) -> Path:
    """Write the candidates that were trained as an SVG file, one colour a trunk and norm; return its path.

    The line joins those that no other one beats, the dashed one is the limit, the ring is the chosen one.
    """
    budget, chosen = fitted.budgets[0], _loss(fitted.best)
    figure, axes = new_figure(height=3.4, width=6.4)
    points = [(one.costs[budget.cost], _loss(one), one) for one in fitted.tried if _loss(one) is not None]
    kinds = list(dict.fromkeys(_kind(one) for _, _, one in points))
    front = [(cost, loss) for cost, loss, one in points if one.efficient]
    axes.plot(*zip(*front, strict=True), color=INK, linewidth=1.0, label="_front")
    for place, kind in enumerate(kinds):
        own = [(cost, loss) for cost, loss, one in points if _kind(one) == kind]
        colour = SERIES[place % len(SERIES)]
        axes.plot(*zip(*own, strict=True), "o", color=colour, markersize=5, label=plain(kind))
    assert chosen is not None  # the best one has a loss
    axes.plot(
        fitted.best.costs[budget.cost], chosen, "o", markersize=11, markerfacecolor="none",
        markeredgecolor=INK, label="chosen",
    )  # fmt: skip
    axes.axvline(budget.limit, color=BAD, linewidth=1.0, linestyle=(0, (4, 3)))
    axes.set_xscale("log")
    axes.set_xlabel(f"{COSTS[budget.cost].split(',')[0]}; the limit is {printed(budget.cost, budget.limit)}")
    axes.set_ylabel("validation loss")
    add_legend(axes)
    svg = re.sub(r"^<svg", '<svg xmlns="http://www.w3.org/2000/svg"', to_svg(figure))
    head, _, rest = svg.partition(">")
    return write_file(path, f"{head}><style>{_COLOURS}</style>{rest}\n")


def _kind(one: Tried) -> str:
    model = one.candidate.model
    return f"{model.trunk} {model.norm}-norm" if "norm" in model.model_fields_set else model.trunk


def _loss(one: Tried) -> float | None:
    return None if one.score is None else one.score.loss
