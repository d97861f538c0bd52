from __future__ import annotations

import os
from pathlib import Path

from nagedge.devices.host import describe_host

X86 = "processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Processor\nflags\t\t: fpu vme hypervisor avx2\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n"


def linux(root: Path, cpuinfo: str, **files: str) -> Path:
    contents = {"proc/cpuinfo": cpuinfo, **{name.replace("__", "/"): text for name, text in files.items()}}
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_linux_on_x86(tmp_path: Path) -> None:
    root = linux(tmp_path, X86, proc__meminfo="MemTotal:       24640000 kB\nMemFree: 1 kB\n")
    cpufreq = tmp_path / "sys/devices/system/cpu/cpu0/cpufreq"
    cpufreq.mkdir(parents=True)
    (cpufreq / "scaling_governor").write_text("powersave\n")
    (cpufreq / "cpuinfo_max_freq").write_text("4100000\n")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").write_text('NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n')
    host = describe_host(system="Linux", root=root)
    assert host.cpu_model == "Intel(R) Xeon(R) Processor"
    assert host.memory_bytes == 24640000 * 1024
    assert (host.governor, host.max_frequency_mhz) == ("powersave", 4100.0)
    assert host.os_name == "Debian GNU/Linux 12 (bookworm)"
    assert host.virtual_machine is True


def test_linux_on_an_arm_board(tmp_path: Path) -> None:
    root = linux(tmp_path, ARM, **{"proc__device-tree__model": "Raspberry Pi 4 Model B Rev 1.4\0"})
    host = describe_host(system="Linux", root=root)
    assert host.cpu_model == "Raspberry Pi 4 Model B Rev 1.4, arm part 0xd08"
    assert host.virtual_machine is None


def test_linux_that_tells_nothing(tmp_path: Path) -> None:
    host = describe_host(system="Linux", root=tmp_path)
    assert host.cpu_model
    assert (host.memory_bytes, host.governor, host.max_frequency_mhz) == (None, None, None)
    assert host.os_name == "Linux"


def test_macos() -> None:
    values = {
        "machdep.cpu.brand_string": "Apple M2",
        "hw.memsize": "17179869184",
        "hw.logicalcpu": "8",
        "kern.osproductversion": "15.1",
        "kern.hv_vmm_present": "0",
    }
    host = describe_host(system="Darwin", sysctl=values.get)
    assert (host.cpu_model, host.memory_bytes, host.logical_cores) == ("Apple M2", 17179869184, 8)
    assert (host.os_name, host.os_version, host.virtual_machine) == ("macOS", "15.1", False)


def test_macos_without_sysctl() -> None:
    host = describe_host(system="Darwin", sysctl=lambda name: None)
    assert host.logical_cores == os.cpu_count()
    assert host.memory_bytes is None


def test_this_machine() -> None:
    host = describe_host()
    assert 1 <= host.usable_cores <= host.logical_cores
    assert host.architecture
    assert host.memory_bytes is None or host.memory_bytes > 2**28
