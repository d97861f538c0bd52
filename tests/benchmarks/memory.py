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
from tests.benchmarks.sides.exported import TARGET
from tests.benchmarks.workloads import WORKLOADS, workload

MIB = 2**20


def load_eager(name: str) -> Callable[[int], None]:
    """Return a step of eager PyTorch."""
    torch.set_num_threads(1)
    step = eager.prepare(workload(name), Path())
    return lambda _: step()


def load_exported(name: str, bundle: str) -> Callable[[int], None]:
    """Return a step of the exported model in ``bundle``."""
    item = workload(name)
    opened = nagedge.load(bundle)
    training = onnxruntime.open_training(opened, TARGET)
    inputs = {opened.manifest.inputs[0].name: item.example.numpy()}

    def step(_: int) -> None:
        training.step(inputs, item.targets, lr=1e-4, momentum=0.9, weight_decay=1e-4)

    return step


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    options = parser.parse_args()
    print("| workload | eager PyTorch | exported | ratio |\n|---|---|---|---|")
    for name in options.workloads:
        item = workload(name)
        with tempfile.TemporaryDirectory() as folder:
            bundle = nagedge.export(
                item.model, tasks=item.tasks, example_input=item.example, targets=TARGET,
                out=Path(folder) / name, trainable=item.trainable,
            )  # fmt: skip
            ours = _peak("load_exported", {"name": name, "bundle": str(bundle.path)})
        theirs = _peak("load_eager", {"name": name})
        print(f"| {name} | {theirs / MIB:.1f} MiB | {ours / MIB:.1f} MiB | {ours / theirs:.2f} |", flush=True)


def _peak(function: str, arguments: dict[str, str | int | float | bool | None]) -> int:
    return peak_memory(f"tests.benchmarks.memory:{function}", arguments).step_bytes


if __name__ == "__main__":
    main()
