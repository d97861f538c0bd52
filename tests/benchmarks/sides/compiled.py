"""PyTorch with ``torch.compile`` over the forward and backward pass, where a C++ compiler is present."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch

from nagedge.errors import RuntimeUnavailableError
from tests.benchmarks.sides.eager import stepper, trained_model
from tests.benchmarks.workloads import Workload


def available() -> str:
    compiler = next((found for name in ("c++", "g++", "clang++") if (found := shutil.which(name))), None)
    if compiler is None:
        raise RuntimeUnavailableError(
            "torch.compile needs a C++ compiler, and none is on the PATH: install g++."
        )
    return f"torch {torch.__version__} compiled by {Path(compiler).name}"


def prepare(workload: Workload, folder: Path) -> Callable[[], None]:
    del folder
    torch._dynamo.reset()
    model = trained_model(workload)
    return stepper(workload, model, torch.compile(model))
