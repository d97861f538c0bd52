"""The arm64 emulator: what it is made of, and how it is made in the user's cache without root's rights.

It has parts: QEMU, a small arm64 system with Python, the aarch64 wheels of the runtimes, the counting plugin, and one
view of the system for each core. A part that lies at its final path is complete; it is built beside it and renamed, so
that an interrupted setup goes on where it stopped. Each part lists its files: one that lost some is built anew.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import metadata, resources
from pathlib import Path

from nagedge.devices.cores import CORES, write_system_files
from nagedge.devices.debian import find_mirror, system_architecture, unpack_packages
from nagedge.errors import RuntimeUnavailableError
from nagedge.runtimes.isolation import cache_folder

__all__ = [
    "PYTHON",
    "Installation",
    "Part",
    "PartState",
    "installed",
    "parts",
    "setup",
    "states",
]

Progress = Callable[[str, int, int], None]

PYTHON = "3.11"
"""Of Debian 12, and the last that tflite-runtime has wheels for."""

_PACKAGES = (
    f"python{PYTHON}-minimal", f"libpython{PYTHON}-stdlib", "libc6", "libstdc++6", "libgcc-s1", "zlib1g",
    "libgomp1",
)  # fmt: skip
_LIST = ".files.json"
_NEEDED_BYTES = 700 << 20
"""Free space to begin with: twice what is kept, as downloads and the part being built lie beside it."""
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
        kept = ("qemu-user", f"python{PYTHON}-minimal", "libc6", *_requirements())
        return {name: version for name, version in found.items() if name in kept}


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
            f"the arm64 emulator is not set up ({wrong[0].name}: {wrong[0].problem}). Run `nagedge devices setup arm64`: "
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
                f"the disk is full: the arm64 emulator in {folder} needs {_NEEDED_BYTES >> 20} MiB while it is made. Free "
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
            f"the arm64 emulator runs on Linux only, this is {sys.platform}: QEMU's user mode translates Linux's system "
            "calls. Use Debian or Ubuntu, for example in a container."
        )
    missing = [name for name in ("apt-get", "dpkg", "dpkg-deb") if shutil.which(name) is None]
    if missing:
        raise RuntimeUnavailableError(
            f"the arm64 emulator is made with {', '.join(missing)}, which this system does not have: it is not Debian or "
            "Ubuntu. Use one of these, for example in a container."
        )
    _compiler()
    _uv()


def _compiler() -> str:
    own = os.environ.get("CC")
    for name in (own,) if own else ("cc", "gcc", "clang"):
        if shutil.which(name):
            return name
    raise RuntimeUnavailableError(
        f"no C compiler was found ({own or 'cc, gcc, clang'}); the counting plugin is compiled on this machine. Install "
        "one with `apt-get install gcc libc6-dev`, or name it in CC."
    )


def _uv() -> str:
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
        if folder.exists():
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{part.name}.old.", suffix=".part"))
            folder.replace(aside / folder.name)
            shutil.rmtree(aside, ignore_errors=True)
        temporary.replace(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
    for name in ("usr/sbin", "sbin", "bin", "usr/lib/x86_64-linux-gnu/gconv", "usr/lib/aarch64-linux-gnu/gconv"):
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
        _uv(), "pip", "install", "--quiet", "--no-config", "--no-deps", "--only-binary", ":all:", "--link-mode", "copy",
        "--python-platform", "aarch64-manylinux_2_36", "--python-version", PYTHON, "--target", str(folder), requirement,
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "COLUMNS": "10000"}
    )
    if done.returncode != 0:
        if "No space left" in done.stderr or "os error 28" in done.stderr:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["uv gave no reason"]
        raise RuntimeUnavailableError(
            f"the aarch64 wheel of {requirement} cannot be had: {lines[-1].rstrip('.')}. Run `nagedge devices setup arm64` "
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
        _compiler(), "-std=c99", "-O2", "-shared", "-fPIC", "-o", str(folder / "nagcount.so"),
        str(folder / "nagcount.c"),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[0]
        raise RuntimeUnavailableError(
            f"the counting plugin cannot be compiled with {command[0]}: {reason.rstrip('.')}. Install a C compiler with "
            "its library (`apt-get install gcc libc6-dev`), or name one in CC."
        )
    return {}


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
                f"runtime {runtime!r} does not start in the arm64 emulator: {last[:300]}. Run `nagedge devices setup arm64 "
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
