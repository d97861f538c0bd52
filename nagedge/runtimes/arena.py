"""ONNX Runtime's arena for the processor's memory, without the memory: what of it a sequence of requests touches.

After core/framework/bfc_arena.cc of ONNX Runtime 1.31, with its default settings: requests are rounded up to
256 bytes; the smallest free chunk of the lowest bin that fits is taken, and cut when it is twice as large; freed chunks
join their free neighbours. All lies in one region, which is large enough (:func:`first_region_bytes`). Memory that was
never written takes none, so what counts are the pages that requests touched.

From the second step on the tensors of a step lie in a block, which :class:`Block` lays out as
core/framework/mem_pattern_planner.h does.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

__all__ = ["Arena", "Block", "first_region_bytes", "with_first_region"]

LEAST_REGION_BYTES = 32 << 20
"""Of the first region. glibc takes smaller ones from its heap, of which part may have been written already."""

_UNIT = 256
_HANDLE = 8
"""Bytes that a region keeps for each of its units."""

_ENOUGH = 1 << 40
_PAGE = 4096


@dataclass
class _Chunk:
    start: int
    size: int
    is_free: bool = True
    before: _Chunk | None = None
    behind: _Chunk | None = None


@dataclass
class Arena:
    """An arena of no memory: ``take`` and ``give`` as a runtime does."""

    _free: list[tuple[int, int, int]] = field(default_factory=list)
    _chunks: dict[int, _Chunk] = field(default_factory=dict)
    _pages: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        """Make the region."""
        self._add(_Chunk(0, _ENOUGH))

    @property
    def touched_bytes(self) -> int:
        """The memory that has been written so far, in pages."""
        return len(self._pages) * _PAGE

    def take(self, size_bytes: int) -> int:
        """Return the address of a new chunk, which is written."""
        size = max(-(-size_bytes // _UNIT), 1) * _UNIT
        chunk = self._fitting(size)
        if chunk.size >= 2 * size:
            rest = _Chunk(chunk.start + size, chunk.size - size, before=chunk, behind=chunk.behind)
            if chunk.behind is not None:
                chunk.behind.before = rest
            chunk.size, chunk.behind = size, rest
            self._add(rest)
        chunk.is_free = False
        self._pages.update(range(chunk.start // _PAGE, -(-(chunk.start + size_bytes) // _PAGE)))
        return chunk.start

    def give(self, address: int) -> None:
        """Free a chunk."""
        chunk = self._chunks[address]
        chunk.is_free = True
        for left, right in ((chunk, chunk.behind), (chunk.before, chunk)):
            if left is not None and right is not None and left.is_free and right.is_free:
                for part in (left, right):
                    self._remove(part)
                left.size += right.size
                left.behind = right.behind
                if right.behind is not None:
                    right.behind.before = left
                del self._chunks[right.start]
                chunk = left
        self._remove(chunk)
        self._add(chunk)

    def _fitting(self, size: int) -> _Chunk:
        """Take the first chunk that fits, of the lowest bin (a power of two) that has one; in it, the smallest."""
        _, _, start = self._free.pop(bisect.bisect_left(self._free, (_bin(size), size, -1)))
        return self._chunks[start]

    def _add(self, chunk: _Chunk) -> None:
        self._chunks[chunk.start] = chunk
        bisect.insort(self._free, (_bin(chunk.size), chunk.size, chunk.start))

    def _remove(self, chunk: _Chunk) -> None:
        key = (_bin(chunk.size), chunk.size, chunk.start)
        place = bisect.bisect_left(self._free, key)
        if place < len(self._free) and self._free[place] == key:
            del self._free[place]


def first_region_bytes(step_bytes: int) -> int:
    """Return the size of the first region of an arena for a step that needs so much; it fits, so does twice the batch.

    The block of the later steps then lies where the tensors of the first one were. In several smaller regions it would
    not fit there, and take as much again.
    """
    return max(LEAST_REGION_BYTES, 2 * step_bytes)


def with_first_region(bytes_without: int) -> int:
    """Return a step's bytes with what the arena writes down for each unit of its first region."""
    return max(
        bytes_without + LEAST_REGION_BYTES // _UNIT * _HANDLE,
        bytes_without * _UNIT // (_UNIT - 2 * _HANDLE),
    )


class Block:
    """Tensors side by side in one block: each new one in the tightest gap between those that live, or behind them."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._living: list[tuple[int, int, str]] = []  # in order: start, size, name

    def take(self, name: str, size_bytes: int) -> None:
        """Place a tensor."""
        size = -(-size_bytes // _UNIT) * _UNIT
        if not size:
            return
        gaps, end = [], 0
        for start, length, _ in self._living:
            if start - end >= size:
                gaps.append((start - end, end))
            end = start + length
        at = min(gaps)[1] if gaps else end
        bisect.insort(self._living, (at, size, name))
        self.size_bytes = max(self.size_bytes, at + size)

    def give(self, name: str) -> None:
        """End a tensor's life."""
        self._living = [tensor for tensor in self._living if tensor[2] != name]


def _bin(size: int) -> int:
    return min((size // _UNIT).bit_length() - 1, 20)
