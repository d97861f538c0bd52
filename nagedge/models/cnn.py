"""A small convolutional trunk for images of some tens of pixels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

__all__ = ["cnn_trunk"]


def cnn_trunk(
    in_channels: int, channels: Sequence[int], dropout: float = 0.0, *, pooled: bool = True
) -> nn.Module:
    """Return a trunk from ``[batch, in_channels, height, width]`` to ``[batch, channels[-1]]``.

    Blocks of 3x3 convolution, BatchNorm and ReLU; a 2x2 max pooling between two blocks; global average
    pooling at the end, so that any size that survives the poolings fits. Without ``pooled`` it gives the map.
    """
    layers: list[nn.Module] = []
    for block, (before, after) in enumerate(itertools.pairwise([in_channels, *channels])):
        if block:
            layers.append(nn.MaxPool2d(2))
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    if pooled:
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
