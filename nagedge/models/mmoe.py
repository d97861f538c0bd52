"""Multi-gate mixture of experts (Ma et al. 2018): several trunks, and a gate a task that mixes their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nagedge.models.multitask import by_task

__all__ = ["MixtureOfExpertsModel"]


class MixtureOfExpertsModel(nn.Module):
    """``heads[name](sum_e g_e f_e(x))`` with ``g = softmax(gates[name](z))`` for every task.

    Where the input is a vector the gates read it, z = x, as in the paper (equations 6 and 7). An image, a sound or a
    text is no input for a linear gate: there z is the mean of the experts' features over experts and places.

    Args:
        experts: trunks of the same structure, from the input to features ``[batch, channels]``, ``[batch, steps,
            channels]`` or ``[batch, channels, height, width]``.
        gates: task name -> module from ``[batch, inputs]`` to ``[batch, experts]``.
        heads: task name -> module from the mixed features to the task's outputs.
        gates_read_input: whether z is the input.

    Raises:
        ConfigurationError: a task has the name of an attribute that torch modules own.
    """

    def __init__(
        self,
        experts: Sequence[nn.Module],
        gates: Mapping[str, nn.Module],
        heads: Mapping[str, nn.Module],
        *,
        gates_read_input: bool,
    ) -> None:
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.gates = by_task(gates)
        self.heads = by_task(heads)
        self._gates_read_input = gates_read_input

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return task name -> outputs ``[batch, ...]``."""
        features = [expert(x) for expert in self.experts]
        seen = x if self._gates_read_input else _mean(features)
        outputs = {}
        for name, head in self.heads.items():
            shares = torch.softmax(self.gates[name](seen), dim=1)
            mixed = _share(shares, 0, features[0])
            for index in range(1, len(features)):
                mixed = mixed + _share(shares, index, features[index])
            outputs[name] = head(mixed)
        return outputs


def _share(shares: Tensor, index: int, features: Tensor) -> Tensor:
    """Return the features of one expert times its share ``[batch]``."""
    column = shares[:, index : index + 1]
    for _ in range(features.dim() - 2):
        column = column.unsqueeze(-1)
    return column * features


def _mean(features: Sequence[Tensor]) -> Tensor:
    """Return the mean over experts and places, ``[batch, channels]``."""
    total = features[0]
    for part in features[1:]:
        total = total + part
    mean = total / len(features)
    if mean.dim() == 2:
        return mean
    return mean.mean((2, 3)) if mean.dim() == 4 else mean.mean(1)
