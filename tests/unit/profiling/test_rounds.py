"""Rounds on an attached device: what is kept, what is dropped and counted, what an unplugged device leaves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from nagedge.devices.conditions import Conditions
from nagedge.errors import RuntimeUnavailableError
from nagedge.profiling import rounds
from nagedge.profiling.rounds import Round, run_watched, take_rounds


def a_round(number: int, watch: Callable[[], None]) -> Round:
    return Round((number + 1, number + 2), "a runtime", 1.0)


def say(monkeypatch: pytest.MonkeyPatch, *statuses: int) -> list[int]:
    """Let the device tell these thermal statuses, one a reading, and the last one from then on."""
    told: list[int] = []

    def read(serial: str, *, core: int) -> Conditions:
        told.append(statuses[min(len(told), len(statuses) - 1)])
        return Conditions(thermal_status=told[-1])

    monkeypatch.setattr(rounds, "read_conditions", read)
    return told


def test_quiet_rounds_all_count(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, 0)
    found = take_rounds("A1", 3, a_round, core=0)
    assert [one.durations_ns for one in found.kept] == [(1, 2), (2, 3), (3, 4)]
    assert (found.rounds_throttled, found.calls_throttled, found.why_throttled, found.ended) == (0, 0, "", "")
    assert [one.stage for one in found.readings] == ["before", "during", "during", "after"]
    assert all(one.at_s >= 0 for one in found.readings)


def test_a_round_between_hot_readings_is_dropped_and_its_calls_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Before, after the first, after the second, after the third: the reading between two rounds belongs to both.
    say(monkeypatch, 0, 0, 3, 0)
    found = take_rounds("A1", 3, a_round, core=0)
    assert [one.durations_ns for one in found.kept] == [(1, 2)]
    assert (found.rounds_throttled, found.calls_throttled) == (2, 4)
    assert found.why_throttled == "Android's thermal status was 3"


def test_a_round_that_is_hot_in_its_middle_only_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds, "_READ_EVERY_S", -1.0)
    say(monkeypatch, 0, 4, 0)

    def watched(number: int, watch: Callable[[], None]) -> Round:
        if number == 0:
            watch()
        return a_round(number, watch)

    found = take_rounds("A1", 2, watched, core=0)
    assert [one.durations_ns for one in found.kept] == [(2, 3)]
    assert [one.stage for one in found.readings] == ["before", "during", "during", "after"]


def test_what_was_complete_is_kept_when_the_device_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, 0)

    def goes(number: int, watch: Callable[[], None]) -> Round:
        if number == 2:
            raise RuntimeUnavailableError("device 'A1' is gone.")
        return a_round(number, watch)

    found = take_rounds("A1", 5, goes, core=0)
    assert len(found.kept) == 2
    assert found.ended == "device 'A1' is gone."


def test_nothing_that_counts_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, 5)
    with pytest.raises(
        RuntimeUnavailableError, match=r"was throttled in all of 2 rounds: .* was 5\. Let it cool down"
    ):
        take_rounds("A1", 2, a_round, core=0)

    def never(number: int, watch: Callable[[], None]) -> Round:
        raise RuntimeUnavailableError("device 'A1' is gone.")

    with pytest.raises(RuntimeUnavailableError, match="is gone"):
        take_rounds("A1", 2, never, core=0)


def test_a_command_is_watched_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    watched: list[int] = []

    def slow(serial: str, command: str) -> str:
        limit: Iterator[int] = iter(range(200))
        while len(watched) < 2 and next(limit, None) is not None:
            time.sleep(0.05)
        return f"{serial}: {command}"

    monkeypatch.setattr(rounds, "shell", slow)
    assert run_watched("A1", "true", lambda: watched.append(1)) == "A1: true"
    assert len(watched) >= 2

    def gone(serial: str, command: str) -> str:
        raise RuntimeUnavailableError("device 'A1' is gone.")

    monkeypatch.setattr(rounds, "shell", gone)
    with pytest.raises(RuntimeUnavailableError, match="is gone"):
        run_watched("A1", "true", lambda: None)
