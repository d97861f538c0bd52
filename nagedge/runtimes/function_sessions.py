"""Sessions over a function of a file, in this process: what its runtimes have in common, given how it is run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.runtimes.state import (
    TrainingState,
    checked_batch,
    losses_of,
    named_state,
    state_of,
    step_inputs,
)

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["FunctionInference", "FunctionTraining", "Run"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Run = Callable[[Arrays], dict[str, Array]]
"""Runs a function on tensors by their names in the bundle, and passes over those that it does not take; returns its
results by theirs."""


class FunctionTraining:
    """A training step: state in, state out."""

    def __init__(self, bundle: Bundle, target: str, run: Run, state: TrainingState) -> None:
        self._manifest, self._target, self._run = bundle.manifest, target, run
        self._state = {name: np.array(value, order="C") for name, value in named_state(state).items()}

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
        """Run one step; see :class:`nagedge.runtimes.TrainingSession`."""
        fed = step_inputs(
            self._manifest, inputs, targets, sample_weight, target=self._target,
            lr=lr, momentum=momentum, weight_decay=weight_decay,
        )  # fmt: skip
        results = self._run({**fed, **self._state})
        self._state = {  # an ML Program has fewer dtypes, and no tensor without axes
            name: results[f"next.{name}"].reshape(value.shape).astype(value.dtype, copy=False)
            for name, value in self._state.items()
        }
        return losses_of(self._manifest, results)

    def state(self) -> TrainingState:
        """Return a copy of the state."""
        return state_of(self._state)


class FunctionInference:
    """A forward pass."""

    def __init__(self, bundle: Bundle, target: str, run: Run) -> None:
        self._manifest, self._target, self._run = bundle.manifest, target, run

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by task name."""
        checked, _, _ = checked_batch(self._manifest, inputs, None, None, target=self._target)
        return self._run(checked)
