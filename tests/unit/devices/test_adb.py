"""What is made of adb's words; a device that answers: tests/integration."""

from __future__ import annotations

from pathlib import Path

import pytest

from nagedge.devices import adb
from nagedge.devices.adb import Attached
from nagedge.errors import RuntimeUnavailableError


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


@pytest.mark.parametrize(
    ("listed", "text"),
    [("A1 offline", r"device 'A1' is gone \(exit code 255\)"), ("A1 device", "shell failed: exit code 255")],
)
def test_a_connection_that_breaks_without_a_word_is_told_from_a_command_that_fails(
    listed: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = f'[ "$1" = devices ] && printf "List of devices attached\\n{listed}\\n" && exit 0; exit 255'
    program(tmp_path, script, monkeypatch)
    with pytest.raises(RuntimeUnavailableError, match=text):
        adb.shell("A1", "true")
