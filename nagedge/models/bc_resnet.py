"""A broadcasted-residual trunk for log-mel features (Kim et al. 2021, "Broadcasted Residual Learning").

A block has two paths. The first is two-dimensional and cheap: a depthwise convolution over the bands. Its mean over the
bands goes through the second, a depthwise convolution over the frames and a pointwise one, which therefore cost a
fraction of their two-dimensional kind; the result is broadcast over the bands and added.

    y = relu(f2(x) + broadcast(f1(mean over the bands of f2(x))) [+ x])

The last term is missing in transition blocks, which change the number of channels. Structure, channels, strides and
dilations are those of table 1 of the paper and of its authors' published program.
"""

from __future__ import annotations

from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.models.norms import Norm, SubSpectralNorm, norm_layer

__all__ = ["BroadcastedBlock", "bc_resnet_stages", "bc_resnet_trunk"]

_SUB_BANDS = 5
_CHANNELS = (
    16,
    8,
    12,
    16,
    20,
    32,
)  # of width 1: of the first convolution, the four stages, the last convolution
_BLOCKS = (2, 2, 4, 4)
_HALVES_BANDS = (False, True, True, False)


class BandsFirst(nn.Module):
    """From ``[batch, 1, frames, bands]``, as log-mel features come, to ``[batch, 1, bands, frames]``."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` with its last two axes exchanged."""
        return x.transpose(2, 3)


class BroadcastedBlock(nn.Module):
    """One block; a transition block where the numbers of channels differ.

    Args:
        before, after: channels.
        dilation: of the convolution over the frames.
        halves: whether the bands are halved.
        norm: which normalisation. dropout: of whole channels, in training only.
    """

    def __init__(
        self, before: int, after: int, *, dilation: int, halves: bool, norm: Norm, dropout: float
    ) -> None:
        super().__init__()
        self.residual = before == after
        over_bands: list[nn.Module] = []
        if not self.residual:
            over_bands += [nn.Conv2d(before, after, 1, bias=False), norm_layer(norm, after), nn.ReLU()]
        stride = (2 if halves else 1, 1)
        over_bands += [
            nn.Conv2d(after, after, (3, 1), stride, padding=(1, 0), groups=after, bias=False),
            SubSpectralNorm(norm, after, _SUB_BANDS),
        ]
        self.over_bands = nn.Sequential(*over_bands)
        self.over_frames = nn.Sequential(
            nn.Conv2d(
                after, after, (1, 3), padding=(0, dilation), dilation=(1, dilation), groups=after, bias=False
            ),
            norm_layer(norm, after),
            nn.SiLU(),
            nn.Conv2d(after, after, 1, bias=False),
            nn.Dropout2d(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[batch, after, bands, frames]``, with half the bands if it halves them."""
        y = self.over_bands(x)
        y = y + self.over_frames(y.mean(2, keepdim=True))
        return nn.functional.relu(y + x if self.residual else y)


def bc_resnet_stages(
    in_channels: int, bands: int, width: float, *, norm: Norm = "batch", dropout: float = 0.1
) -> list[nn.Module]:
    """Return the five stages of the trunk: four of blocks, the first convolution with the first, then the last ones.

    The first takes ``[batch, in_channels, frames, bands]``; all give ``[batch, channels, bands, frames]``.

    Args:
        in_channels: of the input, 1 for log-mel features.
        bands: of the input; a number that stays a multiple of five when it is halved three times, such as 40 or 80.
        width: factor of the paper's channels, its tau: 1, 1.5, 2, 3, 6, 8 there, and any multiple of 1/8.
        norm: which normalisation. dropout: of whole channels at the end of each block; 0.1 in the paper.

    Raises:
        ConfigurationError: the bands or the width do not fit.
    """
    left = [(bands + 1) // 2, (bands + 3) // 4, (bands + 7) // 8]
    if any(count % _SUB_BANDS for count in left):
        raise ConfigurationError(
            f"model trunk 'bc_resnet' halves its {bands} bands to {left[0]}, {left[1]} and {left[2]}, each of which"
            f" must be a multiple of {_SUB_BANDS}. Set mels to 40 or 80, or choose trunk 'ds_cnn'."
        )
    first, *middle, last = (int(width * channels) for channels in _CHANNELS)
    if width * 8 != int(width * 8) or width <= 0:
        raise ConfigurationError(
            f"model width is {width:g}, expected a multiple of 1/8 above 0; the paper has 1, 1.5, 2, 3, 6 and 8."
        )
    stages: list[nn.Module] = []
    before = first
    for stage, (after, count, halves) in enumerate(zip(middle, _BLOCKS, _HALVES_BANDS, strict=True)):
        blocks: list[nn.Module] = []
        if not stage:
            blocks += [
                BandsFirst(),
                nn.Conv2d(in_channels, first, 5, stride=(2, 1), padding=2, bias=False),
                norm_layer(norm, first),
                nn.ReLU(),
            ]
        for block in range(count):
            blocks.append(
                BroadcastedBlock(
                    before, after, dilation=2**stage, halves=halves and not block, norm=norm, dropout=dropout
                )
            )
            before = after
        stages.append(nn.Sequential(*blocks))
    end = [
        nn.Conv2d(before, before, 5, padding=(0, 2), groups=before, bias=False),
        nn.Conv2d(before, last, 1, bias=False),
        norm_layer(norm, last),
        nn.ReLU(),
    ]
    return [*stages, nn.Sequential(*end)]


def bc_resnet_trunk(
    in_channels: int, bands: int, width: float, *, norm: Norm = "batch", dropout: float = 0.1
) -> nn.Module:
    """Return the trunk from ``[batch, in_channels, frames, bands]`` to ``[batch, 32 * width]``.

    Arguments and errors are those of :func:`bc_resnet_stages`.
    """
    stages = bc_resnet_stages(in_channels, bands, width, norm=norm, dropout=dropout)
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten())
