"""Sessions over an ML Program: what every runtime of one has in common, given how a program is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import DataError
from nagedge.runtimes.state import TrainingState, checked_batch

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["ProgramInference", "ProgramTraining", "Run", "features", "named_results"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Run = Callable[[Arrays], dict[str, Array]]
"""Runs a program on tensors by their names in the bundle; returns its results by theirs."""

_INT32 = np.iinfo(np.int32)


def features(fed: Arrays, names: Mapping[str, str]) -> dict[str, Array]:
    """Return what a program takes: float32 and int32 only, no tensor without axes, by the program's names.

    Args:
        fed: by name in the bundle.
        names: the bundle's name of every feature, by the program's.

    Raises:
        DataError: a whole number does not fit int32.
    """
    inside = {name: feature for feature, name in names.items()}
    return {
        inside.get(name, name): _fitted(name, array.reshape(1) if array.ndim == 0 else array)
        for name, array in fed.items()
    }


def _fitted(name: str, array: Array) -> Array:
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array, np.float32)
    if array.dtype.kind != "b" and array.size:
        low, high = int(array.min()), int(array.max())
        if low < _INT32.min or high > _INT32.max:
            raise DataError(
                f"{name!r} holds numbers from {low} to {high}; Core ML has int32 only, {_INT32.min} to {_INT32.max}."
            )
    return np.ascontiguousarray(array, np.int32)


def named_results(results: Arrays, names: Mapping[str, str]) -> dict[str, Array]:
    """Return results by their names in the bundle."""
    return {names.get(feature, feature): np.asarray(value) for feature, value in results.items()}


class ProgramTraining:
    """A training step: state in, state out."""

    def __init__(self, bundle: Bundle, target: str, run: Run, state: TrainingState) -> None:
        self._manifest, self._target, self._run = bundle.manifest, target, run
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
        sample_weight: Array | None = None,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
    ) -> dict[str, float]:
        """Run one step and return its losses."""
        checked, wanted, weight = checked_batch(
            self._manifest, inputs, targets, sample_weight, target=self._target
        )
        results = self._run({
            **checked,
            **{f"target.{name}": value for name, value in wanted.items()},
            "sample_weight": weight,
            "lr": np.asarray(lr, np.float32),
            "momentum": np.asarray(momentum, np.float32),
            "weight_decay": np.asarray(weight_decay, np.float32),
            **self._state,
        })  # fmt: skip
        self._state = {
            name: results[f"next.{name}"].reshape(value.shape).astype(value.dtype)
            for name, value in self._state.items()
        }
        losses = {"loss": float(results["loss"].item())}
        return losses | {task: float(results[f"loss.{task}"].item()) for task in self._task_names}

    def state(self) -> TrainingState:
        """Return a copy of the state."""
        roles: dict[str, dict[str, Array]] = {"params": {}, "momentum": {}, "buffers": {}}
        for key, value in self._state.items():
            role, _, name = key.partition(".")
            roles[role][name] = np.array(value)
        return TrainingState(**roles)


class ProgramInference:
    """A forward pass."""

    def __init__(self, bundle: Bundle, target: str, run: Run) -> None:
        self._manifest, self._target, self._run = bundle.manifest, target, run

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by task name."""
        checked, _, _ = checked_batch(self._manifest, inputs, None, None, target=self._target)
        return self._run(checked)
