"""Trunks in stages: what their features are after each, for heads that read one and for trunks that share some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor, nn

__all__ = ["Features", "StageList", "Staged", "features_of"]


class Staged(Protocol):
    """A trunk whose stages can be run one by one."""

    @property
    def count(self) -> int:
        """How many stages there are."""

    def stage(self, index: int, features: Tensor, x: Tensor) -> Tensor:
        """Return the features ``[batch, channels, ...]`` after stage ``index`` (from 0).

        Args:
            index: of the stage. features: those of the stage before; of the first stage, the input.
            x: the trunk's input.
        """

    def read(self, features: Tensor, x: Tensor, *, pooled: bool) -> Tensor:
        """Return what a head takes: ``[batch, channels]``, or a map or sequence if it is not to be pooled."""


class StageList(nn.Module):
    """A trunk of stages that follow each other; their features are vectors or maps.

    Args:
        stages: modules, the first from the input.
    """

    def __init__(self, stages: Sequence[nn.Module]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)

    @property
    def count(self) -> int:
        """See :class:`Staged`."""
        return len(self.stages)

    def stage(self, index: int, features: Tensor, x: Tensor) -> Tensor:
        """See :class:`Staged`."""
        del x
        result: Tensor = self.stages[index](features)
        return result

    def read(self, features: Tensor, x: Tensor, *, pooled: bool) -> Tensor:
        """See :class:`Staged`."""
        del x
        return features.mean((2, 3)) if pooled and features.dim() == 4 else features

    def drop_after(self, count: int) -> None:
        """Leave out every stage after the first ``count``."""
        del self.stages[count:]

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of every stage."""
        return features_of(self, x, self.count)


class Features(nn.Module):
    """A module that returns the features of its stages at once (timm's, or the user's), to be read like the others."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Sequence[Tensor]:
        """Return the features of every stage."""
        found: Sequence[Tensor] = self.module(x)
        return found

    def read(self, features: Tensor, x: Tensor, *, pooled: bool) -> Tensor:
        """See :class:`Staged`."""
        del x
        places = (2, 3) if features.dim() == 4 else (1,)
        return features.mean(places) if pooled and features.dim() > 2 else features


def features_of(trunk: Staged, x: Tensor, count: int) -> list[Tensor]:
    """Return the features of the first ``count`` stages of a trunk."""
    found: list[Tensor] = []
    features = x
    for index in range(count):
        features = trunk.stage(index, features, x)
        found.append(features)
    return found
