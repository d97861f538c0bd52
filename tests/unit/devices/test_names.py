"""The names of devices."""

from __future__ import annotations

import pytest

from nagedge.devices.names import parse_device
from nagedge.errors import ConfigurationError


@pytest.mark.parametrize(
    ("name", "serial", "runner", "cores"),
    [
        ("adb:R58M123", "R58M123", None, "big"),
        ("adb:127.0.0.1:5555/app", "127.0.0.1:5555", "app", "big"),
        ("adb:emulator-5554/little/python", "emulator-5554", "python", "little"),
        ("adb:adb-R5_x._adb-tls-connect._tcp/native/all", "adb-R5_x._adb-tls-connect._tcp", "native", "all"),
    ],
)
def test_an_attached_device_says_what_runs_and_where(
    name: str, serial: str, runner: str | None, cores: str
) -> None:
    device = parse_device(name)
    assert (device.kind, device.serial, device.runner, device.cores, device.name) == (
        "adb", serial, runner, cores, name
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("adb:", "unknown device 'adb:'"),
        ("adb:/app", "unknown device 'adb:/app'"),
        ("adb:A1/apps", r"unknown choice 'apps'; .*app, python, native.*Did you mean 'app'"),
        ("adb:A1/", "unknown choice ''"),
        ("adb:A1/app/python", "is told two ways"),
        ("adb:A1/big/little", "is told two ways"),
    ],
)
def test_a_name_that_says_nothing_or_two_things_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        parse_device(name)
