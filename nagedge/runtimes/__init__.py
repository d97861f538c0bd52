"""Runtimes: each loads the files of a bundle and runs them.

:func:`open_training` and :func:`open_inference` are the doors; a runtime is one module with a function of each name.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy.typing as npt

from nagedge.errors import ConfigurationError, nearest_name
from nagedge.runtimes.isolation import ENVIRONMENTS, ensure
from nagedge.runtimes.state import TrainingState

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = [
    "RUNTIMES",
    "InferenceSession",
    "TrainingSession",
    "TrainingState",
    "available_runtime",
    "choose_runtime",
    "open_inference",
    "open_training",
    "runtimes_of",
]

Arrays = Mapping[str, npt.NDArray[Any]]
Progress = Callable[[str, int, int], None]

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


_RUNS = {
    "onnxruntime": ("onnxruntime",),
    "ort_training": ("ort_training",),
    "litert": ("litert", "tflite_runtime"),
    "tflite_runtime": ("tflite_runtime", "litert"),
    "coreml": ("coreml", "mil"),
}
"""Backend -> the runtimes that read its files; both readers of .tflite read each other's."""


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
    runtime: str | None = None,
    state: TrainingState | None = None,
    threads: int = 1,
) -> TrainingSession:
    """Load a bundle's training step.

    Args:
        bundle: the bundle.
        target: which target's artifact; None takes the first that can train.
        runtime: one of :data:`RUNTIMES`; None takes the target's own.
        state: where to start; None starts from the bundle's parameters and momentum.
        threads: to compute with, >= 1.

    Raises:
        ConfigurationError: unknown runtime or target, or a bundle without a training step.
        BundleError: the runtime refuses the artifact.
    """
    if bundle.manifest.training is None:
        bundle.target(target, role="train_step")  # says which targets there are
    target, runtime = choose_runtime(bundle, target, runtime, role="train_step")
    session: TrainingSession = _module(runtime).open_training(bundle, target, state=state, threads=threads)
    return session


def open_inference(
    bundle: Bundle,
    target: str | None = None,
    *,
    runtime: str | None = None,
    params: Arrays | None = None,
    threads: int = 1,
) -> InferenceSession:
    """Load a bundle's inference model; ``params`` replaces trained tensors of the same name.

    Raises:
        ConfigurationError: unknown runtime or target.
        BundleError: the runtime refuses the artifact.
    """
    target, runtime = choose_runtime(bundle, target, runtime, role="infer")
    session: InferenceSession = _module(runtime).open_inference(
        bundle, target, params=params, threads=threads
    )
    return session


def runtimes_of(backend: str) -> tuple[str, ...]:
    """Return the runtimes that run a backend's artifacts on this system, the vendor's own first.

    Core ML predicts on macOS only; its programs are evaluated operator by operator everywhere.
    """
    if backend == "coreml":
        return ("coreml", "mil") if sys.platform == "darwin" else ("mil",)
    return (backend,)


def available_runtime(runtime: str, progress: Progress | None = None) -> str:
    """Return name and version of a runtime that this machine has; an isolated one is made on first use.

    Args:
        runtime: one of :data:`RUNTIMES`.
        progress: called with a description, the steps done and the steps in all, while an environment is made.

    Raises:
        RuntimeUnavailableError: it cannot be had here; the text says why and what to do.
    """
    _check_known(runtime)
    if runtime in ENVIRONMENTS:
        ensure(ENVIRONMENTS[runtime], progress)
        return ENVIRONMENTS[runtime].version
    version: str = _module(runtime).available()
    return version


def choose_runtime(bundle: Bundle, target: str | None, runtime: str | None, *, role: str) -> tuple[str, str]:
    """Return a target that has an artifact for ``role``, and a runtime that can run it.

    Args:
        bundle: the bundle.
        target: None takes the first one that ``runtime`` can run.
        runtime: None takes the target's own; the reference, ``torch``, runs every target's forward graph.
        role: ``"infer"`` or ``"train_step"``.

    Raises:
        ConfigurationError: there is no such target or runtime, or they do not fit.
    """
    if runtime is None:
        name, entry = bundle.target(target, role=role)
        return name, runtimes_of(entry.backend)[0]
    _check_known(runtime)
    if target is None:
        for name, entry in bundle.manifest.targets.items():
            if role in entry.artifacts and runtime in ("torch", *_RUNS[entry.backend]):
                return name, runtime
    name, entry = bundle.target(target, role=role)
    if runtime != "torch" and runtime not in _RUNS[entry.backend]:
        raise ConfigurationError(
            f"runtime {runtime!r} cannot run target {name!r} of bundle {str(bundle.path)!r}: it is made for "
            f"{', '.join(_RUNS[entry.backend])}. Choose one of these, or export for {runtime!r}."
        )
    return name, runtime


def _module(runtime: str) -> Any:
    _check_known(runtime)
    return importlib.import_module(RUNTIMES[runtime])


def _check_known(runtime: str) -> None:
    if runtime not in RUNTIMES:
        raise ConfigurationError(
            f"unknown runtime {runtime!r}; expected one of {', '.join(RUNTIMES)}."
            + nearest_name(runtime, RUNTIMES)
        )
