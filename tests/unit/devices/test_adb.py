"""What is made of adb's words; a device that answers: tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from nagedge.devices import adb
from nagedge.devices.adb import Attached, Conditions
from nagedge.errors import RuntimeUnavailableError
from nagedge.profiling.attached import is_throttled

QUIET = Conditions(40.0, 1800.0, 2000.0, 80, 0)


def program(folder: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an adb of the test's own into PATH."""
    path = folder / "adb"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_devices_are_read_with_their_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "List of devices attached\\nA1 device usb:1 model:Pixel_6 device:oriole\\nB2 unauthorized usb:2\\n"
    )
    program(tmp_path, f'printf "{lines}"', monkeypatch)
    assert adb.attached() == (Attached("A1", "device", "Pixel 6"), Attached("B2", "unauthorized", ""))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("adb: device 'A1' not found", r"device 'A1' is gone \(adb: device 'A1' not found\)\. Plug it in"),
        ("error: device offline", "is gone"),
        ("sh: python3: not found", "shell failed: sh: python3: not found"),
    ],
)
def test_what_adb_says_is_passed_on(
    words: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, f'echo "{words}" >&2; exit 1', monkeypatch)
    with pytest.raises(RuntimeUnavailableError, match=text):
        adb.shell("A1", "python3")


def test_conditions_are_what_the_device_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(
        tmp_path,
        """case "$4" in
        *thermal_zone*) printf '41000\\n52500\\n' ;;
        *scaling_cur*) echo 900000 ;;
        *cpuinfo_max*) echo 1800000 ;;
        *battery*) echo '  level: 64' ;;
        *thermalservice*) echo 'Thermal Status: 2' ;;
        esac""",
        monkeypatch,
    )
    assert adb.conditions("A1") == Conditions(52.5, 900.0, 1800.0, 64, 2)


def test_a_device_that_tells_nothing_has_no_conditions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, "true", monkeypatch)
    assert adb.conditions("A1") == Conditions(None, None, None, None, None)
    assert not is_throttled(adb.conditions("A1"), adb.conditions("A1"))


@pytest.mark.parametrize(
    ("before", "after", "throttled"),
    [
        (QUIET, QUIET, False),
        (QUIET, Conditions(70.0, 1800.0, 2000.0, 80, 2), False),
        (QUIET, Conditions(80.0, 1800.0, 2000.0, 80, 3), True),
        (Conditions(80.0, 1800.0, 2000.0, 80, 4), QUIET, True),
        (QUIET, Conditions(70.0, 1100.0, 2000.0, 80, 0), True),
    ],
)
def test_a_round_is_throttled_by_status_or_clock(
    before: Conditions, after: Conditions, throttled: bool
) -> None:
    assert is_throttled(before, after) == throttled
