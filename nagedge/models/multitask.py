"""A model of several tasks: one trunk, one head a task."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from nagedge.errors import ConfigurationError

__all__ = ["MultiTaskModel"]


class MultiTaskModel(nn.Module):
    """``heads[name](trunk(x))`` for every task.

    Args:
        trunk: from the input ``[batch, ...]`` to features ``[batch, features]``.
        heads: task name -> module from the features to the task's outputs ``[batch, size]``.

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
        """Return task name -> outputs ``[batch, size]``."""
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}
