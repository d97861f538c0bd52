"""Our artifacts for ONNX Runtime's on-device training, in that runtime (onnxruntime-training 1.19.2)."""

from __future__ import annotations

import subprocess
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import NagEdgeError
from nagedge.runtimes import available_runtime
from nagedge.runtimes.isolation import ENVIRONMENTS, ensure
from tests.benchmarks.sides.exported import export_for
from tests.benchmarks.workloads import Workload

__all__ = ["PROCESS", "available", "prepare", "serve"]

TARGET = "android-arm64-ort_training-fp32-train"
PROCESS = Path(__file__).parents[1] / "ort_process.py"


def available() -> str:
    return available_runtime("ort_training")


def prepare(workload: Workload, folder: Path) -> Callable[[], float]:
    bundle = export_for(workload, TARGET, folder)
    at = bundle.file(bundle.manifest.targets[TARGET].artifacts["train_step"]).parent
    feeds = {bundle.manifest.inputs[0].name: workload.example.numpy()}
    feeds |= {f"target.{name}": value for name, value in workload.targets.items()}
    return serve(at, feeds | {"sample_weight": np.ones(len(workload.example), np.float32)}, folder)


def serve(artifacts: Path, feeds: Mapping[str, npt.NDArray[Any]], folder: Path) -> Callable[[], float]:
    """Start the runtime's process on four artifacts and return a step that gives its processor time in seconds."""
    work = folder / f"serve-{artifacts.name}-{len(list(folder.iterdir()))}"
    work.mkdir()
    for name in ("training_model.onnx", "optimizer_model.onnx", "checkpoint"):
        (work / name).write_bytes((artifacts / name).read_bytes())
    np.savez(work / "feeds.npz", **feeds)
    interpreter = ensure(ENVIRONMENTS["ort_training"])
    process = subprocess.Popen(
        [str(interpreter), str(PROCESS), "serve", str(work)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip

    def line() -> str:
        assert process.stdout is not None
        text = process.stdout.readline().strip()
        if not text:
            assert process.stderr is not None
            lines = process.stderr.read().strip().splitlines() or ["no message"]
            raise NagEdgeError(f"onnxruntime-training ended: {lines[-1][-300:]}")
        return text

    line()

    def step() -> float:
        assert process.stdin is not None
        process.stdin.write("step\n")
        process.stdin.flush()
        return float(line())

    weakref.finalize(step, process.kill)
    return step
