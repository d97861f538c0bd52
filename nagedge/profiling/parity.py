"""Whether an artifact computes on a device what it computes on this machine, with the same runtime and inputs."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import BundleError
from nagedge.profiling.artifacts import Artifact
from nagedge.runtimes import runner
from nagedge.runtimes.isolation import ENVIRONMENTS, ensure
from nagedge.runtimes.onnxruntime import load_session

__all__ = ["HostRun", "Parity", "compare_differences", "compare_outputs", "host_outputs", "run_on_host"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


@dataclass(frozen=True)
class Parity:
    """How far the outputs of one call are from this machine's.

    Two tensors agree when ``max|got - expected| <= atol + rtol * max|expected|``, as for every target.

    Args:
        tensors: how many were compared. worst: the name of the one that agrees least.
        max_abs: its largest absolute difference; ``None`` when not finite. max_rel: that over its largest value here.
        excess: the difference over what is allowed, at most 1 when it agrees; ``None`` when not finite.
        within_tolerance: of every tensor. rtol, atol: the target's tolerances.
    """

    tensors: int
    worst: str
    max_abs: float | None
    max_rel: float | None
    excess: float | None
    within_tolerance: bool
    rtol: float
    atol: float


@dataclass(frozen=True)
class HostRun:
    """What a runner on this machine said.

    Args:
        runtime: name and version. call: what a timed call is. load_ms: opening the file.
        durations_ns: of each call. outputs: of the last one, by name.
    """

    runtime: str
    call: str
    load_ms: float
    durations_ns: tuple[int, ...]
    outputs: dict[str, Array]


def compare_outputs(got: Arrays, expected: Arrays, *, rtol: float, atol: float) -> Parity:
    """Compare the outputs of one call.

    Args:
        got, expected: by name; a name that one side lacks does not agree.
        rtol, atol: what is allowed.
    """
    found: dict[str, tuple[float, float]] = {}
    for name in sorted({*got, *expected}):
        if name not in got or name not in expected or got[name].shape != expected[name].shape:
            found[name] = (math.inf, 0.0)
            continue
        ours, theirs = (np.asarray(value, np.float64) for value in (got[name], expected[name]))
        difference = float(np.abs(ours - theirs).max(initial=0.0))
        found[name] = (difference, float(np.abs(theirs).max(initial=0.0)))
    return compare_differences(found, rtol=rtol, atol=atol)


def compare_differences(
    differences: Mapping[str, tuple[float, float]], *, rtol: float, atol: float
) -> Parity:
    """Return whether outputs agree, from the largest difference of each and its largest expected value.

    Args:
        differences: by name. rtol, atol: what is allowed.
    """
    found = []
    for name, (difference, scale) in differences.items():
        if not math.isfinite(difference):
            found.append((math.inf, name, math.inf, math.inf))
            continue
        allowed = atol + rtol * scale
        excess = difference / allowed if allowed else (math.inf if difference else 0.0)
        found.append((excess, name, difference, difference / scale if scale else 0.0))
    excess, name, max_abs, max_rel = max(found, default=(math.inf, "", math.inf, math.inf))
    return Parity(
        tensors=len(found), worst=name, max_abs=_finite(max_abs), max_rel=_finite(max_rel), excess=_finite(excess),
        within_tolerance=excess <= 1, rtol=rtol, atol=atol,
    )  # fmt: skip


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def host_outputs(artifact: Artifact, inputs: Arrays) -> dict[str, Array]:
    """Return what one call of an artifact computes here.

    Raises:
        BundleError: the runtime refuses the file or crashes.
        RuntimeUnavailableError: the runtime cannot be had here.
    """
    if artifact.backend == "onnxruntime":
        session = load_session(artifact.file)  # knows which processors compute int8 otherwise
        wanted = {node.name for node in session.get_inputs()}
        names = [node.name for node in session.get_outputs()]
        fed = {name: np.ascontiguousarray(value) for name, value in inputs.items() if name in wanted}
        return dict(zip(names, session.run(names, fed), strict=True))
    return run_on_host(artifact, inputs, threads=1, calls=1).outputs


def run_on_host(
    artifact: Artifact,
    inputs: Arrays,
    *,
    threads: int,
    calls: int | None = None,
    budget_s: float | None = None,
) -> HostRun:
    """Repeat a call in a process of its own.

    Args:
        artifact: of a runtime that the runner knows.
        inputs: by name. threads: inside operators.
        calls: how many; None for as many as ``budget_s`` seconds allow, at least ten.
        budget_s: see ``calls``.

    Raises:
        BundleError: the runtime refuses the file or crashes.
        RuntimeUnavailableError: the runtime cannot be had here.
    """
    isolated = ENVIRONMENTS.get(artifact.backend)
    python = str(ensure(isolated)) if isolated else sys.executable
    opening = {
        "op": "open", "session": "s", "kind": artifact.backend, "model": str(artifact.file.resolve()),
        "threads": threads, "signature": artifact.signature,
    }  # fmt: skip
    repeating: dict[str, object] = {
        "op": "repeat",
        "session": "s",
        "inputs": "inputs.npz",
        "outputs": "outputs.npz",
    }
    repeating |= {} if calls is None else {"calls": calls}
    repeating |= {} if budget_s is None else {"budget_s": budget_s}
    with tempfile.TemporaryDirectory(prefix="nagedge-host-") as name:
        runner.save_arrays(Path(name) / "inputs.npz", inputs)
        done = subprocess.run(
            [python, "-I", runner.__file__, "--folder", name],
            input="\n".join(json.dumps(request) for request in (opening, repeating)),
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        for answer in answers:
            if not answer["ok"]:
                text = next((line.strip() for line in str(answer["error"]).splitlines() if line.strip()), "")
                raise BundleError(
                    f"{artifact.backend} refuses {artifact.name!r}: {text.rstrip('.')}. Export again."
                )
        if len(answers) < 2:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise BundleError(
                f"{artifact.backend} ended with code {done.returncode} while it ran {artifact.name!r}: {last[:300]} "
                "Export again, or choose another target."
            )
        opened, repeated = answers
        return HostRun(
            runtime=str(opened["runtime"]), call=str(repeated["timed"]), load_ms=float(opened["seconds"]) * 1e3,
            durations_ns=tuple(int(value) for value in repeated["durations_ns"]),
            outputs=runner.load_arrays(Path(name) / "outputs.npz"),
        )  # fmt: skip
