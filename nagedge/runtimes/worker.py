"""The other side of :mod:`nagedge.runtimes.runner`: a process that runs a runtime's files, and how it ended."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from nagedge.errors import BundleError, RuntimeUnavailableError
from nagedge.runtimes import runner
from nagedge.runtimes.isolation import Environment, ensure, make

__all__ = ["FileSession", "RunnerError", "Worker", "isolated_worker"]

Arrays = Mapping[str, npt.NDArray[Any]]

_SIGNAL_OF_SHELL = 128  # emulators and shells report a signal as 128 + its number


class RunnerError(Exception):
    """The runner answered that something failed; ``kind`` is the exception's name there."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Worker:
    """A runner process with a folder for its arrays; both go when this object does.

    Args:
        command: what starts the runner: the interpreter, its options, the path of ``runner.py``.
        runtime: its name, for error texts.
    """

    def __init__(self, command: Sequence[str | Path], *, runtime: str) -> None:
        self.runtime = runtime
        self.folder = Path(tempfile.mkdtemp(prefix="nagedge-runner-"))
        self._log = self.folder / "stderr.txt"
        variables = {
            k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        }
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*map(str, command), "--folder", str(self.folder)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8",
                env=variables, start_new_session=True,
            )  # fmt: skip
        self._count = 0
        self._finalizer = weakref.finalize(self, _stop, self._process, self.folder)

    def close(self) -> None:
        """End the process and remove its folder."""
        self._finalizer()

    def request(self, op: str, *, about: str, **keys: object) -> dict[str, Any]:
        """Send a request and return its answer.

        Args:
            op: of :mod:`nagedge.runtimes.runner`.
            about: the file that is worked on, for the error text.
            keys: of the request.

        Raises:
            RunnerError: the runner answers that it failed.
            BundleError: the process ended.
        """
        self._count += 1
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(json.dumps({"id": self._count, "op": op, **keys}) + "\n")
            stdin.flush()
            line = stdout.readline()
        except (BrokenPipeError, ValueError):
            line = ""
        if not line:
            raise BundleError(self._end(about))
        reply: dict[str, Any] = json.loads(line)
        if not reply["ok"]:
            raise RunnerError(reply["type"], reply["error"])
        return reply

    def run(self, op: str, inputs: Arrays, *, about: str, **keys: object) -> dict[str, npt.NDArray[Any]]:
        """Send a request with arrays and return the arrays that come back."""
        runner.save_arrays(self.folder / "inputs.npz", inputs)
        self.request(op, about=about, inputs="inputs.npz", outputs="outputs.npz", **keys)
        return runner.load_arrays(self.folder / "outputs.npz")

    def _end(self, about: str) -> str:
        """Return how the process ended, for people."""
        code = self._process.wait()
        number = -code if code < 0 else code - _SIGNAL_OF_SHELL
        try:
            how = f"was killed by {signal.Signals(number).name}"
        except ValueError:
            how = f"ended with exit code {code}"
        lines = self._log.read_text("utf-8", errors="replace").strip().splitlines()
        last = f" Its last words: {lines[-1][:300]}" if lines else ""
        return (
            f"runtime {self.runtime!r} {how} while it worked on {about!r}: this file crashes it.{last} Export "
            "again; if that does not help, choose another target and report the model."
        )


def isolated_worker(environment: Environment) -> Worker:
    """Start the runner in an isolated environment, which is made or repaired first where needed.

    Raises:
        RuntimeUnavailableError: the environment cannot be made.
    """
    worker = _started(environment, ensure(environment))
    if worker is None:  # complete but broken: a Python that was replaced, a file that is gone
        make(environment)
        worker = _started(environment, ensure(environment))
    if worker is None:
        raise RuntimeUnavailableError(
            f"runtime {environment.name!r}: its Python does not start although it was just made. Remove the folder "
            "that `nagedge doctor` names, and try again."
        )
    return worker


class FileSession:
    """A file of a bundle in an isolated runtime, in a process of its own.

    Args:
        environment: where the runtime is.
        file: what is worked on, for error texts.

    Raises:
        RuntimeUnavailableError: the environment cannot be made.
    """

    def __init__(self, environment: Environment, file: Path) -> None:
        self._version, self._file = environment.version, file
        self.worker = isolated_worker(environment)
        self.folder = self.worker.folder

    def ask(self, op: str, **keys: object) -> dict[str, Any]:
        """Send a request and return its answer; a path is sent whole, since the process has a folder of its own.

        Raises:
            BundleError: the runtime refuses the file or what is done with it, or crashes.
        """
        sent = {
            key: str(value.resolve()) if isinstance(value, Path) else value for key, value in keys.items()
        }
        try:
            return self.worker.request(op, about=self._file.name, session="session", **sent)
        except RunnerError as error:
            raise self._refused(error) from None

    def run(self, op: str, inputs: Arrays, **keys: object) -> dict[str, npt.NDArray[Any]]:
        """Send a request with arrays and return the arrays that come back; raises as :meth:`ask`."""
        try:
            return self.worker.run(op, inputs, about=self._file.name, session="session", **keys)
        except RunnerError as error:
            raise self._refused(error) from None

    def _refused(self, error: RunnerError) -> BundleError:
        text = next((line.strip() for line in str(error).splitlines() if line.strip()), error.kind)
        return BundleError(f"{self._version} refuses {str(self._file)!r}: {text.rstrip('.')}. Export again.")


def _started(environment: Environment, interpreter: Path) -> Worker | None:
    try:
        worker = Worker([interpreter, "-I", Path(runner.__file__)], runtime=environment.name)
    except OSError:
        return None
    try:
        worker.request("hello", about="runner.py", module=environment.module)
    except (BundleError, RunnerError):
        worker.close()
        return None
    return worker


def _stop(process: subprocess.Popen[str], folder: Path) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            with contextlib.suppress(OSError):  # the process is gone and a request was still buffered
                stream.close()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    shutil.rmtree(folder, ignore_errors=True)
