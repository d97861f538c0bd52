"""What listing devices leaves behind: with the real adb, on a port of the test's own."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nagedge.devices import catalogue
from nagedge.devices.adb import adb_program
from nagedge.errors import RuntimeUnavailableError


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(port))
    monkeypatch.setenv("HOME", str(tmp_path))  # adb keeps keys there
    monkeypatch.delenv("ADB_SERVER_SOCKET", raising=False)
    try:
        found = adb_program()
    except RuntimeUnavailableError as error:
        pytest.skip(str(error))
    yield found
    subprocess.run([found, "kill-server"], capture_output=True, check=False, timeout=30)


def test_a_server_that_listing_started_is_stopped(program: str) -> None:
    assert [one.state for one in catalogue._attached()] == ["none is attached"]
    assert not catalogue._server_answers()


def test_a_server_that_ran_before_keeps_running(program: str) -> None:
    subprocess.run([program, "start-server"], check=True, capture_output=True, timeout=60)
    assert [one.state for one in catalogue._attached()] == ["none is attached"]
    assert catalogue._server_answers()


@pytest.mark.parametrize("port", ["none", "99999999", "1"])
def test_a_port_without_a_server_answers_nothing(port: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", port)
    assert not catalogue._server_answers()
