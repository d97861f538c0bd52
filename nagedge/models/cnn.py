"""A small convolutional trunk for images of some tens of pixels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from nagedge.models.norms import Norm, norm_layer

__all__ = ["cnn_stages", "cnn_trunk"]


def cnn_stages(in_channels: int, channels: Sequence[int], norm: Norm = "batch") -> list[list[nn.Module]]:
    """Return the layers of each stage, from ``[batch, in_channels, height, width]`` to a map of ``channels[-1]``.

    A stage is a 3x3 convolution, a normalisation and a ReLU; from the second on a 2x2 max pooling comes first.
    """
    return [
        [
            *([nn.MaxPool2d(2)] if stage else []),
            nn.Conv2d(before, after, 3, padding=1, bias=False),
            norm_layer(norm, after),
            nn.ReLU(),
        ]
        for stage, (before, after) in enumerate(itertools.pairwise([in_channels, *channels]))
    ]


def cnn_trunk(
    in_channels: int,
    channels: Sequence[int],
    dropout: float = 0.0,
    *,
    pooled: bool = True,
    norm: Norm = "batch",
) -> nn.Module:
    """Return a trunk from ``[batch, in_channels, height, width]`` to ``[batch, channels[-1]]``.

    The stages of :func:`cnn_stages`, then global average pooling, so that any size that survives the poolings fits.
    Without ``pooled`` it gives the map.
    """
    layers = list(itertools.chain.from_iterable(cnn_stages(in_channels, channels, norm)))
    if pooled:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
