"""The whole-system emulator: a machine with a kernel of its own, for work on several threads. On top of ``arm64``.

Two more parts lie beside those of the user-mode emulator: QEMU's ``qemu-system-aarch64``, and Debian's arm64 kernel.
The system that the kernel starts is the emulator's own, packed into its first file system: no disk, no network, no
root.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nagedge.devices import arm64
from nagedge.devices.arm64_parts import Part
from nagedge.devices.debian import find_mirror, system_architecture, unpack_packages
from nagedge.devices.provisioning import PartState, make_parts, state_of
from nagedge.errors import RuntimeUnavailableError

__all__ = ["SystemInstallation", "home", "installed", "setup", "states"]

Progress = Callable[[str, int, int], None]

_NEEDED_BYTES = 600 << 20
_KEPT = ("lib", "lib64", "usr/lib", "usr/bin", "usr/share/qemu")


@dataclass(frozen=True)
class SystemInstallation:
    """A complete whole-system emulator.

    Args:
        folder: where its parts lie. base: the user-mode emulator, whose system and packages it runs.
    """

    folder: Path
    base: arm64.Installation

    def emulator(self) -> list[str]:
        """Return what starts QEMU, on the C library that came with it."""
        own = self.folder / "qemu-system"
        (loader,) = own.glob("lib*/ld-linux*.so.*")
        libraries = sorted({str(path.parent) for path in own.rglob("lib*.so*")})
        program = str(own / "usr/bin/qemu-system-aarch64")
        return [
            str(loader),
            "--library-path",
            ":".join(libraries),
            program,
            "-L",
            str(own / "usr/share/qemu"),
        ]

    @property
    def kernel(self) -> Path:
        """Debian's kernel."""
        return self.folder / "kernel/vmlinuz"


def home() -> Path:
    """Return where it is or will be."""
    return arm64.home().with_name("arm64-system")


def parts() -> tuple[Part, ...]:
    """Return the parts in the order in which they are made."""
    return (
        Part("qemu-system", "QEMU's whole-system emulation", _build_qemu),
        Part("kernel", "an arm64 kernel", _build_kernel),
    )


def states() -> tuple[PartState, ...]:
    """Return what is known of each part; nothing is made or run."""
    return tuple(state_of(home() / part.name, part) for part in parts())


def installed() -> SystemInstallation:
    """Return the emulator.

    Raises:
        RuntimeUnavailableError: it, or the user-mode emulator beneath it, is not complete.
    """
    wrong = [state for state in states() if state.problem]
    if wrong:
        raise RuntimeUnavailableError(
            f"the arm64-system emulator is not set up ({wrong[0].name}: {wrong[0].problem}). Run `nagedge devices "
            "setup arm64-system`: it needs what `arm64` needs, and 150 MB more."
        )
    return SystemInstallation(home(), arm64.installed())


def setup(
    progress: Progress | None = None, *, mirror: str | None = None, anew: bool = False
) -> SystemInstallation:
    """Make the emulator, and the user-mode one first: see :func:`nagedge.devices.arm64.setup`."""
    base = arm64.setup(progress, mirror=mirror)
    report = progress or (lambda description, completed, total: None)
    made = SystemInstallation(home(), base)
    make_parts(
        made.folder, parts(), lambda: None, name="arm64-system", needed_bytes=_NEEDED_BYTES, progress=report,
        mirror=mirror, anew=anew,
    )  # fmt: skip
    return made


def _build_qemu(folder: Path, scratch: Path, mirror: str | None) -> dict[str, str]:
    whole = scratch / "qemu-system"
    versions = unpack_packages(
        whole, ["qemu-system-arm"], architecture=system_architecture(), mirror=mirror or find_mirror(),
        scratch=scratch,
    )  # fmt: skip
    for program in (whole / "usr/bin").iterdir():
        if program.name != "qemu-system-aarch64":
            program.unlink()
    for name in _KEPT:
        if (whole / name).is_dir():
            shutil.copytree(whole / name, folder / name, symlinks=True)
    for name in ("usr/lib/systemd", "lib/systemd", "lib/udev"):
        shutil.rmtree(folder / name, ignore_errors=True)
    shutil.rmtree(whole)
    return {name: version for name, version in versions.items() if name == "qemu-system-arm"}


def _build_kernel(folder: Path, scratch: Path, mirror: str | None) -> dict[str, str]:
    whole = scratch / "kernel"
    package = "linux-image-cloud-arm64"
    versions = unpack_packages(
        whole, [package], architecture="arm64", mirror=mirror or find_mirror(), scratch=scratch
    )
    (kernel,) = (whole / "boot").glob("vmlinuz-*")
    shutil.copy(kernel, folder / "vmlinuz")
    shutil.rmtree(whole)
    return {package: versions[package]}
