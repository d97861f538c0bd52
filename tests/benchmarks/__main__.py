"""Measure a training step of every reference workload on every side: ``uv run python -m tests.benchmarks --help``."""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and onnxruntime are imported

import torch

from nagedge.errors import NagEdgeError
from tests.benchmarks.report import Row, write_report
from tests.benchmarks.roofline import flops_of, matrix_gflops
from tests.benchmarks.rounds import measure, ratio
from tests.benchmarks.sides import REFERENCE, SIDES, side
from tests.benchmarks.workloads import WORKLOADS, workload


def main() -> None:
    """Print the table and write it, the samples and a plot to a folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), metavar="NAME")
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES), metavar="NAME")
    parser.add_argument("--rounds", type=int, default=60, help="steps of each side (default: 60)")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder for the results")
    options = parser.parse_args()
    torch.set_num_threads(1)
    versions: dict[str, str] = {}
    missing: dict[str, str] = {}
    for name in dict.fromkeys([REFERENCE, *options.sides]):
        try:
            versions[name] = side(name).available()
        except NagEdgeError as error:
            missing[name] = str(error)
    gflops = matrix_gflops()
    rows = [_row(name, list(versions), options.rounds, gflops, missing) for name in options.workloads]
    print(write_report(options.out, rows, versions, missing, gflops))
    print(f"written to {options.out}")


def _row(name: str, sides: list[str], rounds: int, gflops: float, missing: dict[str, str]) -> Row:
    item = workload(name)
    with tempfile.TemporaryDirectory() as folder:
        steps = {}
        for key in sides:
            try:
                steps[key] = side(key).prepare(item, Path(folder))
                steps[key]()
            except Exception as error:
                steps.pop(key, None)
                missing[f"{key} of {name}"] = (str(error).strip().splitlines() or [type(error).__name__])[0]
        flops = flops_of(steps[REFERENCE])
        samples = measure(steps, rounds=rounds)
    ratios = {
        key: ratio(s.cpu_ms, samples[REFERENCE].cpu_ms) for key, s in samples.items() if key != REFERENCE
    }
    print(name, *(f"{key} {r.value:.2f}" for key, r in ratios.items()), sep="  ", flush=True)
    return Row(name, samples, ratios, flops, flops / gflops / 1e6)


if __name__ == "__main__":
    main()
