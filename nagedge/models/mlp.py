"""A multi-layer perceptron as trunk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

__all__ = ["mlp_trunk"]


def mlp_trunk(in_features: int, hidden: Sequence[int], dropout: float = 0.0) -> nn.Module:
    """Return a trunk with ReLU from ``[batch, ...]``, flattened to ``in_features``, to ``[batch, hidden[-1]]``."""
    layers: list[nn.Module] = [nn.Flatten()]
    for before, after in itertools.pairwise([in_features, *hidden]):
        layers += [nn.Linear(before, after), nn.ReLU()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
