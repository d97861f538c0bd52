"""Batches of examples that lie in memory: tensors on the device, one indexed copy a tensor and batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nagedge.data.examples import Examples

__all__ = ["Batch", "DeviceExamples", "epoch_order", "steps_per_epoch"]


@dataclass(frozen=True)
class Batch:
    """The tensors of one step: input ``[batch, ...]``, a target a task, ``[batch]`` weights or ``None``."""

    x: Tensor
    targets: dict[str, Tensor]
    sample_weight: Tensor | None

    def take(self, rows: Tensor) -> Batch:
        """Return the examples at ``rows``, int64 ``[m]``, in that order."""
        weight = self.sample_weight
        return Batch(
            self.x.index_select(0, rows),
            {name: target.index_select(0, rows) for name, target in self.targets.items()},
            None if weight is None else weight.index_select(0, rows),
        )


@dataclass(frozen=True)
class DeviceExamples:
    """All examples as tensors on one device."""

    x: Tensor
    targets: dict[str, Tensor]
    sample_weight: Tensor | None

    @classmethod
    def of(cls, examples: Examples, input_name: str, device: torch.device) -> DeviceExamples:
        """Copy examples to a device; on the CPU the arrays are shared, not copied."""

        def move(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
            return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)

        weight = examples.sample_weight
        return cls(
            x=move(examples.inputs[input_name]),
            targets={name: move(array) for name, array in examples.targets.items()},
            sample_weight=None if weight is None else move(weight),
        )

    def __len__(self) -> int:
        return self.x.shape[0]

    def batch(self, rows: Tensor) -> Batch:
        """Return the examples at ``rows``, int64 ``[batch]`` on the same device, in that order."""
        return Batch(self.x, self.targets, self.sample_weight).take(rows)


def steps_per_epoch(size: int, batch_size: int) -> int:
    """Return the full batches in ``size`` examples; at least one, which is smaller when there are fewer."""
    return max(1, size // batch_size)


def epoch_order(size: int, *, seed: int, epoch: int) -> Tensor:
    """Return the order of the examples in one epoch, int64 ``[size]``: a pure function, so nothing is saved.

    The examples after the last full batch are left out of the epoch; each epoch leaves out others.
    """
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(size))
