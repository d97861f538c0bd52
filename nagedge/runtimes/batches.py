"""Batches drawn from the ranges that a manifest declares: for verification and profiling, which need no real data."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.manifest import InputEntry, Manifest, TaskEntry

__all__ = ["random_batch"]

Array = npt.NDArray[Any]


def random_batch(
    manifest: Manifest, size: int, rng: np.random.Generator
) -> tuple[dict[str, Array], dict[str, Array]]:
    """Return inputs and targets of ``size`` rows, drawn from the ranges that the manifest declares."""
    inputs = {entry.name: _random_input(entry, size, rng) for entry in manifest.inputs}
    return inputs, {task.name: _random_target(task, size, rng) for task in manifest.tasks}


def _random_input(entry: InputEntry, size: int, rng: np.random.Generator) -> Array:
    shape = (size, *[int(n) for n in entry.shape[1:]])
    if entry.dtype.startswith("float"):
        return (entry.mean + entry.std * rng.standard_normal(shape)).astype(entry.dtype)
    if entry.dtype == "bool":
        return rng.random(shape) < 0.5
    return rng.integers(entry.low, entry.high + 1, shape).astype(entry.dtype)


def _random_target(task: TaskEntry, size: int, rng: np.random.Generator) -> Array:
    shape = (size, *[int(n) for n in task.target.shape[1:]])
    if task.target.dtype == "int64":  # labels
        return rng.integers(0, task.size, shape)
    if task.kind in ("binary", "multilabel"):
        return (rng.random(shape) < 0.5).astype(np.float32)
    return rng.standard_normal(shape).astype(np.float32)
