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
    the widths are equal, a residual sum. Id 0 is padding: its steps are zero, and left out of the mean. It is a trunk
    in stages too (:mod:`nagedge.models.stages`): the embedding is the first, each convolution one more.

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
        present = self._present(tokens)
        x = tokens
        for index in range(self.count):
            x = self._after(index, x, present)
        return self.dropout(_read(x, present, pooled=self.pooled))  # type: ignore[no-any-return]

    @property
    def count(self) -> int:
        """How many stages there are."""
        return 1 + len(self.convolutions)

    def drop_after(self, count: int) -> None:
        """Leave out every stage after the first ``count``."""
        del self.convolutions[count - 1 :]

    def stage(self, index: int, features: Tensor, tokens: Tensor) -> Tensor:
        """Return the features ``[batch, channels, steps]`` after a stage from those before; the first takes tokens."""
        return self._after(index, features, self._present(tokens))

    def read(self, features: Tensor, tokens: Tensor, *, pooled: bool) -> Tensor:
        """Return ``[batch, channels]``, the mean over the steps, or ``[batch, steps, channels]`` for a head."""
        return _read(features, self._present(tokens), pooled=pooled)

    def _present(self, tokens: Tensor) -> Tensor:
        return (tokens > 0).to(self.embedding.weight.dtype).unsqueeze(1)

    def _after(self, index: int, x: Tensor, present: Tensor) -> Tensor:
        if not index:
            embedded: Tensor = self.embedding(x)
            return embedded.transpose(1, 2) * present
        y = torch.relu(self.convolutions[index - 1](x)) * present
        return x + y if y.shape[1] == x.shape[1] else y


def _read(features: Tensor, present: Tensor, *, pooled: bool) -> Tensor:
    if not pooled:
        return features.transpose(1, 2)
    count = present.sum(2)
    return features.sum(2) / torch.where(count > 0, count, torch.ones_like(count))
