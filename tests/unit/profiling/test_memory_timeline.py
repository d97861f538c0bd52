"""The timeline of memory: what is read, what is kept of it, and a real process that allocates and frees."""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from pathlib import Path

import pytest

from nagedge.profiling.memory import peak_memory
from nagedge.profiling.memory_timeline import Marks, assemble, now_resident, watched

MIB = 1 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells of another process's memory")

WORKLOAD = """
import time

def load(step_mib, pause_s):
    def run(iteration):
        block = bytearray(b"y") * (step_mib << 20)
        time.sleep(pause_s)
        assert len(block)
    return run
"""


@pytest.fixture
def factory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "timeline_workload.py").write_text(WORKLOAD)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "timeline_workload:load"


def marks(*steps: tuple[int, int]) -> Marks:
    return Marks((1_000_000, 100), (2_000_000, 300), steps)


def test_times_begin_with_loading_and_unchanged_values_are_left_out() -> None:
    readings = [(500_000, 7), (1_500_000, 100), (1_600_000, 250), (2_500_000, 300), (9_000_000, 999)]
    found = assemble(readings, marks((2_000_000, 300), (3_000_000, 350)), evidence="measured-host")
    assert found.times_ms == (0.0, 0.6, 1.0, 2.0)
    assert found.resident_bytes == (100, 250, 300, 350)
    assert (found.loaded_ms, found.steps_ms, found.readings) == (1.0, (1.0, 2.0), 6)


def test_a_long_series_keeps_its_ends_and_its_extremes() -> None:
    readings = [(2_000_000 + 10 * i, 400 + i % 7) for i in range(1, 5000)]
    readings[2345] = (readings[2345][0], 9_000)
    readings[2999] = (readings[2999][0], 1)
    end = (2_100_000, 450)
    found = assemble(readings, marks((2_000_000, 300), end), evidence="measured-host")
    assert len(found.times_ms) <= 600
    assert {9_000, 1} <= set(found.resident_bytes)
    assert (found.resident_bytes[0], found.resident_bytes[-1]) == (100, 450)
    assert list(found.times_ms) == sorted(found.times_ms)


@linux
def test_memory_that_a_step_takes_and_gives_back_is_seen(factory: str) -> None:
    peak = peak_memory(factory, {"step_mib": 48, "pause_s": 0.03}, timeline=True)
    found = peak.timeline
    assert found is not None
    assert len(found.steps_ms) == 10 + 1
    assert found.loaded_ms <= found.steps_ms[0]
    taken = []
    for start, end in itertools.pairwise(found.steps_ms):
        sizes = [
            size
            for time_ms, size in zip(found.times_ms, found.resident_bytes, strict=True)
            if start <= time_ms <= end
        ]
        taken.append(max(sizes) - min(sizes))
    assert statistics.median(taken) == pytest.approx(48 * MIB, abs=2 * MIB)  # a busy machine may miss a step
    assert found.evidence == "measured-host"


@linux
def test_a_slow_step_ends_the_timeline_early(factory: str) -> None:
    peak = peak_memory(factory, {"step_mib": 1, "pause_s": 0.6}, timeline=True)
    assert peak.timeline is not None
    assert 3 + 1 <= len(peak.timeline.steps_ms) - 1 <= 3 + 2  # those of the peak, then until a second is over


def test_without_asking_there_is_no_timeline(factory: str) -> None:
    assert peak_memory(factory, {"step_mib": 1, "pause_s": 0.0}).timeline is None


def test_a_process_that_is_gone_leaves_no_readings() -> None:
    with watched(None) as nothing, watched(1 << 30) as gone:
        time.sleep(0.01)
    assert nothing == gone == []


@linux
def test_this_process_is_read() -> None:
    with watched(os.getpid()) as found:
        time.sleep(0.1)
    now = now_resident()
    assert now is not None
    assert len(found) >= 3
    assert found[-1][1] == pytest.approx(now[1], rel=0.2)
