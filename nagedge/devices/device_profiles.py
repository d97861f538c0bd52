"""Phones and boards as data: what a core can do in a cycle, from its maker's documents. One TOML file each.

The files lie in ``nagedge/devices/profiles``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from os import PathLike
from pathlib import Path

from nagedge.devices.cores import find_core
from nagedge.errors import ConfigurationError, nearest_name
from nagedge.toml_records import RecordTexts, read_record

__all__ = ["DeviceProfile", "available_device_profiles", "device_profile_file", "load_device_profile"]


_TEXTS = RecordTexts(
    kind="device profile",
    stated_by="every profile",
    unreadable="give a name that `nagedge devices ls` lists, or the path of a .toml file",
    malformed="start from what `nagedge devices cat` prints",
)


@dataclass(frozen=True)
class DeviceProfile:
    """One core of a phone or a board.

    Args:
        name: the file's name without ``.toml``.
        title: of the device and its core, for people.
        core: the emulated core whose counts are used. exact_core: whether it is the device's own; if not, it is the
            nearest that the emulator has, and the device may choose other kernels.
        clock_mhz: the highest clock of the core; a phone holds it for seconds only.
        issue_width: instructions a cycle that are decoded.
        integers_per_cycle, branches_per_cycle, loads_per_cycle, stores_per_cycle, vectors_per_cycle: throughput of the
            pipelines; ``vectors`` are 128-bit operations, multiply-adds included.
        lowest_ipc: instructions a cycle of code that stalls all the time: the slow end of what is modelled.
        level2_latency_cycles: of data that the first cache lacks.
        memory_gb_per_s: that one core reads, in 1e9 bytes a second.
        sources: the documents that the figures come from; which are estimates is said there.
    """

    name: str
    title: str
    core: str
    exact_core: bool
    clock_mhz: float
    issue_width: float
    integers_per_cycle: float
    branches_per_cycle: float
    loads_per_cycle: float
    stores_per_cycle: float
    vectors_per_cycle: float
    lowest_ipc: float
    level2_latency_cycles: float
    memory_gb_per_s: float
    sources: tuple[str, ...]


def available_device_profiles() -> tuple[str, ...]:
    """Return the names of the profiles that come with NagEdge, sorted."""
    return tuple(sorted(path.stem for path in _folder().glob("*.toml")))


def device_profile_file(name: str) -> Path:
    """Return the file of a profile that comes with NagEdge.

    Raises:
        ConfigurationError: when there is none of that name.
    """
    known = available_device_profiles()
    if name not in known:
        raise ConfigurationError(
            f"unknown device profile {name!r}; `nagedge devices ls` lists the {len(known)} that come with NagEdge."
            + nearest_name(name, known)
        )
    return _folder() / f"{name}.toml"


def load_device_profile(name_or_path: str | PathLike[str]) -> DeviceProfile:
    """Return a profile by name, or from a file of one's own.

    Args:
        name_or_path: a name of :func:`available_device_profiles`, or a path that ends in ``.toml``.

    Raises:
        ConfigurationError: for an unknown name or core, a missing or malformed file, an unknown or missing key, or
            a value of the wrong type or out of range.
    """
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = device_profile_file(str(name_or_path))
    profile = read_record(DeviceProfile, path, _TEXTS)
    _check_ranges(path, profile)
    return profile


def _check_ranges(path: Path, profile: DeviceProfile) -> None:
    for field in fields(DeviceProfile):
        got = getattr(profile, field.name)
        problem = f"device profile {path}: {field.name} is {got!r}, expected"
        if isinstance(got, float) and not (math.isfinite(got) and got > 0):
            raise ConfigurationError(f"{problem} a number > 0.")
        if got in {"", ()}:
            raise ConfigurationError(f"{problem} something: nothing is stated there.")
    find_core(profile.core)


def _folder() -> Path:
    return Path(__file__).with_name("profiles")
