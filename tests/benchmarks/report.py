"""The benchmark's results as a table in Markdown, as JSON and as a plot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nagedge.files import write_file
from tests.benchmarks.rounds import Ratio, Samples, geometric_mean
from tests.benchmarks.sides import REFERENCE

__all__ = ["Row", "write_report"]


@dataclass(frozen=True)
class Row:
    """One workload.

    Attributes:
        name: of the workload.
        samples: by side; ``ratios``: of processor time over the reference's, by side.
        flops: of the step. roofline_ms: the time they need at the measured rate of matrix products.
    """

    name: str
    samples: dict[str, Samples]
    ratios: dict[str, Ratio]
    flops: int
    roofline_ms: float


def write_report(
    out: Path, rows: list[Row], versions: dict[str, str], missing: dict[str, str], gflops: float
) -> str:
    """Write ``benchmark.md``, ``benchmark.json`` and ``benchmark.svg`` and return the table."""
    out.mkdir(parents=True, exist_ok=True)
    text = _markdown(rows, versions, missing, gflops)
    write_file(out / "benchmark.md", text)
    write_file(out / "benchmark.json", json.dumps(_json(rows, versions, missing, gflops), indent=1))
    _plot(out / "benchmark.svg", rows, list(versions))
    return text


def _markdown(rows: list[Row], versions: dict[str, str], missing: dict[str, str], gflops: float) -> str:
    sides = list(versions)
    head = ["workload", *sides, *(f"{s} / {REFERENCE}" for s in sides if s != REFERENCE), "roofline"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [f"{_median(row.samples[s].cpu_ms)} ms" if s in row.samples else "-" for s in sides]
        cells += [_ratio(row.ratios.get(s)) for s in sides if s != REFERENCE]
        lines.append("| " + " | ".join([row.name, *cells, f"{row.roofline_ms:.2f} ms"]) + " |")
    means = [_mean(rows, s) for s in sides if s != REFERENCE]
    lines.append("| geometric mean | " + " | ".join([*("" for _ in sides), *map(_ratio, means), ""]) + " |")
    notes = [f"{side}: {version}." for side, version in versions.items()]
    notes += [f"{side} was not measured: {reason}" for side, reason in missing.items()]
    notes.append(
        "Medians of processor time, one thread, sides taking turns in one process; in brackets the 95 % interval of "
        "the ratio (block bootstrap over rounds). Roofline: the time of the step's operations at "
        f"{gflops:.0f} GFLOP/s, the rate of a matrix product in the same run."
    )
    return "\n".join([*lines, "", *notes, ""])


def _mean(rows: list[Row], side: str) -> Ratio | None:
    found = [row.ratios[side] for row in rows if side in row.ratios]
    return geometric_mean(found) if len(found) == len(rows) else None


def _median(values: Any) -> str:
    return f"{np.median(values):.2f}"


def _ratio(value: Ratio | None) -> str:
    return "-" if value is None else f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"


def _json(
    rows: list[Row], versions: dict[str, str], missing: dict[str, str], gflops: float
) -> dict[str, Any]:
    return {
        "sides": versions, "not_measured": missing, "matrix_gflops": gflops, "reference": REFERENCE,
        "workloads": [
            {
                "name": row.name, "flops": row.flops, "roofline_ms": row.roofline_ms,
                "wall_ms": {s: v.wall_ms.tolist() for s, v in row.samples.items()},
                "cpu_ms": {s: v.cpu_ms.tolist() for s, v in row.samples.items()},
                "ratios": {s: [r.value, r.low, r.high] for s, r in row.ratios.items()},
            }
            for row in rows
        ],
    }  # fmt: skip


def _plot(path: Path, rows: list[Row], sides: list[str]) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    shown = [side for side in sides if side != REFERENCE]
    figure, axes = plt.subplots(figsize=(8, 0.8 + 0.5 * len(rows)), layout="constrained")
    height = 0.8 / max(len(shown), 1)
    for index, side in enumerate(shown):
        present = [(i, row.ratios[side]) for i, row in enumerate(rows) if side in row.ratios]
        places = [i + (index - (len(shown) - 1) / 2) * height for i, _ in present]
        values = [r.value for _, r in present]
        errors = [
            [max(r.value - r.low, 0) for _, r in present],
            [max(r.high - r.value, 0) for _, r in present],
        ]
        axes.barh(places, values, height=height * 0.9, xerr=errors, label=side, error_kw={"linewidth": 0.8})
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_yticks(range(len(rows)), [row.name for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel(f"time of a training step over {REFERENCE}'s (less is faster)")
    axes.legend(frameon=False)
    figure.savefig(path)
    plt.close(figure)
