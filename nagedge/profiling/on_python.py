"""Rounds of the runner in an attached device's own Python: a board, or Termux on a phone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nagedge.devices import adb
from nagedge.errors import BundleError
from nagedge.profiling.artifacts import feeds
from nagedge.profiling.rounds import Round, run_watched
from nagedge.runtimes import runner

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.devices.pinning import Pinning
    from nagedge.profiling.artifacts import Artifact

__all__ = ["has_python", "python_rounds", "python_runs"]

_FOLDER = "/data/local/tmp/nagedge"
_MOST_CALLS = 10_000


def python_runs(artifact: Artifact) -> bool:
    """Whether the runner times such an artifact; the others take their arrays through files."""
    return artifact.backend in ("onnxruntime", "litert", "tflite_runtime")


def has_python(serial: str) -> bool:
    """Whether a device has a ``python3``."""
    return bool(adb.shell(serial, "command -v python3; true").strip())


def python_rounds(
    bundle: Bundle, artifact: Artifact, serial: str, *, threads: int, budget_s: float, pinning: Pinning
) -> Callable[[int, Callable[[], None]], Round]:
    """Push the runner, the artifact and its inputs, and return what takes one round of ``budget_s`` seconds.

    Raises:
        RuntimeUnavailableError: the device is gone.
    """
    model = f"{_FOLDER}/{artifact.file.name}"
    adb.shell(serial, f"mkdir -p {_FOLDER}")
    opening = {
        "op": "open", "session": "s", "kind": artifact.backend, "model": artifact.file.name, "threads": threads,
        "signature": artifact.signature,
    }  # fmt: skip
    repeating = {
        "op": "repeat", "session": "s", "inputs": "inputs.npz", "outputs": "outputs.npz", "calls": _MOST_CALLS,
        "budget_s": budget_s,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="nagedge-adb-") as name:
        folder = Path(name)
        runner.save_arrays(folder / "inputs.npz", feeds(bundle, artifact.what, artifact.batch))
        text = "\n".join(json.dumps(request) for request in (opening, repeating))
        (folder / "requests.jsonl").write_text(text, encoding="utf-8")
        for file, target in (
            (Path(runner.__file__), f"{_FOLDER}/runner.py"), (artifact.file, model),
            (folder / "inputs.npz", f"{_FOLDER}/inputs.npz"), (folder / "requests.jsonl", f"{_FOLDER}/requests.jsonl"),
        ):  # fmt: skip
            adb.push(serial, file, target)

    def take(number: int, watch: Callable[[], None]) -> Round:
        del number
        command = "python3 runner.py --requests requests.jsonl --answers answers.jsonl --folder ."
        run_watched(serial, f"cd {_FOLDER} && rm -f answers.jsonl && {pinning.prefix}{command}", watch)
        with tempfile.TemporaryDirectory(prefix="nagedge-adb-") as name:
            adb.pull(serial, f"{_FOLDER}/answers.jsonl", Path(name) / "answers.jsonl")
            lines = (Path(name) / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        answers = [json.loads(line) for line in lines]
        for answer in answers:
            if not answer["ok"]:
                raise BundleError(
                    f"{artifact.backend} on {serial!r} refuses {artifact.name!r}: {answer['error']}"
                )
        opened, repeated = answers
        return Round(
            durations_ns=tuple(int(value) for value in repeated["durations_ns"]),
            runtime=str(opened["runtime"]), load_ms=float(opened["seconds"]) * 1e3,
        )  # fmt: skip

    return take
