"""Normalisation layers of our own trunks, by name."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

__all__ = ["Norm", "SubSpectralNorm", "norm_layer"]

Norm = Literal["batch", "group"]
"""``batch``: BatchNorm. ``group``: GroupNorm, the same in training and on the device, whatever the batch."""

_SMALLEST_GROUP, _MOST_GROUPS = 4, 32


def norm_layer(norm: Norm, channels: int) -> nn.Module:
    """Return a normalisation of ``[batch, channels, height, width]``.

    GroupNorm (Wu & He 2018) has as many groups as divide the channels into at least four each, at most 32.
    """
    return nn.BatchNorm2d(channels) if norm == "batch" else nn.GroupNorm(_groups(channels), channels)


def _groups(channels: int) -> int:
    most = min(_MOST_GROUPS, max(1, channels // _SMALLEST_GROUP))
    return next(groups for groups in range(most, 0, -1) if channels % groups == 0)


class SubSpectralNorm(nn.Module):
    """Normalise each of several sub-bands of the frequency axis by itself (Chang et al. 2021).

    ``[batch, channels, bands, frames]`` is read as ``[batch, channels * sub_bands, bands / sub_bands, frames]``, which
    costs nothing, and normalised with a scale and an offset for each channel and sub-band. With GroupNorm the
    statistics are those of a group of channels over all bands; scale and offset stay those of the sub-bands.

    Args:
        norm: which normalisation.
        channels: of the input.
        sub_bands: of which the bands are a multiple.
    """

    def __init__(self, norm: Norm, channels: int, sub_bands: int) -> None:
        super().__init__()
        self.sub_bands = sub_bands
        groups = _groups(channels)
        self.norm: nn.Module = (
            nn.BatchNorm2d(channels * sub_bands)
            if norm == "batch"
            else nn.GroupNorm(groups, channels * sub_bands)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[batch, channels, bands, frames]``, normalised."""
        batch, channels, bands, frames = x.shape
        parts = x.reshape(batch, channels * self.sub_bands, bands // self.sub_bands, frames)
        y: Tensor = self.norm(parts)
        return y.reshape(batch, channels, bands, frames)
