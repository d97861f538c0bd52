"""Rounds of timed calls on an attached device, with its conditions before, during and after each.

A round in which the device was throttled does not count, and is counted. A device that is unplugged leaves the rounds
that were complete.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass

from nagedge.devices.adb import shell
from nagedge.devices.conditions import read_conditions, why_throttled
from nagedge.errors import RuntimeUnavailableError
from nagedge.profiling.device_run import Reading

__all__ = ["Round", "Rounds", "run_watched", "take_rounds"]

_READ_EVERY_S = 2.0
"""A reading during a round disturbs it."""


@dataclass(frozen=True)
class Round:
    """What one round found.

    Args:
        durations_ns: of each call, in order. runtime: name and version. load_ms: opening the file.
        machine: the device, as it calls itself. notes: what a reader must know, in plain sentences.
    """

    durations_ns: tuple[int, ...]
    runtime: str
    load_ms: float
    machine: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rounds:
    """What all rounds found; ``kept`` has at least one. The rest: :class:`nagedge.profiling.device_run.DeviceRun`."""

    kept: tuple[Round, ...]
    rounds_throttled: int
    calls_throttled: int
    why_throttled: str
    ended: str
    readings: tuple[Reading, ...]


def run_watched(serial: str, command: str, watch: Callable[[], None]) -> str:
    """Run a command in a device's shell and call ``watch`` now and then meanwhile; raises as ``shell`` does."""
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(shell, serial, command)
        while not wait([running], timeout=0.5).done:
            watch()
        return running.result()


def take_rounds(
    serial: str,
    count: int,
    run: Callable[[int, Callable[[], None]], Round],
    *,
    core: int,
    advance: Callable[[int], None] = lambda number: None,
) -> Rounds:
    """Take rounds one after the other.

    Args:
        serial: of the device. count: of rounds.
        run: takes the number of the round and what it may call now and then to have the conditions read; returns the
            round.
        core: whose clock is looked at. advance: called with the number of each round before it begins.

    Raises:
        RuntimeUnavailableError: no round was complete, or the device was throttled in all of them.
        BundleError: from ``run``.
    """
    kept: list[Round] = []
    readings: list[Reading] = []
    throttled: list[tuple[Round, str]] = []
    began = time.monotonic()

    def read(stage: str) -> None:
        conditions = read_conditions(serial, core=core)
        readings.append(Reading(stage, round(time.monotonic() - began, 3), conditions))

    def watch() -> None:
        if time.monotonic() - began - readings[-1].at_s > _READ_EVERY_S:
            read("during")

    ended = ""
    try:
        read("before")
        for number in range(count):
            advance(number)
            start = len(readings) - 1
            done = run(number, watch)
            read("after" if number == count - 1 else "during")
            reason = why_throttled([reading.conditions for reading in readings[start:]])
            if reason:
                throttled.append((done, reason))
            else:
                kept.append(done)
    except RuntimeUnavailableError as error:
        if not kept:
            raise
        ended = str(error)
    if not kept:
        raise RuntimeUnavailableError(
            f"device {serial!r} was throttled in all of {count} rounds: {throttled[-1][1]}. Let it cool down, switch "
            "its power saving off, and profile again."
        )
    return Rounds(
        kept=tuple(kept), rounds_throttled=len(throttled),
        calls_throttled=sum(len(one.durations_ns) for one, _ in throttled),
        why_throttled=throttled[-1][1] if throttled else "", ended=ended, readings=tuple(readings),
    )  # fmt: skip
