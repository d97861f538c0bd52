"""The arm64 emulator: what it is made of, and how it is made in the user's cache without root's rights.

It has parts: QEMU, a small arm64 system with Python, the aarch64 wheels of the runtimes, the counting plugin, and one
view of the system for each core. A part that lies at its final path is complete; it is built beside it and renamed, so
that an interrupted setup goes on where it stopped. Each part lists its files: one that lost some is built anew.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nagedge.devices.arm64_parts import PYTHON, find_compiler, find_uv, parts
from nagedge.devices.provisioning import PartState, make_parts, state_of
from nagedge.errors import RuntimeUnavailableError
from nagedge.runtimes.isolation import cache_folder

__all__ = [
    "Installation",
    "PartState",
    "home",
    "installed",
    "setup",
    "states",
]

Progress = Callable[[str, int, int], None]

_NEEDED_BYTES = 700 << 20
"""Free space to begin with: twice what is kept, as downloads and the part being built lie beside it."""


@dataclass(frozen=True)
class Installation:
    """A complete emulator.

    Args:
        folder: where its parts lie.
    """

    folder: Path

    def emulator(self) -> list[str]:
        """Return what starts QEMU: it runs on the C library that it was built with, not on the system's."""
        own = self.folder / "qemu"
        (loader,) = own.glob("lib*/ld-linux*.so.*")
        libraries = sorted({str(path.parent) for path in own.rglob("lib*.so*")})
        return [str(loader), "--library-path", ":".join(libraries), str(own / "usr/bin/qemu-aarch64")]

    @property
    def plugin(self) -> Path:
        """The counting plugin."""
        return self.folder / "plugin/nagcount.so"

    def root(self, core: str) -> Path:
        """Return the system as a core sees it."""
        return self.folder / "cores" / core

    def site(self, runtime: str) -> list[Path]:
        """Return the folders of a runtime's packages; empty when there is no such runtime for arm64."""
        numpy = "numpy-1" if runtime == "tflite_runtime" else "numpy-2"
        return [self.folder / part.name for part in parts() if part.name in {f"site-{runtime}", numpy}]

    def versions(self) -> dict[str, str]:
        """Return names and versions of QEMU, of Python and of the runtimes."""
        found: dict[str, str] = {}
        for state in states():
            found |= state.versions
        kept = (
            "qemu-user",
            f"python{PYTHON}-minimal",
            "libc6",
            "onnxruntime",
            "ai-edge-litert",
            "tflite-runtime",
        )
        return {name: found[name] for name in kept if name in found}


def home() -> Path:
    """Return where the emulator is or will be."""
    return cache_folder() / "devices" / "arm64"


def installed() -> Installation:
    """Return the emulator.

    Raises:
        RuntimeUnavailableError: it is not complete.
    """
    wrong = [state for state in states() if state.problem]
    if wrong:
        raise RuntimeUnavailableError(
            f"the arm64 emulator is not set up ({wrong[0].name}: {wrong[0].problem}). Run `nagedge devices setup "
            "arm64`: "
            "it needs Debian or Ubuntu, a network, a C compiler and 400 MB, no root's rights."
        )
    return Installation(home())


def states() -> tuple[PartState, ...]:
    """Return what is known of each part; nothing is made or run."""
    return tuple(state_of(home() / part.name, part) for part in parts())


def setup(progress: Progress | None = None, *, mirror: str | None = None, anew: bool = False) -> Installation:
    """Make the emulator, or what is missing or damaged of it.

    Args:
        progress: called with a description, the parts done and the parts in all.
        mirror: address of a Debian archive; None takes the one that the system's apt uses.
        anew: whether to make every part again.

    Raises:
        RuntimeUnavailableError: it cannot be made here; the text says why. What is complete is kept.
    """
    report = progress or (lambda description, completed, total: None)
    _check_system()
    todo, made = parts(), Installation(home())
    make_parts(
        made.folder, todo, lambda: _try_out(made), name="arm64", needed_bytes=_NEEDED_BYTES, progress=report,
        mirror=mirror, anew=anew,
    )  # fmt: skip
    report("the arm64 emulator is ready", len(todo) + 1, len(todo) + 1)
    return made


def _check_system() -> None:
    if sys.platform != "linux":
        raise RuntimeUnavailableError(
            f"the arm64 emulator runs on Linux only, this is {sys.platform}: QEMU's user mode translates Linux's "
            "system "
            "calls. Use Debian or Ubuntu, for example in a container."
        )
    missing = [name for name in ("apt-get", "dpkg", "dpkg-deb") if shutil.which(name) is None]
    if missing:
        raise RuntimeUnavailableError(
            f"the arm64 emulator is made with {', '.join(missing)}, which this system does not have: it is not "
            "Debian or "
            "Ubuntu. Use one of these, for example in a container."
        )
    find_compiler()
    find_uv()


def _try_out(made: Installation) -> None:
    """Import every runtime once: this also leaves compiled modules beside their sources."""
    from nagedge.devices.emulator import guest_python

    modules = {
        "onnxruntime": "onnxruntime",
        "litert": "ai_edge_litert.interpreter",
        "tflite_runtime": "tflite_runtime.interpreter",
    }
    for runtime, module in modules.items():
        command, variables = guest_python(made, runtime, "cortex-a53")
        variables.pop("PYTHONDONTWRITEBYTECODE")
        try:
            done = subprocess.run(
                [*command, "-c", f"import argparse, json, numpy, {module}"],
                capture_output=True, text=True, check=False, env=variables, timeout=300,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            raise RuntimeUnavailableError(
                f"runtime {runtime!r} did not start in the arm64 emulator within five minutes."
            ) from None
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise RuntimeUnavailableError(
                f"runtime {runtime!r} does not start in the arm64 emulator: {last[:300]}. Run `nagedge devices "
                "setup arm64 "
                "--anew` to make it again."
            )
