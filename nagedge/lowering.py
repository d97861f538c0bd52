"""From traced graphs to a target's files: which backend lowers for which target, and what each is given."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy.typing as npt
import torch

from nagedge.bundle import FORWARD_FILE, Bundle
from nagedge.errors import ConfigurationError
from nagedge.graphs.forward import without_collection
from nagedge.graphs.inference import InferenceGraph, trace_inference
from nagedge.graphs.liveness import DEFAULT_LIMITS, Limits
from nagedge.graphs.serialization import forward_from_json
from nagedge.graphs.train_step import StepGraph
from nagedge.manifest import TargetEntry
from nagedge.runtimes import RUNTIMES, runtimes_of
from nagedge.runtimes.onnxruntime_memory import planned_step_bytes
from nagedge.targets import Target

__all__ = [
    "BACKENDS", "Artifacts", "Calibration", "Content", "Plan", "backend_of", "batched", "placed", "relowered",
    "size_in_bytes", "within_budget",
]  # fmt: skip

Arrays = Mapping[str, npt.NDArray[Any]]

_UNITS = {
    "": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip

_ATTEMPTS = 4
"""Halvings of the interval in which the best limit lies."""

Content = bytes | Mapping[str, bytes]
"""A file, or the files of a folder by their path in it."""

Artifacts = Mapping[str, tuple[str, Content]]
"""Role -> (name of the file or folder, content)."""

Calibration = Sequence[Mapping[str, npt.NDArray[Any]]]
"""Batches of prepared inputs by name, from which static quantisation takes the ranges of activations."""

BACKENDS: dict[str, str] = {
    "onnxruntime": "nagedge.backends.onnxruntime",
    "ort_training": "nagedge.backends.ort_training",
    "litert": "nagedge.backends.litert",
    "tflite_runtime": "nagedge.backends.litert",
    "coreml": "nagedge.backends.coreml",
}
"""Backend name of a target -> the module that lowers for it."""


class Backend(Protocol):
    """What a module of :mod:`nagedge.backends` has."""

    DECOMPOSITIONS: Mapping[Any, Callable[..., Any]]
    """Overrides of the portable decompositions."""

    def lower(
        self,
        inference: InferenceGraph,
        step: StepGraph | None,
        target: Target,
        *,
        module_of: Callable[[str], str | None],
        calibration: Calibration,
    ) -> Artifacts:
        """Return the target's artifacts.

        Raises:
            UnsupportedOperatorError: for an operator without a lowering; the text names it, its module and the target.
        """
        ...


def backend_of(target: Target) -> Backend:
    """Return the module that lowers for ``target``."""
    module: Any = importlib.import_module(BACKENDS[target.backend])
    return module  # type: ignore[no-any-return] # a module has the protocol's names


def placed(target: str, artifacts: Artifacts) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return role -> path in the bundle, and path -> content of every file."""
    paths: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for role, (name, content) in artifacts.items():
        paths[role] = f"targets/{target}/{name}"
        if isinstance(content, bytes):
            files[paths[role]] = content
        else:
            files |= {f"{paths[role]}/{inner}": data for inner, data in content.items()}
    return paths, files


def batched(inputs: Arrays, size: int = 8) -> list[dict[str, npt.NDArray[Any]]]:
    """Cut inputs by name into batches of ``size`` rows; a shorter rest is left out unless it is all there is."""
    rows = len(next(iter(inputs.values()), ()))
    starts = range(0, max(rows - size + 1, min(rows, 1)), size)
    return [{name: array[start : start + size] for name, array in inputs.items()} for start in starts]


@dataclass(frozen=True)
class Plan:
    """The memory that a training step of so many rows is planned to hold above its loaded session."""

    step_bytes: int
    rows: int


def within_budget(
    lower: Callable[[StepGraph | None], Artifacts],
    step: StepGraph | None,
    target: Target,
    budget_bytes: int | None,
) -> tuple[Artifacts, Plan | None]:
    """Return a target's artifacts and the planned memory of a training step above its loaded session.

    More is computed again, and more expensive things, only where the budget asks for it.

    Args:
        lower: from a step to artifacts.
        step: the training step, or None when the target has none.
        target: what is lowered for.
        budget_bytes: the most that a step of ``step.rows`` rows may hold; None for no limit.

    Returns:
        The artifacts; the plan, None where there is no step or the backend has none.

    Raises:
        ConfigurationError: the budget cannot be met; the text names the lowest that can.
    """
    if step is None:
        return lower(None), None
    if target.backend != "onnxruntime":
        if budget_bytes is not None:
            raise ConfigurationError(
                f"target {target.name!r}: a memory budget is only planned for the backend 'onnxruntime', whose order "
                f"of execution the file sets; got {target.backend!r}. Leave the budget out, or choose such a target."
            )
        return lower(step), None
    rows = step.batch or target.batch or step.rows

    @without_collection()
    def tried(limits: Limits) -> tuple[Artifacts, Plan]:
        artifacts = lower(replace(step, rows=rows, limits=limits))
        content = artifacts["train_step"][1]
        assert isinstance(content, bytes)
        return artifacts, Plan(planned_step_bytes(content, rows), rows)

    found = tried(DEFAULT_LIMITS)
    if budget_bytes is None or found[1].step_bytes <= budget_bytes:
        return found
    lowest = tried(Limits(bytes=0, slowdown=1.0, products=True))
    if lowest[1].step_bytes > budget_bytes:
        raise ConfigurationError(
            f"target {target.name!r}: a training step of {rows} rows cannot be kept within {budget_bytes:,} bytes: "
            f"its plan holds {found[1].step_bytes:,} bytes, and {lowest[1].step_bytes:,} with everything computed "
            "again that can be. "
            "Allow at least that much, export with a smaller example batch, or train fewer parameters (--trainable)."
        )
    best, low, high = lowest, 0, budget_bytes
    for _ in range(_ATTEMPTS):  # what computes least again
        middle = (low + high) // 2
        attempt = tried(Limits(bytes=middle, slowdown=1.0, products=True))
        if attempt[1].step_bytes <= budget_bytes:
            best, low = attempt, middle
        else:
            high = middle
    return best


def size_in_bytes(size: int | str) -> int:
    """Return a size given as a number of bytes or with a unit, such as ``"32MB"`` or ``"30 MiB"``.

    Raises:
        ConfigurationError: it is none.
    """
    match = re.fullmatch(r"([0-9]*\.?[0-9]+)\s*([A-Za-z]*)", str(size).strip())
    found = int(float(match[1]) * _UNITS.get(match[2], 0)) if match else 0
    if found < 1:
        raise ConfigurationError(
            f"memory budget {str(size)!r} is no size, expected a number above 0 with one of the units "
            f"{', '.join(unit for unit in _UNITS if unit)}, or none, for example 32MB."
        )
    return found


def relowered(
    bundle: Bundle, params: Arrays, momentum: Arrays, *, calibration: Calibration
) -> dict[str, bytes]:
    """Return the files of a bundle that change with its parameters, by path.

    Args:
        bundle: the bundle with the old parameters.
        params, momentum: every tensor of the model's state, and the momentum buffers, by name.
        calibration: for the targets that are quantised statically.
    """
    files: dict[str, bytes] = {}
    inference: InferenceGraph | None = None
    for name, entry in bundle.manifest.targets.items():
        if entry.artifacts["infer"] == entry.artifacts.get("train_step"):
            continue  # one file for both: what is trained is an input of both
        changed = _with_state(bundle, entry, params, momentum)
        if changed is not None:
            files |= {entry.artifacts[role]: content for role, content in changed.items()}
            continue
        if inference is None:
            where = f"bundle {str(bundle.path)!r}: {FORWARD_FILE}"
            forward = forward_from_json(bundle.text(FORWARD_FILE), where=where)
            inference = trace_inference(forward, {key: torch.tensor(value) for key, value in params.items()})
        target = _target(name, entry)
        lowered = backend_of(target).lower(
            inference, None, target, module_of=lambda operator: None, calibration=calibration
        )
        kept = {role: artifact for role, artifact in lowered.items() if role.startswith("infer")}
        files |= placed(name, kept)[1]
    return files


def _with_state(
    bundle: Bundle, entry: TargetEntry, params: Arrays, momentum: Arrays
) -> dict[str, bytes] | None:
    """Return the changed artifacts by role where the runtime can write a state into them, else None."""
    with_state = getattr(importlib.import_module(RUNTIMES[runtimes_of(entry.backend)[0]]), "with_state", None)
    if with_state is None:
        return None
    paths = {role: bundle.file(path) for role, path in entry.artifacts.items()}
    contents = {role: path.read_bytes() for role, path in paths.items() if path.is_file()}
    changed: dict[str, bytes] | None = with_state(entry, contents, params, momentum)
    return changed


def _target(name: str, entry: TargetEntry) -> Target:
    """Return the target that an entry was lowered for, as far as lowering asks."""
    return Target(
        name, "any", "any", entry.backend, entry.precision, entry.rtol, entry.atol, entry.inference_rtol,
        entry.inference_atol, entry.backward_error, "train_step" in entry.artifacts, entry.opset, entry.minimum_os,
        entry.batch, "infer_ort" in entry.artifacts,
    )  # fmt: skip
