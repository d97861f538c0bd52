"""The exported training step on the stock ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nagedge
from nagedge.runtimes import onnxruntime
from tests.benchmarks.workloads import Workload

TARGET = "any-any-onnxruntime-fp32-train"


def available() -> str:
    return onnxruntime.available()


def prepare(workload: Workload, folder: Path) -> Callable[[], None]:
    bundle = nagedge.export(
        workload.model, tasks=workload.tasks, example_input=workload.example, targets=TARGET,
        out=folder / workload.name, trainable=workload.trainable,
    )  # fmt: skip
    training = onnxruntime.open_training(bundle, TARGET)
    inputs = {bundle.manifest.inputs[0].name: workload.example.numpy()}

    def step() -> None:
        training.step(inputs, workload.targets, lr=1e-4, momentum=0.9, weight_decay=1e-4)

    return step
