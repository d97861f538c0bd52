"""Cross-stitch units between one trunk a task (Misra et al. 2016, "Cross-stitch Networks for Multi-task Learning")."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nagedge.models.multitask import by_task
from nagedge.models.stages import StageList
from nagedge.models.tokens import TokenTrunk

__all__ = ["CrossStitchModel", "CrossStitchUnit"]

_OWN = 0.9
"""What of its own activations a task starts with; it takes the rest from the others in equal parts (section 5.1)."""


class CrossStitchUnit(nn.Module):
    """Linear combinations of the tasks' activations, one factor for each channel and pair of tasks.

        y_t[c] = sum_s alpha[t, s, c] * x_s[c]

    Args:
        tasks: how many, at least two.
        channels: of the activations.
    """

    def __init__(self, tasks: int, channels: int) -> None:
        super().__init__()
        self.tasks, self.channels = tasks, channels
        alpha = torch.full((tasks, tasks, channels), (1 - _OWN) / (tasks - 1))
        alpha[range(tasks), range(tasks)] = _OWN
        # one vector: weight decay, which is for matrices, would pull the factors to zero
        self.alpha = nn.Parameter(alpha.flatten())

    def forward(self, activations: list[Tensor]) -> list[Tensor]:
        """Return one tensor a task, ``[batch, channels, ...]`` as those given."""
        shape = (self.channels, *[1] * (activations[0].dim() - 2))
        parts = [part.reshape(shape) for part in torch.split(self.alpha, self.channels)]
        found = []
        for task in range(self.tasks):
            own = parts[task * self.tasks : (task + 1) * self.tasks]
            total = own[0] * activations[0]
            for factor, x in zip(own[1:], activations[1:], strict=True):
                total = total + factor * x
            found.append(total)
        return found


class CrossStitchModel(nn.Module):
    """One trunk a task with a cross-stitch unit after every stage.

    Args:
        trunks: task name -> its trunk; all of the same structure.
        channels: of every stage.
        heads: task name -> module from the features of the task's trunk to its outputs.
        pooled: names of the tasks whose heads take the mean over the places.

    Raises:
        ConfigurationError: a task has the name of an attribute that torch modules own.
    """

    def __init__(
        self,
        trunks: Mapping[str, StageList | TokenTrunk],
        channels: list[int],
        heads: Mapping[str, nn.Module],
        pooled: frozenset[str],
    ) -> None:
        super().__init__()
        self.trunks = by_task(trunks)
        self.units = nn.ModuleList(CrossStitchUnit(len(trunks), count) for count in channels)
        self.heads = by_task(heads)
        self._pooled = pooled

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return task name -> outputs ``[batch, ...]``."""
        trunks: list[StageList | TokenTrunk] = list(self.trunks.values())  # type: ignore[arg-type]
        features = [x for _ in trunks]
        for index, unit in enumerate(self.units):
            after = [trunk.stage(index, part, x) for trunk, part in zip(trunks, features, strict=True)]
            features = unit(after)
        return {
            name: head(trunk.read(part, x, pooled=name in self._pooled))
            for (name, head), trunk, part in zip(self.heads.items(), trunks, features, strict=True)
        }
