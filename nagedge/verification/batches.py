"""The batches that a trajectory is run on: the same for the runtime and for PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.manifest import Manifest
from nagedge.runtimes.batches import random_batch

__all__ = ["Batch", "batch_sizes", "batches"]

Array = npt.NDArray[Any]

_BATCH = 8
_OTHER_BATCH = 5


@dataclass(frozen=True)
class Batch:
    """Inputs and targets by name, and one weight a row."""

    inputs: dict[str, Array]
    targets: dict[str, Array]
    sample_weight: Array


def batch_sizes(manifest: Manifest, target: str) -> tuple[int, int]:
    """Return the usual size and another one, which proves that a free batch is free."""
    fixed = manifest.batch_of(target)
    return (_BATCH, _OTHER_BATCH) if fixed is None else (fixed, fixed)


def batches(manifest: Manifest, sizes: tuple[int, int], steps: int, seed: int) -> Iterator[Batch]:
    """Yield one batch a step; every fifth has the second of the two ``sizes``."""
    usual, other = sizes
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        size = other if step % 5 == 2 else usual
        inputs, targets = random_batch(manifest, size, rng)
        yield Batch(inputs, targets, rng.uniform(0.5, 1.5, size).astype(np.float32))
