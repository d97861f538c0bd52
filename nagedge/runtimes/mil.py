"""Core ML without a Mac: the saved ML Program, evaluated op by op with torch (:mod:`nagedge.runtimes.mil_program`).

It computes what the program says, in the program's own types. It says nothing of Apple's kernels, of what they fuse,
of the order in which they sum or of their speed: for that the runtime ``coreml`` predicts on macOS.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from nagedge.runtimes.mil_program import Program, coremltools_version, load_program
from nagedge.runtimes.state import TrainingState, checked_batch, initial_state

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["available", "open_inference", "open_training"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


def available() -> str:
    """Return what evaluates, with versions; it says that it is not Apple's runtime.

    Raises:
        RuntimeUnavailableError: coremltools, whose protobuf classes read the file, is not installed.
    """
    return (
        f"evaluated from the ML Program, not by Apple's runtime (coremltools {coremltools_version()} protobuf, torch "
        f"{torch.__version__})"
    )


def open_training(
    bundle: Bundle, target: str | None = None, *, state: TrainingState | None = None, threads: int = 1
) -> _MilTraining:
    """Load ``train_step.mlpackage``."""
    _, entry = bundle.target(target, role="train_step")
    program = load_program(bundle.file(entry.artifacts["train_step"]))
    return _MilTraining(bundle, program, state or initial_state(bundle), threads)


def open_inference(
    bundle: Bundle, target: str | None = None, *, params: Arrays | None = None, threads: int = 1
) -> _MilInference:
    """Load ``infer.mlpackage``; ``params`` replaces constants of the same name.

    Raises:
        BundleError: the program has no plain constant for one of ``params``: it is compressed, or part of another one.
    """
    _, entry = bundle.target(target, role="infer")
    program = load_program(bundle.file(entry.artifacts["infer"]), replaced=params)
    return _MilInference(bundle, program, threads)


class _MilTraining:
    def __init__(self, bundle: Bundle, program: Program, state: TrainingState, threads: int) -> None:
        self._manifest, self._program, self._threads = bundle.manifest, program, threads
        self._task_names = [task.name for task in bundle.manifest.tasks]
        roles = {"params": state.params, "momentum": state.momentum, "buffers": state.buffers}
        self._state = {
            f"{role}.{name}": np.array(value)
            for role, values in roles.items()
            for name, value in values.items()
        }

    def step(
        self,
        inputs: Arrays,
        targets: Arrays,
        sample_weight: npt.NDArray[Any] | None = None,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> dict[str, float]:
        checked, wanted, weight = checked_batch(self._manifest, inputs, targets, sample_weight)
        fed: dict[str, Array] = {
            **checked,
            **{f"target.{name}": value for name, value in wanted.items()},
            "sample_weight": weight,
            "lr": np.asarray(lr, np.float32),
            "momentum": np.asarray(momentum, np.float32),
            "weight_decay": np.asarray(weight_decay, np.float32),
            **self._state,
        }
        with _threads(self._threads):
            results = _run(self._program, fed)
        self._state = {
            name: results[f"next.{name}"].reshape(value.shape).astype(value.dtype)
            for name, value in self._state.items()
        }
        losses = {"loss": float(results["loss"].item())}
        return losses | {task: float(results[f"loss.{task}"].item()) for task in self._task_names}

    def state(self) -> TrainingState:
        roles: dict[str, dict[str, Array]] = {"params": {}, "momentum": {}, "buffers": {}}
        for key, value in self._state.items():
            role, _, name = key.partition(".")
            roles[role][name] = np.array(value)
        return TrainingState(**roles)


class _MilInference:
    def __init__(self, bundle: Bundle, program: Program, threads: int) -> None:
        self._manifest, self._program, self._threads = bundle.manifest, program, threads

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        checked, _, _ = checked_batch(self._manifest, inputs, None, None)
        with _threads(self._threads):
            return _run(self._program, checked)


def _run(program: Program, fed: Arrays) -> dict[str, Array]:
    """Run a program on tensors by their names in the bundle; return its results by theirs.

    Core ML has no tensor without axes at the border: where the program takes one value, a scalar gets an axis.
    """
    given: dict[str, Array] = {}
    for name, array in fed.items():
        inside = program.names.get(name, name)
        if inside in program.inputs:
            kind = program.inputs[inside].kind
            single = array.ndim == 0 and kind is not None and kind.shape == (1,)
            given[inside] = array.reshape(1) if single else array
    original = {inside: name for name, inside in program.names.items()}
    return {original.get(name, name): value for name, value in program.run(given).items()}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Compute with ``count`` threads inside; torch's setting is one for the whole process."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
