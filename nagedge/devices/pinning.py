"""Which cores of an attached device are fast, and how a program is kept on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nagedge.devices.adb import shell

__all__ = ["Pinning", "choose_cores", "core_kinds", "parse_cores"]

_CPU = "/sys/devices/system/cpu/cpu"
_CORES = (
    f"for c in {_CPU}[0-9]*; do "
    "echo ${c##*cpu} $(cat $c/cpu_capacity 2>/dev/null || echo -) "
    "$(cat $c/cpufreq/cpuinfo_max_freq 2>/dev/null || echo -) $(cat $c/online 2>/dev/null || echo 1); done"
)


@dataclass(frozen=True)
class Pinning:
    """Cores to stay on, and why.

    Args:
        cores: their numbers; empty for any. reason: in plain words, such as "the fastest of 3 kinds".
    """

    cores: tuple[int, ...]
    reason: str

    @property
    def mask(self) -> str:
        """Hexadecimal, as ``taskset`` of toybox and of util-linux takes it; empty for any core."""
        return f"{sum(1 << core for core in self.cores):x}" if self.cores else ""

    @property
    def prefix(self) -> str:
        """What stands before a command in a shell."""
        return f"taskset {self.mask} " if self.cores else ""

    @property
    def text(self) -> str:
        """For people, such as ``"4-7, the fastest of 2 kinds"``."""
        return f"{_ranges(self.cores)}, {self.reason}" if self.cores else f"any: {self.reason}"


def choose_cores(serial: str, wanted: str) -> Pinning:
    """Return the cores for what the user wants, ``"big"``, ``"little"`` or ``"all"``; any where a device has no choice.

    Raises:
        RuntimeUnavailableError: the device is gone.
    """
    if wanted == "all":
        return Pinning((), "as its system schedules them")
    kinds = core_kinds(serial)
    if len(kinds) < 2:
        return Pinning((), "it does not tell one core from another")
    # In toybox since Android 6 (AOSP's shell_and_utilities/README.md).
    if not shell(serial, "command -v taskset; true").strip():
        return Pinning((), "it has no taskset")
    cores, word = (kinds[-1], "fastest") if wanted == "big" else (kinds[0], "slowest")
    return Pinning(cores, f"the {word} of {len(kinds)} kinds")


def core_kinds(serial: str) -> tuple[tuple[int, ...], ...]:
    """Return the numbers of a device's cores, one tuple a kind, the slowest kind first."""
    return parse_cores(shell(serial, _CORES).splitlines())


def parse_cores(lines: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Group cores by speed.

    The scheduler's capacity says what a core does at its highest clock (Linux, Documentation/scheduler/sched-capacity);
    where it is not told, the highest clock stands for it.

    Args:
        lines: number, capacity, highest clock, 1 when it is on; ``-`` where unknown.
    """
    rows = [line.split() for line in lines]
    rows = [row for row in rows if len(row) == 4 and row[0].isdigit() and row[3] == "1"]
    for column in (1, 2):
        if rows and all(row[column].isdigit() for row in rows):
            speeds = sorted({int(row[column]) for row in rows})
            return tuple(
                tuple(sorted(int(row[0]) for row in rows if int(row[column]) == speed)) for speed in speeds
            )
    return (tuple(sorted(int(row[0]) for row in rows)),) if rows else ()


def _ranges(cores: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for core in cores:
        if parts and core == parts[-1][-1] + 1:
            parts[-1].append(core)
        else:
            parts.append([core])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
