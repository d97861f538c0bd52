"""Memory over time of a process that loads a session and runs steps: watched from outside, so that nothing is added.

The watching process reads the other's resident memory from ``/proc`` some thousand times a second (Linux only). The
watched one notes when a step begins, on the same clock, and its memory then: a step that is shorter than the time
between two readings still has a value at both ends.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["Marks", "MemoryTimeline", "Reading", "assemble", "now_resident", "watched"]

_INTERVAL_S = 0.0005
_BINS = 150
"""A longer series is told by the first, lowest, highest and last value of each bin (M4: Jugel et al. 2014)."""

Reading = tuple[int, int]
"""``time.monotonic_ns()``, which processes of one machine share, and resident bytes."""


@dataclass(frozen=True)
class MemoryTimeline:
    """Resident memory from the beginning of loading to the end of the last step.

    Args:
        evidence: the class of evidence. method: how it was read.
        times_ms: when a value was read, from the beginning of loading. resident_bytes: of the whole process; as many. A
            value holds until the next one; readings that changed nothing are left out.
        loaded_ms: when the session was loaded. steps_ms: when each step began, and when the last one ended.
        readings: how often it was read in all; few for a step say that its memory was not seen in between.
    """

    evidence: str
    method: str
    times_ms: tuple[float, ...]
    resident_bytes: tuple[int, ...]
    loaded_ms: float
    steps_ms: tuple[float, ...]
    readings: int


@dataclass(frozen=True)
class Marks:
    """What the watched process noted.

    Args:
        started, loaded: readings before and after loading.
        steps: readings at the beginning of each step, and at the end of the last.
    """

    started: Reading
    loaded: Reading
    steps: tuple[Reading, ...]


def now_resident(status_file: int | None = None) -> Reading | None:
    """Return the time and the resident memory of this process, or of the one whose ``statm`` is open.

    Returns:
        None where the system does not tell, or where the process has ended.
    """
    if status_file is not None:
        try:
            pages = os.pread(status_file, 128, 0).split()[1]
        except (OSError, IndexError):
            return None
        return time.monotonic_ns(), int(pages) * _page_bytes()
    try:
        own = os.open("/proc/self/statm", os.O_RDONLY)
    except OSError:
        return None
    try:
        return now_resident(own)
    finally:
        os.close(own)


def _page_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE")


@contextmanager
def watched(process: int | None) -> Iterator[list[Reading]]:
    """Read a process's memory while the block runs; the list fills meanwhile.

    It stays empty without a process, and where the system does not tell.
    """
    found: list[Reading] = []
    try:
        status_file = os.open(f"/proc/{process}/statm", os.O_RDONLY)
    except OSError:
        yield found
        return
    ended = threading.Event()

    def read() -> None:
        while not ended.wait(_INTERVAL_S):
            reading = now_resident(status_file)
            if reading is None:
                return
            found.append(reading)

    thread = threading.Thread(target=read, name="nagedge-memory", daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()
        os.close(status_file)


def assemble(readings: Sequence[Reading], marks: Marks, *, evidence: str) -> MemoryTimeline:
    """Return the timeline of what was read from outside and noted inside.

    Args:
        readings: in order of time; those before ``marks.started`` and after the last step are left out.
        marks: of the watched process.
        evidence: the class of evidence.
    """
    start, end = marks.started[0], (marks.steps[-1] if marks.steps else marks.loaded)[0]
    noted = [marks.started, marks.loaded, *marks.steps]
    series = sorted({*noted, *(one for one in readings if start <= one[0] <= end)})
    kept = [one for i, one in enumerate(series) if i in (0, len(series) - 1) or one[1] != series[i - 1][1]]
    kept = _thinned(kept)

    def since_ms(time_ns: int) -> float:
        return round((time_ns - start) / 1e6, 4)

    return MemoryTimeline(
        evidence=evidence,
        method=f"resident memory from /proc, every {_INTERVAL_S * 1e3:g} ms from outside and between steps",
        times_ms=tuple(since_ms(time_ns) for time_ns, _ in kept),
        resident_bytes=tuple(size for _, size in kept),
        loaded_ms=since_ms(marks.loaded[0]),
        steps_ms=tuple(since_ms(time_ns) for time_ns, _ in marks.steps),
        readings=len(series),
    )


def _thinned(series: Sequence[Reading]) -> list[Reading]:
    """At most four values a bin of equal numbers of values: the first, the lowest, the highest and the last."""
    if len(series) <= 4 * _BINS:
        return list(series)
    edges = [len(series) * index // _BINS for index in range(_BINS + 1)]
    found: list[Reading] = []
    for low, high in itertools.pairwise(edges):
        part = series[low:high]
        sizes = [size for _, size in part]
        indices = {0, len(part) - 1, sizes.index(min(sizes)), sizes.index(max(sizes))}
        found += [part[index] for index in sorted(indices)]
    return found
