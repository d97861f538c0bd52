"""The exported training step on LiteRT."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nagedge
from nagedge.runtimes import available_runtime, litert
from tests.benchmarks.workloads import Workload

TARGET = "android-arm64-litert-fp32-train"


def available() -> str:
    return available_runtime("litert")


def prepare(workload: Workload, folder: Path) -> Callable[[], None]:
    rows = workload.example.shape[0]
    bundle = nagedge.export(
        workload.model, tasks=workload.tasks, example_input=workload.example, targets=TARGET, batch=rows,
        out=folder / f"{workload.name}-litert", trainable=workload.trainable,
    )  # fmt: skip
    training = litert.open_training(bundle, TARGET)
    inputs = {bundle.manifest.inputs[0].name: workload.example.numpy()}

    def step() -> None:
        training.step(inputs, workload.targets, lr=1e-4, momentum=0.9, weight_decay=1e-4)

    return step
