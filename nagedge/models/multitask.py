"""Models of several tasks: one trunk, one head a task, on its last features or on those of a stage of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.models.stages import Features, StageList, features_of
from nagedge.models.tokens import TokenTrunk

__all__ = ["MeanOverPlaces", "MultiTaskModel", "StagedModel", "by_task"]


class MeanOverPlaces(nn.Module):
    """From a map or a sequence of features to their mean, for heads that take a vector."""

    def forward(self, features: Tensor) -> Tensor:
        """Return ``[batch, channels]`` from ``[batch, channels, height, width]`` or ``[batch, steps, channels]``."""
        return features.mean((2, 3)) if features.dim() == 4 else features.mean(1)


def by_task(modules: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """Return one module a task.

    Raises:
        ConfigurationError: a task has the name of an attribute that torch modules own.
    """
    found = nn.ModuleDict()
    for name, module in modules.items():
        if hasattr(found, name):
            raise ConfigurationError(
                f"task name {name!r} is the name of an attribute of every torch module. Rename the task,"
                f" for example to '{name}_'."
            )
        found[name] = module
    return found


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
        self.heads = by_task(heads)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return task name -> outputs ``[batch, ...]``."""
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}


class StagedModel(nn.Module):
    """Every head reads the features of a stage of the one trunk; later stages serve fewer tasks.

    Args:
        trunk: gives the features of its stages.
        heads: task name -> module from the features to the task's outputs.
        reads: task name -> its stage, from 0.
        pooled: names of the tasks whose heads take the mean over the places.

    Raises:
        ConfigurationError: a task has the name of an attribute that torch modules own.
    """

    def __init__(
        self,
        trunk: StageList | TokenTrunk | Features,
        heads: Mapping[str, nn.Module],
        reads: Mapping[str, int],
        pooled: frozenset[str],
    ) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = by_task(heads)
        self._reads, self._pooled = dict(reads), pooled

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return task name -> outputs ``[batch, ...]``."""
        if isinstance(self.trunk, Features):
            features: Sequence[Tensor] = self.trunk(x)
        else:
            features = features_of(self.trunk, x, self.trunk.count)
        return {
            name: head(self.trunk.read(features[self._reads[name]], x, pooled=name in self._pooled))
            for name, head in self.heads.items()
        }
