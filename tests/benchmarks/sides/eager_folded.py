"""Eager PyTorch after BatchNorm has been folded into the convolutions: the very parameters that the export trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from nagedge.graphs.batch_norm import apply_policy
from tests.benchmarks.sides.eager import available, stepper, trained_model
from tests.benchmarks.workloads import Workload

__all__ = ["available", "prepare"]


def prepare(workload: Workload, folder: Path) -> Callable[[], None]:
    del folder
    return stepper(workload, trained_model(workload, apply_policy(workload.model, "fold", workload.example)))
