"""What may slow an attached device down: heat, a clock that is held back, its battery; read with one command."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nagedge.devices.adb import shell

__all__ = ["Conditions", "parse_conditions", "read_conditions", "why_throttled"]

_SEVERE = 3
"""Android's ``THROTTLING_SEVERE``: what a user does is affected (android.os.PowerManager)."""

_HELD_BACK = 0.8
"""A limit of the clock below this share of the highest one is throttling, whatever set it."""

_SECTIONS = {
    "zones": "cat /sys/class/thermal/thermal_zone*/temp",
    "clock": "cat /sys/devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq",
    "limit": "cat /sys/devices/system/cpu/cpu{core}/cpufreq/scaling_max_freq",
    "highest": "cat /sys/devices/system/cpu/cpu{core}/cpufreq/cpuinfo_max_freq",
    "battery": "dumpsys battery",
    "thermal": "dumpsys thermalservice",
}


@dataclass(frozen=True)
class Conditions:
    """What may slow a device down; ``None`` where it does not tell.

    Args:
        temperature_c: of its hottest sensor.
        clock_mhz: of the core that is looked at, now; it falls when the core has nothing to do.
        clock_limit_mhz: what that core may run at just now. highest_clock_mhz: what it can run at.
        battery_percent: charge. battery_c: its temperature. charging: whether it is on a charger or a USB port.
        thermal_status: Android's (10 and newer), 0 for none, 3 and more for severe throttling.
    """

    temperature_c: float | None = None
    clock_mhz: float | None = None
    clock_limit_mhz: float | None = None
    highest_clock_mhz: float | None = None
    battery_percent: int | None = None
    battery_c: float | None = None
    charging: bool | None = None
    thermal_status: int | None = None


def read_conditions(serial: str, *, core: int = 0) -> Conditions:
    """Ask a device.

    Args:
        serial: of the device. core: whose clock.

    Raises:
        RuntimeUnavailableError: the device is gone.
    """
    commands = [
        f"echo '#{name}'; {command.format(core=core)} 2>/dev/null" for name, command in _SECTIONS.items()
    ]
    return parse_conditions(shell(serial, "; ".join([*commands, "true"])))


def parse_conditions(text: str) -> Conditions:
    """Return what the sections of :func:`read_conditions`' answer say.

    The battery is that of Android's ``dumpsys battery``: ``level`` in percent, ``temperature`` in tenths of a degree.
    The thermal service's (ThermalManagerService.dump) are ``Thermal Status: N`` and, after "Current temperatures from
    HAL", ``Temperature{mValue=31.6, mType=0, mName=CPU0, mStatus=0}``; those before it are old.
    """
    sections = {part.partition("\n")[0].strip(): part.partition("\n")[2] for part in text.split("#")[1:]}
    battery, thermal = sections.get("battery", ""), sections.get("thermal", "")
    status = re.search(r"Thermal Status: (\d+)", thermal)
    powered = re.findall(r"^\s*(?:AC|USB|Wireless|Dock) powered: (true|false)", battery, re.MULTILINE)
    tenths = _whole(battery, "temperature")
    return Conditions(
        temperature_c=_hottest(sections.get("zones", ""), thermal),
        clock_mhz=_mhz(sections.get("clock", "")),
        clock_limit_mhz=_mhz(sections.get("limit", "")),
        highest_clock_mhz=_mhz(sections.get("highest", "")),
        battery_percent=_whole(battery, "level"),
        battery_c=None if tenths is None else tenths / 10,
        charging="true" in powered if powered else None,
        thermal_status=int(status[1]) if status else None,
    )


def why_throttled(readings: Sequence[Conditions]) -> str:
    """Return why what ran between these readings was slowed down; empty when it was not."""
    status = max((reading.thermal_status or 0 for reading in readings), default=0)
    if status >= _SEVERE:
        return f"Android's thermal status was {status}"
    for reading in readings:
        limit, highest = reading.clock_limit_mhz, reading.highest_clock_mhz
        if limit is not None and highest is not None and limit < _HELD_BACK * highest:
            return f"the clock was held at {limit:.0f} of {highest:.0f} MHz"
    return ""


def _hottest(zones: str, thermal: str) -> float | None:
    """Of the kernel's sensors, in thousandths of a degree on most; else of those that Android tells."""
    values = [float(word) for word in zones.split() if re.fullmatch(r"-?\d+", word)]
    degrees = [value / 1000 if abs(value) >= 1000 else value for value in values]
    _, _, current = thermal.partition("Current temperatures from HAL:")
    told = re.findall(r"mValue=(-?[\d.]+), mType=(-?\d+)", current.partition("cooling devices")[0])
    # Types 0 to 3 are processor, graphics, battery and skin; the rest holds voltages and percents too.
    degrees = degrees or [float(value) for value, kind in told if kind in ("0", "1", "2", "3")]
    sane = [value for value in degrees if 0 < value < 150]  # a sensor that is not fitted reads 0 or nonsense
    return max(sane) if sane else None


def _mhz(section: str) -> float | None:
    words = [word for word in section.split() if word.isdigit()]
    return int(words[0]) / 1000 if words else None


def _whole(section: str, name: str) -> int | None:
    found = re.search(rf"^\s*{name}: (-?\d+)", section, re.MULTILINE)
    return int(found[1]) if found else None
