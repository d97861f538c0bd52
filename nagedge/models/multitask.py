"""A model of several tasks: one trunk, one head a task."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nagedge.errors import ConfigurationError

__all__ = ["MeanOverPlaces", "MultiTaskModel"]


class MeanOverPlaces(nn.Module):
    """From a map or a sequence of features to their mean, for heads that take a vector."""

    def forward(self, features: Tensor) -> Tensor:
        """Return ``[batch, channels]`` from ``[batch, channels, height, width]`` or ``[batch, steps, channels]``."""
        return features.mean((2, 3)) if features.dim() == 4 else features.mean(1)


class MultiTaskModel(nn.Module):
    """``heads[name](trunk(x))`` for every task.

    Args:
        trunk: from the input ``[batch, ...]`` to features ``[batch, channels]``; a map ``[batch, channels, height,
            width]`` or a sequence ``[batch, steps, channels]`` where a head needs one.
        heads: task name -> module from the features to the task's outputs ``[batch, ...]``.

    Raises:
        ConfigurationError: a task has the name of an attribute that torch modules own.
    """

    def __init__(self, trunk: nn.Module, heads: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict()
        for name, head in heads.items():
            if hasattr(self.heads, name):
                raise ConfigurationError(
                    f"task name {name!r} is the name of an attribute of every torch module. Rename the task,"
                    f" for example to '{name}_'."
                )
            self.heads[name] = head

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return task name -> outputs ``[batch, ...]``."""
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}
