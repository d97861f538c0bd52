"""The arm64 cores that are emulated, and what Linux would show of them.

Runtimes read ``/proc/cpuinfo`` and ``/sys/devices/system/cpu`` to choose their kernels. User-mode emulation would show
them the files of the machine it runs on, on which ONNX Runtime and LiteRT crash, so each core has files of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nagedge.errors import ConfigurationError, nearest_name

__all__ = ["CORES", "Core", "find_core", "write_system_files"]

_ARMV8 = "fp asimd evtstrm aes pmull sha1 sha2 crc32 cpuid"
_ARMV8_2 = f"{_ARMV8} atomics fphp asimdhp asimdrdm lrcpc dcpop asimddp"
_CPUS = 2
"""Cores that the guest is told of; what is counted runs on one thread."""


@dataclass(frozen=True)
class Core:
    """One core that QEMU knows.

    Args:
        name: QEMU's. part: Arm's part number, as in the register MIDR_EL1 and in ``/proc/cpuinfo``.
        features: the words of Linux's ``Features`` line.
        description: the class of devices that has it.
    """

    name: str
    part: str
    features: str
    description: str

    @property
    def dot_products(self) -> bool:
        """Whether it has the int8 dot products SDOT and UDOT."""
        return "asimddp" in self.features.split()


CORES: dict[str, Core] = {
    core.name: core
    for core in (
        Core("cortex-a35", "0xd04", _ARMV8, "small in-order core of low-power boards"),
        Core("cortex-a53", "0xd03", _ARMV8, "small in-order core of phones and boards since 2014"),
        Core("cortex-a57", "0xd07", _ARMV8, "big core of 2015"),
        Core("cortex-a72", "0xd08", _ARMV8, "big core of 2016; Raspberry Pi 4"),
        Core("cortex-a76", "0xd0b", _ARMV8_2, "big core of 2019; Raspberry Pi 5"),
        Core("neoverse-n1", "0xd0c", _ARMV8_2, "server core of 2019"),
    )
}
"""The cores of QEMU 7.2 by name.

``max`` is left out: it has SVE, with which runtimes compute other numbers than on any phone's core.
"""


def find_core(name: str) -> Core:
    """Return a core by name.

    Raises:
        ConfigurationError: QEMU does not know it.
    """
    if name not in CORES:
        raise ConfigurationError(
            f"unknown core {name!r}; the emulator has {', '.join(CORES)}." + nearest_name(name, CORES)
        )
    return CORES[name]


def write_system_files(folder: Path, core: Core) -> None:
    """Write the files under ``proc`` and ``sys`` from which programs learn what processor they run on.

    The caches are those that the counter assumes: 32 KiB of data and of instructions, 512 KiB shared.
    """
    cpus = range(_CPUS)
    every = f"0-{_CPUS - 1}"
    blocks = [
        f"processor\t: {cpu}\nBogoMIPS\t: 38.40\nFeatures\t: {core.features}\nCPU implementer\t: 0x41\n"
        f"CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: {core.part}\nCPU revision\t: 4\n\n"
        for cpu in cpus
    ]
    files = {"proc/cpuinfo": "".join(blocks)}
    system = "sys/devices/system/cpu"
    files |= {f"{system}/{name}": every for name in ("possible", "present", "online")}
    files[f"{system}/kernel_max"] = str(_CPUS - 1)
    for cpu in cpus:
        own = f"{system}/cpu{cpu}"
        topology = {
            "physical_package_id": "0", "core_id": str(cpu), "thread_siblings_list": str(cpu),
            "cluster_cpus_list": every, "core_siblings_list": every, "package_cpus_list": every,
        }  # fmt: skip
        files |= {f"{own}/topology/{name}": text for name, text in topology.items()}
        files |= {
            f"{own}/cpufreq/cpuinfo_max_freq": "1800000",
            f"{own}/cpufreq/cpuinfo_min_freq": "600000",
        }
        caches = (
            ("1", "Data", "32K", "4", str(cpu)),
            ("1", "Instruction", "32K", "2", str(cpu)),
            ("2", "Unified", "512K", "16", every),
        )
        for index, (level, kind, size, ways, shared) in enumerate(caches):
            values = {
                "level": level, "type": kind, "size": size, "ways_of_associativity": ways,
                "coherency_line_size": "64", "shared_cpu_list": shared,
            }  # fmt: skip
            files |= {f"{own}/cache/index{index}/{name}": text for name, text in values.items()}
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if text.endswith("\n") else f"{text}\n", encoding="ascii")
