"""The arm64 emulator: what it is made of, and how it is made in the user's cache without root's rights.

It has parts: QEMU, a small arm64 system with Python, the aarch64 wheels of the runtimes, the counting plugin, and one
view of the system for each core. A part that lies at its final path is complete; it is built beside it and renamed, so
that an interrupted setup goes on where it stopped. Each part lists its files: one that lost some is built anew.
"""

from __future__ import annotations

import contextlib
import errno
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nagedge.devices.arm64_parts import PYTHON, Part, find_compiler, find_uv, parts
from nagedge.errors import RuntimeUnavailableError
from nagedge.files import put_in_place
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

_LIST = ".files.json"
_NEEDED_BYTES = 700 << 20
"""Free space to begin with: twice what is kept, as downloads and the part being built lie beside it."""


@dataclass(frozen=True)
class PartState:
    """What is known of a part without changing it.

    Args:
        name: of the part. size_bytes: on disk.
        problem: what is wrong; empty for a complete part, ``"not made yet"`` for none.
        versions: of what it holds, by name.
    """

    name: str
    size_bytes: int
    problem: str
    versions: dict[str, str]


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
    return tuple(_state(home() / part.name, part) for part in parts())


def _state(folder: Path, part: Part) -> PartState:
    try:
        listed = json.loads((folder / _LIST).read_text(encoding="utf-8"))
        files: dict[str, int] = listed["files"]
        versions: dict[str, str] = listed["versions"]
        wanted: str = listed["what"]
    except (OSError, ValueError, KeyError):
        return PartState(part.name, 0, "incomplete" if folder.exists() else "not made yet", {})
    size = sum(files.values())
    for name, file_bytes in files.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != file_bytes:
            return PartState(part.name, size, f"{name} is missing or damaged", versions)
    if wanted != part.what:
        return PartState(part.name, size, f"it holds {wanted}, not {part.what}", versions)
    return PartState(part.name, size, "", versions)


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
    folder, todo = home(), parts()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock"), lambda: report("waiting for another setup", 0, len(todo))):
            _check_space(folder)
            scratch = folder / "downloads"
            scratch.mkdir(exist_ok=True)
            for left in folder.glob(".*.part"):  # what a killed setup left; whoever builds holds the lock
                shutil.rmtree(left, ignore_errors=True)
            for index, part in enumerate(todo):
                report(part.what, index, len(todo) + 1)
                if anew or _state(folder / part.name, part).problem:
                    _make(folder / part.name, part, scratch, mirror)
            report("trying it out", len(todo), len(todo) + 1)
            made = Installation(folder)
            _try_out(made)
            shutil.rmtree(scratch, ignore_errors=True)  # not before: an interrupted setup uses it again
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise RuntimeUnavailableError(
                f"the disk is full: the arm64 emulator in {folder} needs {_NEEDED_BYTES >> 20} MiB while it is "
                "made. Free "
                "some space or set NAGEDGE_CACHE to a folder on another disk, then run `nagedge devices setup arm64` "
                "again: what is complete is kept."
            ) from error
        raise RuntimeUnavailableError(
            f"the arm64 emulator cannot be made in {folder}: {error.strerror or error}: {error.filename or ''}. Set "
            "NAGEDGE_CACHE to a folder that you may write to."
        ) from error
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


def _check_space(folder: Path) -> None:
    if all(not state.problem for state in states()):
        return
    free = shutil.disk_usage(folder).free
    if free < _NEEDED_BYTES:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))


def _make(folder: Path, part: Part, scratch: Path, mirror: str | None) -> None:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{part.name}.", suffix=".part"))
    try:
        versions = part.build(temporary, scratch, mirror)
        files = {
            str(path.relative_to(temporary)): path.stat().st_size
            for path in sorted(temporary.rglob("*"))
            if path.is_file() and not path.is_symlink() and "__pycache__" not in path.parts
        }
        listed = {"what": part.what, "versions": versions, "files": files}
        (temporary / _LIST).write_text(json.dumps(listed), encoding="utf-8")
        temporary.chmod(0o755)
        put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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


@contextlib.contextmanager
def _locked(path: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Hold a lock that no other process holds; the system gives it back when a process dies."""
    import fcntl

    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
