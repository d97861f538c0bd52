"""The exported training step on the stock ONNX Runtime, and what every side that runs our artifacts needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nagedge
from nagedge.runtimes import TrainingSession, onnxruntime
from tests.benchmarks.workloads import Workload

__all__ = ["TARGET", "available", "export_for", "prepare", "step_of"]

TARGET = "any-any-onnxruntime-fp32-train"


def available() -> str:
    return onnxruntime.available()


def prepare(workload: Workload, folder: Path) -> Callable[[], None]:
    bundle = export_for(workload, TARGET, folder)
    return step_of(onnxruntime.open_training(bundle, TARGET), bundle, workload)


def export_for(workload: Workload, target: str, folder: Path, *, batch: int | None = None) -> nagedge.Bundle:
    """Return the workload's bundle for one target; an export that was made in this folder already is used again."""
    at = folder / f"{workload.name}-{target}"
    if at.exists():
        return nagedge.load(at)
    return nagedge.export(
        workload.model, tasks=workload.tasks, example_input=workload.example, targets=target, batch=batch, out=at,
        trainable=workload.trainable,
    )  # fmt: skip


def step_of(training: TrainingSession, bundle: nagedge.Bundle, workload: Workload) -> Callable[[], None]:
    """Return a step of a session on the workload's batch."""
    inputs = {bundle.manifest.inputs[0].name: workload.example.numpy()}

    def step() -> None:
        training.step(inputs, workload.targets, lr=1e-4, momentum=0.9, weight_decay=1e-4)

    return step
