"""Text to token ids, by a rule that any device can repeat: lower case, words and single marks, a list of words."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

__all__ = ["PADDING", "UNKNOWN", "Tokenise", "split_text", "vocabulary_of"]

PADDING, UNKNOWN = 0, 1
"""Ids that no word has: after the end of a text, and for a word that is not in the list."""

_TOKEN = re.compile(r"[a-z0-9']+|[^\sa-z0-9']")

Array = npt.NDArray[Any]


def split_text(text: str) -> list[str]:
    """Return the tokens of a text: in lower case, runs of ``a-z0-9'``, and every other visible character by itself."""
    return _TOKEN.findall(text.lower())


def vocabulary_of(texts: Iterable[str], largest: int) -> tuple[str, ...]:
    """Return the most frequent tokens that occur at least twice, at most ``largest``; ties in alphabetical order."""
    counts = Counter(token for text in texts for token in split_text(text))
    frequent = [(-count, token) for token, count in counts.items() if count > 1]
    return tuple(token for _, token in sorted(frequent)[:largest])


@dataclass(frozen=True)
class Tokenise:
    """From a text to the ids of its first ``length`` tokens; the token ``words[i]`` has the id ``i + 2``."""

    kind: ClassVar[str] = "tokenise"
    words: tuple[str, ...]
    length: int
    _ids: dict[str, int] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._ids.update({word: index + 2 for index, word in enumerate(self.words)})

    @property
    def vocabulary(self) -> int:
        """Ids are 0 .. vocabulary - 1."""
        return len(self.words) + 2

    def apply(self, x: Array) -> Array:
        """Return int64 ``[n, length]`` from texts ``[n]``, padded with 0."""
        ids = np.zeros((len(x), self.length), dtype=np.int64)
        for row, text in enumerate(x):
            found = [self._ids.get(token, UNKNOWN) for token in split_text(str(text))[: self.length]]
            ids[row, : len(found)] = found
        return ids
