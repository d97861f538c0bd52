"""What the arm64 emulator is made of, and how each part is built in an empty folder."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import metadata, resources
from pathlib import Path

from nagedge.devices.cores import CORES, write_system_files
from nagedge.devices.debian import find_mirror, system_architecture, unpack_packages
from nagedge.errors import RuntimeUnavailableError

__all__ = ["PYTHON", "Part", "find_compiler", "find_uv", "parts"]

PYTHON = "3.11"
"""Of Debian 12, and the last that tflite-runtime has wheels for."""

_PACKAGES = (
    f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libc6", "libstdc++6", "libgcc-s1", "zlib1g",
    "libgomp1",
)  # fmt: skip
_UNUSED = ("share/doc", "share/man", "share/locale", "share/lintian", "share/perl5")


@dataclass(frozen=True)
class Part:
    """A folder of the emulator.

    Args:
        name: of the folder. what: for the progress and for errors.
        build: fills an empty folder; returns names and versions of what it put there.
    """

    name: str
    what: str
    build: Callable[[Path, Path, str | None], dict[str, str]]


def parts() -> tuple[Part, ...]:
    """Return the emulator's parts in the order in which they are made."""
    return (
        Part("qemu", "QEMU", _build_qemu),
        Part("system", "an arm64 system with Python", _build_system),
        *(
            Part(name, requirement, partial(_build_site, requirement))
            for name, requirement in _requirements().items()
        ),
        Part("cores", "the files that describe each core", _build_cores),
        Part("plugin", "the counting plugin", _build_plugin),
    )


def _requirements() -> dict[str, str]:
    """Part -> what is installed in it; the versions of this machine's own runtimes, so that they can be compared."""
    return {
        "numpy-2": "numpy>=2,<2.5",
        "numpy-1": "numpy>=1.26,<2",
        "site-onnxruntime": f"onnxruntime{_same_version('onnxruntime')}",
        "site-litert": f"ai-edge-litert{_same_version('ai-edge-litert')}",
        "site-tflite_runtime": "tflite-runtime==2.14.0",
    }


def _same_version(package: str) -> str:
    try:
        return f"=={metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return ""


def find_compiler() -> str:
    """Return the system's C compiler.

    Raises:
        RuntimeUnavailableError: there is none.
    """
    own = os.environ.get("CC")
    for name in (own,) if own else ("cc", "gcc", "clang"):
        if shutil.which(name):
            return name
    raise RuntimeUnavailableError(
        f"no C compiler was found ({own or 'cc, gcc, clang'}); the counting plugin is compiled on this machine. "
        "Install "
        "one with `apt-get install gcc libc6-dev`, or name it in CC."
    )


def find_uv() -> str:
    """Return uv's program, of this environment or of the system.

    Raises:
        RuntimeUnavailableError: there is none.
    """
    try:
        import uv  # type: ignore[import-not-found,unused-ignore]

        return str(uv.find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise RuntimeUnavailableError(
            "uv, which unpacks the runtimes' wheels, is not installed: `pip install uv`."
        )
    return found


def _build_qemu(folder: Path, scratch: Path, mirror: str | None) -> dict[str, str]:
    architecture = system_architecture()
    if architecture not in ("amd64", "arm64"):
        raise RuntimeUnavailableError(
            f"the arm64 emulator is made for amd64 and arm64 machines, this is {architecture!r}. Use one of these."
        )
    versions = unpack_packages(
        folder, ["qemu-user"], architecture=architecture, mirror=mirror or find_mirror(), scratch=scratch
    )
    for program in (folder / "usr/bin").iterdir():  # one a processor, 5 MB each
        if program.name != "qemu-aarch64":
            program.unlink()
    _prune(folder)
    for name in (
        "usr/sbin",
        "sbin",
        "bin",
        "usr/lib/x86_64-linux-gnu/gconv",
        "usr/lib/aarch64-linux-gnu/gconv",
    ):
        shutil.rmtree(folder / name, ignore_errors=True)
    return versions


def _build_system(folder: Path, scratch: Path, mirror: str | None) -> dict[str, str]:
    versions = unpack_packages(
        folder, _PACKAGES, architecture="arm64", mirror=mirror or find_mirror(), scratch=scratch
    )
    _prune(folder)
    for name in ("usr/lib/aarch64-linux-gnu/gconv", "usr/lib/aarch64-linux-gnu/perl-base"):
        shutil.rmtree(folder / name, ignore_errors=True)
    return versions


def _prune(folder: Path) -> None:
    for name in _UNUSED:
        shutil.rmtree(folder / "usr" / name, ignore_errors=True)


def _build_site(requirement: str, folder: Path, scratch: Path, mirror: str | None) -> dict[str, str]:
    """Unpack one aarch64 wheel. Its dependencies are left out: running a model imports none of them but numpy."""
    del scratch, mirror
    command = [
        find_uv(), "pip", "install", "--quiet", "--no-config", "--no-deps", "--only-binary", ":all:",
        "--link-mode", "copy", "--python", sys.executable, "--python-platform", "aarch64-manylinux_2_36",
        "--python-version", PYTHON, "--target", str(folder), requirement,
    ]  # fmt: skip
    # In the folder: uv would take a Python and settings from the project that the user happens to be in.
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "COLUMNS": "10000"},
    )
    if done.returncode != 0:
        if "No space left" in done.stderr or "os error 28" in done.stderr:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        errors = [
            line for line in lines if line.lower().startswith(("error:", "cause:", "\N{MULTIPLICATION SIGN}"))
        ]
        reason = "; ".join(errors or lines[-1:]) or "uv gave no reason"
        raise RuntimeUnavailableError(
            f"the aarch64 wheel of {requirement} cannot be had: {reason.rstrip('.')}. Run `nagedge devices "
            "setup arm64` "
            "again when there is a network; what is complete is kept."
        )
    for path in [*folder.glob("*/tests"), *folder.glob("*/*/tests")]:
        shutil.rmtree(path)
    (info,) = folder.glob("*.dist-info")
    return {requirement.partition(">")[0].partition("=")[0]: info.name.split("-")[1].removesuffix(".dist")}


def _build_cores(folder: Path, scratch: Path, mirror: str | None) -> dict[str, str]:
    """One view a core: the system's folders, and files of its own under proc and sys."""
    del scratch, mirror
    for core in CORES.values():
        own = folder / core.name
        own.mkdir()
        for name in ("usr", "lib", "bin", "etc", "lib64"):
            (own / name).symlink_to(f"../../system/{name}")
        write_system_files(own, core)
    return {}


def _build_plugin(folder: Path, scratch: Path, mirror: str | None) -> dict[str, str]:
    del scratch, mirror
    source = resources.files("nagedge.devices").joinpath("nagcount.c").read_text(encoding="utf-8")
    (folder / "nagcount.c").write_text(source, encoding="utf-8")
    command = [
        find_compiler(), "-std=c99", "-O2", "-shared", "-fPIC", "-o", str(folder / "nagcount.so"),
        str(folder / "nagcount.c"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise RuntimeUnavailableError(
            f"the counting plugin cannot be compiled with {command[0]}: {reason.rstrip('.')}. Install a C "
            "compiler with "
            "its library (`apt-get install gcc libc6-dev`), or name one in CC."
        )
    return {}
