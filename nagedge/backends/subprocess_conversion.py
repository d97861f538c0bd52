"""Run a vendor's converter in a process of its own, so that whatever it does ends as a file or as one clear error.

Converters crash (some kill the process), fill the root logger, print, leave temporary files behind, and give other
bytes when Python orders its sets differently. A child process bears all of that: it gets its own temporary folder, a
fixed hash seed and a log that is shown only when it fails. It costs its start, about 0.4 s and the vendor's import
(0.3 s for ONNX Runtime), as long as the converting function's module imports no torch: 3 s more. So it is worth it for
every converter that is not ours, and not for our own lowering.

What goes in and out are files and JSON: nothing is unpickled.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nagedge import errors
from nagedge.errors import NagEdgeError, UnsupportedOperatorError

__all__ = ["Payload", "run_conversion"]

Payload = Mapping[str, Any]
"""By key: bytes, which travel as a file, or anything that JSON holds."""

_REQUEST, _ANSWER, _WORK = "request.json", "answer.json", "work"
_SHOWN_LINES = 3


def run_conversion(
    module_function: str,
    payload: Payload,
    *,
    what: str,
    remedy: str = "Choose another target, or replace the part of the model that the converter cannot take.",
    timeout_s: float | None = None,
) -> dict[str, bytes]:
    """Call a function in a child process and return what it returns.

    Args:
        module_function: ``"package.module:function"``. The function takes the payload as a ``dict`` and returns a
            ``dict`` of bytes by key. Its working folder and ``TMPDIR`` are a folder that is removed afterwards.
        payload: what the function gets.
        what: what is being done, with the target's name; the error's text begins with it.
        remedy: the last sentence of the error's text.
        timeout_s: give up after so many seconds; None waits.

    Raises:
        NagEdgeError: the function raised it: the same class, the same text.
        UnsupportedOperatorError: the function raised something else, or the process was killed or took too long.
    """
    with tempfile.TemporaryDirectory(prefix="nagedge-conversion-") as name:
        folder = Path(name)
        (folder / _WORK).mkdir()
        _write(folder, _REQUEST, payload)
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", __name__, module_function, name],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder / _WORK,
                env=_environment(folder / _WORK),
            )
            try:
                code = process.wait(timeout_s)
            except BaseException as error:  # Ctrl-C must not leave the converter running
                process.kill()
                process.wait()
                if isinstance(error, subprocess.TimeoutExpired):
                    raise UnsupportedOperatorError(
                        f"{what} failed: the converter was not done after {timeout_s:g} s. {remedy}"
                    ) from None
                raise
        if (folder / _ANSWER).is_file():
            answer = _read(folder, _ANSWER)
            if "error" not in answer:
                return answer
            own = getattr(errors, answer["error"], None)
            if isinstance(own, type) and issubclass(own, NagEdgeError):
                raise own(answer["text"])
            raise UnsupportedOperatorError(f"{what} failed: {answer['error']}: {answer['text']} {remedy}")
        raise UnsupportedOperatorError(f"{what} failed: {_death(code)}{_last_lines(folder / 'log')} {remedy}")


def _environment(work: Path) -> dict[str, str]:
    """Return the child's environment: what this process can import, and bytes that do not depend on chance."""
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "PYTHONSAFEPATH": "1",  # the working folder is no place to import from
        "PYTHONHASHSEED": "0",
        "PYTHONWARNINGS": "ignore",
        "PYTHONDONTWRITEBYTECODE": "1",
        "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime reads it when it is imported
        "TMPDIR": str(work),
        "TEMP": str(work),
        "TMP": str(work),
    }


def _death(code: int) -> str:
    if code == 0:
        return "the converter ended the process without a result."
    if code > 0:
        return f"the converter ended the process with exit code {code}."
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    memory = ", as the system does when memory runs out" if name == "SIGKILL" else ""
    return f"the converter was killed by {name}{memory}."


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f" It said: {' | '.join(lines[-_SHOWN_LINES:])}." if lines else ""


def _write(folder: Path, name: str, values: Payload) -> None:
    """Write bytes as files beside one JSON file; the latter is renamed into place when all is there."""
    plain: dict[str, Any] = {}
    files: dict[str, str] = {}
    for i, (key, value) in enumerate(values.items()):
        if isinstance(value, bytes):
            files[key] = f"{name}.{i}"
            (folder / files[key]).write_bytes(value)
        else:
            plain[key] = value
    part = folder / f"{name}.part"
    part.write_text(json.dumps({"values": plain, "files": files}, allow_nan=False), encoding="utf-8")
    part.replace(folder / name)


def _read(folder: Path, name: str) -> dict[str, Any]:
    document = json.loads((folder / name).read_text(encoding="utf-8"))
    files = {key: (folder / file).read_bytes() for key, file in document["files"].items()}
    return {**document["values"], **files}


def _main(module_function: str, folder: Path) -> None:
    """Run in the child: call the function, write its result or its error."""
    try:
        module, _, attribute = module_function.partition(":")
        function: Callable[[dict[str, Any]], dict[str, bytes]] = getattr(
            importlib.import_module(module), attribute
        )
        answer: Payload = function(_read(folder, _REQUEST))
    except Exception as error:
        text = str(error).strip() if isinstance(error, NagEdgeError) else _first_line(error)
        answer = {"error": type(error).__name__, "text": text}
    _write(folder, _ANSWER, answer)


def _first_line(error: Exception) -> str:
    line = (str(error).strip().splitlines() or ["no text"])[0]
    return line if line.endswith((".", "!", "?")) else f"{line}."


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))
