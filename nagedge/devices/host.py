"""What machine this is: the facts without which a latency means nothing. Standard library only."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

__all__ = ["HostDescription", "describe_host"]


@dataclass(frozen=True)
class HostDescription:
    """The host's hardware and operating system; ``None`` where the system does not tell.

    Args:
        cpu_model: marketing name, for example ``"Apple M2"``.
        architecture: ``"x86_64"``, ``"arm64"``, as the operating system calls it.
        logical_cores: of the machine. usable_cores: that this process may run on (affinity).
        memory_bytes: installed. os_name, os_version: ``"Debian GNU/Linux 12 (bookworm)"`` and the kernel's
            release.
        governor: of the CPU clock (Linux); latencies under ``powersave`` or ``ondemand`` drift.
        max_frequency_mhz: of the first core (Linux).
        virtual_machine: whether the CPU reports a hypervisor, whose other guests may disturb.
        load_average: runnable processes over the last minute, at the time of the call.
    """

    cpu_model: str
    architecture: str
    logical_cores: int
    usable_cores: int
    memory_bytes: int | None
    os_name: str
    os_version: str
    governor: str | None
    max_frequency_mhz: float | None
    virtual_machine: bool | None
    load_average: float | None


def describe_host(
    *,
    system: str | None = None,
    root: Path = Path("/"),
    sysctl: Callable[[str], str | None] | None = None,
) -> HostDescription:
    """Return the facts of the machine this process runs on.

    Args:
        system: ``platform.system()`` unless given. root: where ``proc``, ``sys`` and ``etc`` lie (Linux).
        sysctl: returns the value of a macOS sysctl name, or ``None``.
    """
    system = system or platform.system()
    if system == "Darwin":
        return _describe_macos(sysctl or _sysctl)
    return _describe_linux(root, system)


def _describe_linux(root: Path, system: str) -> HostDescription:
    cpuinfo = _read(root / "proc/cpuinfo") or ""
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _read(root / "proc/meminfo") or "", re.MULTILINE)
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo, re.MULTILINE)
    cpufreq = root / "sys/devices/system/cpu/cpu0/cpufreq"
    kilohertz = _read(cpufreq / "cpuinfo_max_freq")
    release = re.search(r'^PRETTY_NAME="?([^"\n]*)"?$', _read(root / "etc/os-release") or "", re.MULTILINE)
    return HostDescription(
        cpu_model=_linux_cpu_model(root, cpuinfo),
        architecture=platform.machine(),
        logical_cores=os.cpu_count() or 1,
        usable_cores=_usable_cores(),
        memory_bytes=int(memory[1]) * 1024 if memory else None,
        os_name=release[1] if release else system,
        os_version=platform.release(),
        governor=_read(cpufreq / "scaling_governor"),
        max_frequency_mhz=int(kilohertz) / 1000.0 if kilohertz and kilohertz.isdigit() else None,
        virtual_machine="hypervisor" in flags[1].split() if flags else None,
        load_average=_load_average(),
    )


def _linux_cpu_model(root: Path, cpuinfo: str) -> str:
    """The name on x86, the board or the part number on arm, whose /proc/cpuinfo has no name."""
    named = re.search(r"^(?:model name|Processor|cpu model)\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    if named:
        return named[1].strip()
    board = _read(root / "proc/device-tree/model") or _read(root / "sys/firmware/devicetree/base/model")
    part = re.search(r"^CPU part\s*:\s*(\S+)$", cpuinfo, re.MULTILINE)
    core = f"arm part {part[1]}" if part else ""
    # A device tree ends its strings with NUL.
    words = [word for word in ((board or "").strip("\0 "), core) if word]
    return ", ".join(words) or platform.processor() or platform.machine() or "unknown"


def _describe_macos(sysctl: Callable[[str], str | None]) -> HostDescription:
    memory = sysctl("hw.memsize")
    cores = sysctl("hw.logicalcpu")
    guest = sysctl("kern.hv_vmm_present")
    logical = int(cores) if cores and cores.isdigit() else os.cpu_count() or 1
    return HostDescription(
        cpu_model=sysctl("machdep.cpu.brand_string") or platform.processor() or "unknown",
        architecture=platform.machine(),
        logical_cores=logical,
        usable_cores=logical,
        memory_bytes=int(memory) if memory and memory.isdigit() else None,
        os_name="macOS",
        os_version=sysctl("kern.osproductversion") or platform.release(),
        governor=None,
        max_frequency_mhz=None,
        virtual_machine=None if guest is None else guest == "1",
        load_average=_load_average(),
    )


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _load_average() -> float | None:
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def _sysctl(name: str) -> str | None:
    try:
        done = subprocess.run(
            ["/usr/sbin/sysctl", "-n", name], capture_output=True, text=True, timeout=5, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
