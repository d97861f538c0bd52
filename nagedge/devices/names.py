"""The names of devices: ``host``, ``emulated[-system]:CORE``, ``adb:SERIAL``, ``ios-simulator[:UDID]``."""

from __future__ import annotations

from dataclasses import dataclass

from nagedge.devices.cores import find_core
from nagedge.errors import ConfigurationError, nearest_name

__all__ = ["KINDS", "Device", "parse_device"]

KINDS = ("host", "emulated", "emulated-system", "adb", "ios-simulator")
"""What a device can be."""


@dataclass(frozen=True)
class Device:
    """A device by name.

    Args:
        kind: of :data:`KINDS`. detail: the core of an emulated one, the serial of an attached one, the identifier of a
            simulated one or nothing for any.
    """

    kind: str
    detail: str = ""

    @property
    def name(self) -> str:
        """As the user writes it."""
        return f"{self.kind}:{self.detail}" if self.detail else self.kind


def parse_device(name: str) -> Device:
    """Return the device of a name.

    Raises:
        ConfigurationError: there is no such kind of device, or no such core.
    """
    kind, _, detail = name.strip().partition(":")
    if kind not in KINDS or (kind == "host" and detail) or (kind == "adb" and not detail):
        raise ConfigurationError(
            f"unknown device {name!r}; expected host, emulated:CORE, adb:SERIAL or ios-simulator, as `nagedge devices "
            "ls` lists them." + ("" if kind in KINDS else nearest_name(kind, KINDS))
        )
    if kind.startswith("emulated"):
        find_core(detail)
    return Device(kind, detail)
