"""A depthwise-separable trunk for log-mel features (Zhang et al. 2017, "Hello Edge")."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from nagedge.models.norms import Norm, norm_layer

__all__ = ["ds_cnn_stages", "ds_cnn_trunk"]


def ds_cnn_stages(in_channels: int, channels: Sequence[int], norm: Norm = "batch") -> list[list[nn.Module]]:
    """Return the layers of each stage, from ``[batch, in_channels, frames, bands]`` to a map of ``channels[-1]``.

    A strided 10x4 convolution to ``channels[0]``, then a depthwise 3x3 and a pointwise convolution for each further
    width, each with a normalisation and a ReLU.
    """

    def normalised(convolution: nn.Conv2d) -> list[nn.Module]:
        return [convolution, norm_layer(norm, convolution.out_channels), nn.ReLU()]

    first = nn.Conv2d(in_channels, channels[0], (10, 4), stride=2, padding=(5, 2), bias=False)
    return [
        normalised(first),
        *(
            [
                *normalised(nn.Conv2d(before, before, 3, padding=1, groups=before, bias=False)),
                *normalised(nn.Conv2d(before, after, 1, bias=False)),
            ]
            for before, after in itertools.pairwise(channels)
        ),
    ]


def ds_cnn_trunk(
    in_channels: int, channels: Sequence[int], dropout: float = 0.0, *, norm: Norm = "batch"
) -> nn.Module:
    """Return a trunk from ``[batch, in_channels, frames, bands]`` to ``[batch, channels[-1]]``.

    The stages of :func:`ds_cnn_stages`, then global average pooling.
    """
    layers = list(itertools.chain.from_iterable(ds_cnn_stages(in_channels, channels, norm)))
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers)
