"""A multi-layer perceptron as trunk."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

__all__ = ["mlp_stages", "mlp_trunk"]


def mlp_stages(in_features: int, hidden: Sequence[int]) -> list[list[nn.Module]]:
    """Return the layers of each stage: a linear layer and a ReLU; the first one flattens its input."""
    return [
        [*([] if stage else [nn.Flatten()]), nn.Linear(before, after), nn.ReLU()]
        for stage, (before, after) in enumerate(itertools.pairwise([in_features, *hidden]))
    ]


def mlp_trunk(in_features: int, hidden: Sequence[int], dropout: float = 0.0) -> nn.Module:
    """Return a trunk with ReLU from ``[batch, ...]``, flattened to ``in_features``, to ``[batch, hidden[-1]]``."""
    layers = list(itertools.chain.from_iterable(mlp_stages(in_features, hidden)))
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
