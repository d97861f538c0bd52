"""The page of evidence: tables in Markdown with what a pilot had led to expect, figures as SVG, all numbers as JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nagedge.files import write_file
from tests.benchmarks.rounds import Ratio
from tests.evidence.cost import Cost, Saving
from tests.evidence.head import TOLERANCE, HeadRow
from tests.evidence.optimizers import STATE
from tests.evidence.sharing import TASKS
from tests.evidence.training import Summary

__all__ = ["cost_part", "head_part", "optimizer_part", "scale_part", "sharing_part", "write_json"]

RESAMPLES = 4000


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown."""
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation over the seeds."""
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return f"{np.mean(values):.1f} ± {deviation:.1f}"


def difference(left: Summary, right: Summary) -> str:
    """Return the mean difference over seeds with its 95 % interval (bootstrap over seeds, paired)."""
    pairs = np.array(left.tests) - np.array(right.tests)
    drawn = np.random.default_rng(0).choice(pairs, size=(RESAMPLES, len(pairs))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return f"{pairs.mean():+.1f} points ({low:+.1f} to {high:+.1f})"


def optimizer_part(rows: Sequence[Summary], out: Path) -> str:
    """Return table 1 and draw it."""
    by_name = {row.name: row for row in rows}
    cells = [
        [row.name, STATE[row.name], f"{row.trial.lr:g}", spread(row.tests),
         *(f"{np.mean([s.test[task] for s in row.scores]):.1f}" for task in rows[0].scores[0].test)]
        for row in rows
    ]  # fmt: skip
    text = table(["optimizer", "state a parameter", "lr", "mean score", *rows[0].scores[0].test], cells)
    lines = [f"- {b} over {a}: {difference(by_name[b], by_name[a])}. {expected}" for a, b, expected in (
        ("SGD", "Nesterov", "Expected: at least 1 point, 94.3 to 96.4 in the pilot."),
        ("heavy ball", "Nesterov", "No expectation."),
        ("Nesterov", "Nesterov, k/(k+3), gradient restart", "No expectation."),
        ("Nesterov", "Nesterov, scheduled restart (SRSGD)", "No expectation."),
        ("Adam", "Nesterov", "Expected: not more than 0.5 below, with half of Adam's state; 96.6 in the pilot."),
        ("NAdam", "Nesterov", "No expectation."),
    ) if a in by_name and b in by_name]  # fmt: skip
    _bars(
        out / "optimizers.svg", {row.name: row.tests for row in rows}, "mean score on the test rows, percent"
    )
    return text + "\n\n" + "\n".join(lines)


def sharing_part(rows: Sequence[Summary]) -> str:
    """Return table 2."""
    by_name = {row.name: row for row in rows}
    plans: list[tuple[str, str, dict[str, Summary]]] = [
        (name, "1", dict.fromkeys(TASKS, by_name[name]))
        for name in ("one network, sum", "one network, IMTL-G")
    ]
    for compute, what in (("1", "a third of the steps"), ("3", "all steps")):
        plans.append((f"three networks, {what}", compute, {t: by_name[f"{t} alone, {what}"] for t in TASKS}))
    cells = [
        [name, compute, *(spread([s.test[task] for s in found[task].scores]) for task in TASKS),
         ", ".join(dict.fromkeys(f"{found[task].trial.lr:g}" for task in TASKS))]
        for name, compute, found in plans
    ]  # fmt: skip
    return table(
        ["networks", "compute", "domain, accuracy", "polarity, accuracy", "intensity, R²", "lr"], cells
    )


def scale_part(found: Mapping[str, Sequence[Summary]]) -> str:
    """Return table 3."""
    names = [row.name for row in next(iter(found.values()))]
    cells = [
        [name, *(f"{spread(row.tests)} ({row.trial.lr:g})" for rows in found.values() for row in rows if row.name == name)]
        for name in names
    ]  # fmt: skip
    text = table(["method", *(f"{scale}: mean score (lr)" for scale in found)], cells)
    lines = []
    for scale, rows in found.items():
        by_name = {row.name: row for row in rows}
        static = next(row for row in rows if row.name.startswith("static"))
        best = by_name.get("IMTL-G, features")
        if best is not None and "sum" in by_name:
            weights = ", ".join(f"{name} {value:.2g}" for name, value in static.trial.weights.items())
            lines.append(
                f"- {scale}: IMTL-G on features over the sum {difference(best, by_name['sum'])}, over tuned static"
                f" weights {difference(best, static)}; those are digit 1, {weights}."
            )
    return text + "\n\n" + "\n".join(lines)


def head_part(rows: Sequence[HeadRow], out: Path) -> str:
    """Return table 4 and draw the descents."""
    cells = [
        [row.name, f"{row.lr:.3g}", f"not in {row.limit}" if row.steps is None else row.steps,
         f"{row.gap:.1e}" if row.steps is None else f"≤ {TOLERANCE:g}"]
        for row in rows
    ]  # fmt: skip
    figure, axes = _figure(4.5)
    for row in rows:
        axes.semilogy(np.maximum(row.gaps, TOLERANCE / 10), label=row.name, linewidth=1.2)
    axes.axhline(TOLERANCE, color="black", linewidth=0.6)
    axes.set_xlabel("steps")
    axes.set_ylabel("objective above its optimum")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(out / "head.svg")
    return table(["method", "lr", "steps", "above the optimum at the end"], cells)


def cost_part(
    costs: Sequence[Cost], missing: Mapping[str, str], savings: Sequence[Saving]
) -> tuple[str, str]:
    """Return the two tables 5."""
    by_method: dict[str, dict[str, Ratio]] = {}
    for cost in costs:
        by_method.setdefault(cost.method, {})[cost.scope] = cost.ratio
    cells = [
        [f"`{method}`", _ratio(scopes.get("") or scopes.get("features")), _ratio(scopes.get("trunk"))]
        for method, scopes in by_method.items()
    ]
    cells += [[f"`{method}`", reason, ""] for method, reason in missing.items()]
    first = table(["method", "on losses or features", "on the trunk"], cells)
    rows = [
        [s.model, s.name, " : ".join(f"{share:.2g}" for share in s.shares), f"{100 * (1 - s.head_passes):.0f} %",
         _ratio(s.ratio), _ratio(s.plain)]
        for s in savings
    ]  # fmt: skip
    head = [
        "model",
        "shares",
        "as they came out",
        "head passes saved",
        "time over equal shares",
        "over a plain sum",
    ]
    return first, table(head, rows)


def _ratio(value: Ratio | None) -> str:
    return "" if value is None else f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Write every number that the tables are made of."""

    def plain(value: object) -> object:
        if isinstance(value, Ratio):
            return [value.value, value.low, value.high]
        if isinstance(value, HeadRow):
            return {"name": value.name, "lr": value.lr, "steps": value.steps, "gap": value.gap}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        if isinstance(value, Mapping):
            return {str(key): plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value

    write_file(path, json.dumps(plain(results), indent=1) + "\n")


def _figure(height: float) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    mpl.rcParams["svg.hashsalt"] = "nagedge"  # the same numbers give the same file
    return plt.subplots(figsize=(7.5, height), layout="constrained")


def _bars(path: Path, values: Mapping[str, Sequence[float]], label: str) -> None:
    figure, axes = _figure(0.9 + 0.4 * len(values))
    places = range(len(values))
    axes.barh(places, [float(np.mean(v)) for v in values.values()], color="#88aacc")
    for place, seeds in enumerate(values.values()):
        axes.plot(seeds, [place] * len(seeds), "k.", markersize=4)
    lowest = min(min(v) for v in values.values())
    axes.set_xlim(max(0.0, lowest - 2), 100)
    axes.set_yticks(places, list(values))
    axes.invert_yaxis()
    axes.set_xlabel(label)
    figure.savefig(path)
