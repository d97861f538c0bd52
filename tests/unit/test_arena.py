"""The models of ONNX Runtime's arena and block: what is reused, cut, joined and touched, and what lies where."""

from __future__ import annotations

import pytest

from nagedge.runtimes.arena import Arena, Block, first_region_bytes, with_first_region

KIB = 1024


def test_freed_memory_is_taken_again() -> None:
    arena = Arena()
    first = arena.take(64 * KIB)
    arena.give(first)
    assert arena.take(64 * KIB) == first
    assert arena.touched_bytes == 64 * KIB


def test_free_neighbours_join() -> None:
    arena = Arena()
    parts = [arena.take(32 * KIB) for _ in range(3)]
    for part in (parts[0], parts[2], parts[1]):
        arena.give(part)
    assert arena.take(96 * KIB) == parts[0]
    assert arena.touched_bytes == 96 * KIB


def test_a_chunk_less_than_twice_as_large_is_not_cut() -> None:
    arena = Arena()
    first = arena.take(60 * KIB)
    arena.take(4 * KIB)
    arena.give(first)
    assert arena.take(40 * KIB) == first
    assert arena.take(16 * KIB) != first + 40 * KIB


def test_a_block_takes_the_tightest_gap() -> None:
    block = Block()
    for name, size in (("a", 4), ("b", 1), ("c", 2), ("d", 1)):
        block.take(name, size * KIB)
    block.give("a")
    block.give("c")
    block.take("e", 2 * KIB)  # where c was
    block.take("f", 3 * KIB)  # where a was
    assert block.size_bytes == 8 * KIB
    block.take("g", 2 * KIB)  # behind d
    assert block.size_bytes == 10 * KIB


def test_a_block_counts_in_units_and_leaves_out_empty_tensors() -> None:
    block = Block()
    block.take("none", 0)
    block.take("one", 1)
    assert block.size_bytes == 256


@pytest.mark.parametrize("without", [1 << 20, 15 << 20, 40 << 20])
def test_the_first_region_is_counted_with_what_it_is_made_for(without: int) -> None:
    planned = with_first_region(without)
    assert planned - without == pytest.approx(first_region_bytes(planned) / 32, abs=1)
