"""A small trunk for sequences of token ids: embeddings and convolutions over the steps."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

__all__ = ["TokenTrunk"]


class TokenTrunk(nn.Module):
    """From int64 ``[batch, steps]`` to ``[batch, steps, channels[-1]]``, or their mean ``[batch, channels[-1]]``.

    An embedding of width ``channels[0]``, then for each further width a convolution over three steps, a ReLU and, where
    the widths are equal, a residual sum. Id 0 is padding: its steps are zero, and left out of the mean.

    Args:
        vocabulary: ids are 0 .. vocabulary - 1.
        channels: widths, at least one.
        dropout: of the features, in training only.
        pooled: whether to return the mean over the steps.
    """

    def __init__(
        self, vocabulary: int, channels: Sequence[int], dropout: float = 0.0, *, pooled: bool = True
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, channels[0])
        self.convolutions = nn.ModuleList(
            nn.Conv1d(before, after, 3, padding=1) for before, after in itertools.pairwise(channels)
        )
        self.dropout = nn.Dropout(dropout)
        self.pooled = pooled

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the features of token ids, int64 ``[batch, steps]``."""
        present = (tokens > 0).to(self.embedding.weight.dtype).unsqueeze(1)
        x: Tensor = self.embedding(tokens).transpose(1, 2) * present
        for convolution in self.convolutions:
            y = torch.relu(convolution(x)) * present
            x = x + y if y.shape[1] == x.shape[1] else y
        if not self.pooled:
            return self.dropout(x.transpose(1, 2))  # type: ignore[no-any-return]
        count = present.sum(2)
        return self.dropout(x.sum(2) / torch.where(count > 0, count, torch.ones_like(count)))  # type: ignore[no-any-return]
