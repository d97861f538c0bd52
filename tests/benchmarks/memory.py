"""Measure the peak memory of a training step, exported and eager: ``uv run python -m tests.benchmarks.memory --help``.

Above the loaded session, each side in a fresh process; see :mod:`nagedge.profiling.memory`.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

import nagedge
from nagedge.profiling.memory import peak_memory
from nagedge.runtimes import onnxruntime
from tests.benchmarks.sides import eager
from tests.benchmarks.sides.exported import TARGET, export_for, step_of
from tests.benchmarks.workloads import WORKLOADS, workload

MIB = 2**20


def load_eager(name: str) -> Callable[[int], None]:
    """Return a step of eager PyTorch."""
    torch.set_num_threads(1)
    step = eager.prepare(workload(name), Path())
    return lambda _: step()


def load_exported(name: str, bundle: str) -> Callable[[int], None]:
    """Return a step of the exported model in ``bundle``."""
    opened = nagedge.load(bundle)
    step = step_of(onnxruntime.open_training(opened, TARGET), opened, workload(name))
    return lambda _: step()


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    options = parser.parse_args()
    print(
        "| workload | eager PyTorch | exported | ratio | planned | planned over measured |\n|---|---|---|---|---|---|"
    )
    for name in options.workloads:
        item = workload(name)
        with tempfile.TemporaryDirectory() as folder:
            bundle = export_for(item, TARGET, Path(folder))
            planned = bundle.manifest.targets[TARGET].planned_step_bytes
            assert planned is not None
            ours = _peak("load_exported", {"name": name, "bundle": str(bundle.path)})
        theirs = _peak("load_eager", {"name": name})
        cells = [f"{theirs / MIB:.1f} MiB", f"{ours / MIB:.1f} MiB", f"{ours / theirs:.2f}"]
        cells += [f"{planned / MIB:.1f} MiB", f"{planned / ours:.2f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def _peak(function: str, arguments: dict[str, str | int | float | bool | None]) -> int:
    return peak_memory(f"tests.benchmarks.memory:{function}", arguments).step_bytes


if __name__ == "__main__":
    main()
