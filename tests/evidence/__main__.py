"""Measure what NagEdge's claims about training rest on: ``uv run python -m tests.evidence --help``."""

from __future__ import annotations

import argparse
import datetime as dt
import functools
import multiprocessing
import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported

from nagedge.files import write_file
from tests.evidence import page
from tests.evidence.cost import costs, savings
from tests.evidence.head import METHODS as HEADS
from tests.evidence.head import head_row
from tests.evidence.optimizers import optimizer_studies
from tests.evidence.scales import scale_summaries
from tests.evidence.sharing import sharing_studies
from tests.evidence.text import compose
from tests.evidence.training import Scores, Trial, summaries

PARTS = ("optimizers", "sharing", "scales", "head", "cost")


@dataclass(frozen=True)
class Budget:
    """How much is done; ``TOY`` takes seconds and proves that the command works, nothing else."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    optimizer_epochs: int = 4
    optimizer_tuning: tuple[int, ...] = (100, 101)
    sharing_epochs: int = 3
    scale_epochs: int = 4
    draws: int = 80
    head_epochs: int = 4
    head_limit: int = 1500
    rounds: int = 20
    examples: int = 0


FULL = Budget()
TOY = Budget(
    seeds=(0,), optimizer_epochs=1, optimizer_tuning=(100,), sharing_epochs=1, scale_epochs=1, draws=2, head_epochs=2,
    head_limit=3, rounds=2, examples=128,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Do the experiments and write the page, its figures and its numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"), help="folder for evidence.md")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--toy", action="store_true", help="a try of seconds, for tests")
    options = parser.parse_args(arguments)
    measure(options.out, options.only, TOY if options.toy else FULL, options.processes)


def measure(out: Path, parts: Sequence[str], budget: Budget, processes: int) -> None:
    """Do some of the experiments; what they give is written part by part."""
    figures = out / "evidence"
    figures.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:

        def run_all(work: Callable[[Trial], Scores], trials: Sequence[Trial]) -> Iterable[Scores]:
            return pool.map(work, trials) if processes > 1 else map(work, trials)

        for part in parts:
            if part == "cost":
                continue
            started = time.monotonic()
            print(part, flush=True)
            found, text = _do(part, budget, run_all, pool.map if processes > 1 else map, figures)
            _keep(figures, part, found, text, started)
    if "cost" in parts:  # alone, when the other processes have ended
        started = time.monotonic()
        print("cost", flush=True)
        ratios, missing = costs(budget.rounds) if budget == FULL else costs(budget.rounds, ("famo", "imtl_g"))
        saved = savings(budget.rounds)
        first, second = page.cost_part(ratios, missing, saved)
        found = {"cost": ratios, "missing": missing, "savings": saved}
        _keep(figures, "cost", found, f"{first}\n\n<!-- savings -->\n\n{second}", started)
    write_file(out / "evidence.md", compose(figures))
    print(f"written to {out / 'evidence.md'}")


def _do(part: str, budget: Budget, run_all: Any, spread: Any, figures: Path) -> tuple[object, str]:
    seeds, tuning = budget.seeds, budget.optimizer_tuning
    if part == "optimizers":
        studies = optimizer_studies(epochs=budget.optimizer_epochs, examples=budget.examples)
        rows = summaries(studies, seeds, tuning, run_all)
        return rows, page.optimizer_part(rows, figures)
    if part == "sharing":
        studies = sharing_studies(epochs=budget.sharing_epochs, examples=budget.examples)
        rows = summaries(studies, budget.seeds, tuning[:1], run_all)
        return rows, page.sharing_part(rows)
    if part == "scales":
        scales = scale_summaries(
            run_all, seeds=budget.seeds, tuning_seeds=tuning, epochs=budget.scale_epochs, draws=budget.draws,
            examples=budget.examples,
            **({} if budget == FULL else {"methods": ["sum", "IMTL-G, features"], "scales": ["losses off by ten"]}),
        )  # fmt: skip
        return scales, page.scale_part(scales)
    row = functools.partial(head_row, limit=budget.head_limit, epochs=budget.head_epochs)
    heads = list(spread(row, HEADS))
    return heads, page.head_part(heads, figures)


def _keep(figures: Path, part: str, found: object, text: str, started: float) -> None:
    """Write the numbers of a part, and its tables, with where and when they were made."""
    minutes = (time.monotonic() - started) / 60
    names = ("torch", "torchjd", "numpy", "lightning-fabric")
    where = {
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "minutes": round(minutes, 1),
        "python": platform.python_version(),
        "processor": _processor(),
        "load": [round(value, 1) for value in os.getloadavg()],
        **{name: version(name) for name in names},
    }
    page.write_json(figures / f"{part}.json", {"where": where, "text": text, "found": found})
    print(f"  {minutes:.1f} minutes", flush=True)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(": ", 1)[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
