"""Data sheets: each that ships is read, and a wrong one is refused with what to change."""

from __future__ import annotations

from pathlib import Path

import pytest

from nagedge.devices.cores import CORES
from nagedge.devices.device_profiles import (
    available_device_profiles,
    device_profile_file,
    load_device_profile,
)
from nagedge.errors import ConfigurationError


@pytest.mark.parametrize("name", available_device_profiles())
def test_every_profile_that_ships_is_read_and_cites_sources(name: str) -> None:
    profile = load_device_profile(name)
    assert profile.name == name
    assert profile.core in CORES
    assert any("stimate" in source for source in profile.sources)  # what is no figure of the maker's says so
    assert profile.lowest_ipc < profile.issue_width


def test_a_file_of_ones_own_may_have_any_place(tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text(device_profile_file("raspberry-pi-5").read_text())
    assert load_device_profile(own).name == "mine"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (("clock_mhz = 2400", "clock_mhz = 0"), "clock_mhz is 0.0, expected a number > 0"),
        (("clock_mhz = 2400", 'clock_mhz = "fast"'), "clock_mhz is 'fast', expected a number"),
        (("clock_mhz = 2400", "clock_mhz = true"), "clock_mhz is True, expected a number"),
        (("clock_mhz = 2400", "clock = 2400"), r"unknown key 'clock'.*Did you mean 'clock_mhz'\?"),
        (("clock_mhz = 2400\n", ""), "'clock_mhz' is missing"),
        (("cortex-a76", "cortex-a77"), "unknown core 'cortex-a77'"),
        (("exact_core = true", "exact_core = 1"), "exact_core is 1, expected true or false"),
        (('title = "Raspberry Pi 5, Cortex-A76"', "title = 5"), "title is 5, expected a string"),
        (("sources = [", "sources = []\nx = ["), "unknown key 'x'"),
        (("clock_mhz = 2400", "clock_mhz = = 2"), "not valid TOML"),
    ],
)
def test_a_wrong_file_is_refused(change: tuple[str, str], text: str, tmp_path: Path) -> None:
    own = tmp_path / "mine.toml"
    own.write_text(device_profile_file("raspberry-pi-5").read_text().replace(*change))
    with pytest.raises(ConfigurationError, match=text):
        load_device_profile(own)


def test_what_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"unknown device profile 'raspberry-pi-6'.*Did you mean 'raspberry"
    ):
        load_device_profile("raspberry-pi-6")
    with pytest.raises(ConfigurationError, match=r"cannot be read \(No such file"):
        load_device_profile(tmp_path / "none.toml")
