"""The exported training step on LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nagedge.runtimes import available_runtime, litert
from tests.benchmarks.sides.exported import export_for, step_of
from tests.benchmarks.workloads import Workload

TARGET = "android-arm64-litert-fp32-train"


def available() -> str:
    return available_runtime("litert")


def prepare(workload: Workload, folder: Path) -> Callable[[], None]:
    bundle = export_for(workload, TARGET, folder, batch=workload.example.shape[0])
    return step_of(litert.open_training(bundle, TARGET), bundle, workload)
