"""The names of devices: ``host``, ``emulated[-system]:CORE``, ``adb:SERIAL``, ``ios-simulator[:UDID]``.

After an attached device's serial may come what runs there, and on which of its cores.
"""

from __future__ import annotations

from dataclasses import dataclass

from nagedge.devices.cores import find_core
from nagedge.errors import ConfigurationError, nearest_name

__all__ = ["CORE_CHOICES", "KINDS", "RUNNERS", "Device", "parse_device"]

KINDS = ("host", "emulated", "emulated-system", "adb", "ios-simulator")
"""What a device can be."""

RUNNERS = ("app", "python", "native")
"""What can run a bundle on an attached device: the Android app, its own Python, upstream's benchmark programs."""

CORE_CHOICES = ("big", "little", "all")
"""Which cores of an attached device: the fastest, the slowest, or as its system schedules them."""


@dataclass(frozen=True)
class Device:
    """A device by name.

    Args:
        kind: of :data:`KINDS`. detail: the core of an emulated one; of an attached one its serial, then of
            :data:`RUNNERS` and of :data:`CORE_CHOICES` what the user chose, with slashes between; of a simulated
            one its identifier, or nothing for any.
    """

    kind: str
    detail: str = ""

    @property
    def name(self) -> str:
        """As the user writes it."""
        return f"{self.kind}:{self.detail}" if self.detail else self.kind

    @property
    def serial(self) -> str:
        """Of an attached device, as adb lists it."""
        return self.detail.partition("/")[0]

    @property
    def runner(self) -> str | None:
        """Of :data:`RUNNERS`; None takes the first that there is."""
        return next((word for word in self._words if word in RUNNERS), None)

    @property
    def cores(self) -> str:
        """Of :data:`CORE_CHOICES`."""
        return next((word for word in self._words if word in CORE_CHOICES), "big")

    @property
    def _words(self) -> list[str]:
        return self.detail.split("/")[1:]


def parse_device(name: str) -> Device:
    """Return the device of a name.

    Raises:
        ConfigurationError: there is no such kind of device, no such core, or no such choice.
    """
    kind, _, detail = name.strip().partition(":")
    if kind not in KINDS or (kind == "host" and detail) or (kind == "adb" and not detail.partition("/")[0]):
        raise ConfigurationError(
            f"unknown device {name!r}; expected host, emulated:CORE, adb:SERIAL or ios-simulator, as `nagedge devices "
            "ls` lists them." + ("" if kind in KINDS else nearest_name(kind, KINDS))
        )
    device = Device(kind, detail)
    if kind.startswith("emulated"):
        find_core(detail)
    elif kind == "adb":
        _check_choices(name, detail.split("/")[1:])
    return device


def _check_choices(name: str, words: list[str]) -> None:
    known = (*RUNNERS, *CORE_CHOICES)
    for word in words:
        if word not in known:
            raise ConfigurationError(
                f"device {name!r}: unknown choice {word!r}; after the serial come, with slashes between, one of "
                f"{', '.join(RUNNERS)} and one of {', '.join(CORE_CHOICES)}, such as adb:SERIAL/app/big."
                + nearest_name(word, known)
            )
    if sum(word in RUNNERS for word in words) > 1 or sum(word in CORE_CHOICES for word in words) > 1:
        raise ConfigurationError(
            f"device {name!r} is told two ways; expected at most one of {', '.join(RUNNERS)} and one of "
            f"{', '.join(CORE_CHOICES)}."
        )
