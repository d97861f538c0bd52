"""Runtimes: each loads the files of a bundle and runs them.

:func:`open_training` and :func:`open_inference` are the doors; a runtime is one module with a function of each name.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from nagedge.errors import ConfigurationError, nearest_name
from nagedge.runtimes.state import TrainingState

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = [
    "RUNTIMES",
    "InferenceSession",
    "TrainingSession",
    "TrainingState",
    "open_inference",
    "open_training",
]

Arrays = Mapping[str, npt.NDArray[Any]]

RUNTIMES: dict[str, str] = {
    "onnxruntime": "nagedge.runtimes.onnxruntime",
    "ort_training": "nagedge.runtimes.ort_training",
    "litert": "nagedge.runtimes.litert",
    "tflite_runtime": "nagedge.runtimes.tflite_runtime",
    "coreml": "nagedge.runtimes.coreml",
    "mil": "nagedge.runtimes.mil",
    "torch": "nagedge.runtimes.torch",
}
"""Runtime name -> the module that implements it; ``torch`` is the reference."""


class TrainingSession(Protocol):
    """A loaded training step with its state."""

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
        """Run one step and return its losses: ``"loss"``, then one a task, by name.

        Args:
            inputs: by input name, ``[batch, ...]``, in the dtypes of the manifest.
            targets: by task name, ``[batch]`` or ``[batch, size]``.
            sample_weight: float32 ``[batch]``, >= 0; None for ones. A row of weight 0 counts in no loss and no
                gradient (but in the statistics of a BatchNorm under the policy ``train``).
            lr, momentum, weight_decay: of this step.
        """
        ...

    def state(self) -> TrainingState:
        """Return a copy of the parameters, momentum buffers and updated buffers."""
        ...


class InferenceSession(Protocol):
    """A loaded inference model."""

    def predict(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs by task name for inputs by name."""
        ...


def open_training(
    bundle: Bundle,
    target: str | None = None,
    *,
    runtime: str = "onnxruntime",
    state: TrainingState | None = None,
    threads: int = 1,
) -> TrainingSession:
    """Load a bundle's training step.

    Args:
        bundle: the bundle.
        target: which target's artifact; None takes the first that can train.
        runtime: one of :data:`RUNTIMES`.
        state: where to start; None starts from the bundle's parameters and momentum.
        threads: to compute with, >= 1.

    Raises:
        ConfigurationError: unknown runtime or target, or a bundle without a training step.
        BundleError: the runtime refuses the artifact.
    """
    if bundle.manifest.training is None:
        bundle.target(target, role="train_step")  # says which targets there are
    session: TrainingSession = _module(runtime).open_training(bundle, target, state=state, threads=threads)
    return session


def open_inference(
    bundle: Bundle,
    target: str | None = None,
    *,
    runtime: str = "onnxruntime",
    params: Arrays | None = None,
    threads: int = 1,
) -> InferenceSession:
    """Load a bundle's inference model; ``params`` replaces trained tensors of the same name.

    Raises:
        ConfigurationError: unknown runtime or target.
        BundleError: the runtime refuses the artifact.
    """
    session: InferenceSession = _module(runtime).open_inference(
        bundle, target, params=params, threads=threads
    )
    return session


def _module(runtime: str) -> Any:
    if runtime not in RUNTIMES:
        raise ConfigurationError(
            f"unknown runtime {runtime!r}; expected one of {', '.join(RUNTIMES)}."
            + nearest_name(runtime, RUNTIMES)
        )
    return importlib.import_module(RUNTIMES[runtime])
