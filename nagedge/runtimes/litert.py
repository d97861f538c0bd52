"""LiteRT (ai-edge-litert): the signatures ``infer`` and ``train`` of a ``model.tflite``.

The interpreter lives as long as the session: it allocates when the batch size changes and not otherwise. Results are
copied out of its memory, which the next call overwrites.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import BundleError, ConfigurationError, RuntimeUnavailableError
from nagedge.runtimes.state import TrainingState, checked_batch, initial_state

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.manifest import Manifest

__all__ = ["available", "load_interpreter", "open_inference", "open_training"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

_PACKAGE = "ai-edge-litert"


def available() -> str:
    """Return the runtime's name and version.

    Raises:
        RuntimeUnavailableError: ai-edge-litert is not installed, or has no library for this system.
    """
    _interpreter_class()
    return f"litert {metadata.version(_PACKAGE)}"


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"runtime 'litert' is not available: {error}. Install it with `pip install nagedge[litert]`."
        ) from None
    return Interpreter


def load_interpreter(model: Path | bytes, *, threads: int = 1) -> Any:
    """Load a .tflite on the CPU; XNNPACK takes the operators that it knows.

    Args:
        model: the file, or its content.
        threads: to compute with, >= 1.

    Raises:
        BundleError: LiteRT refuses the file.
        RuntimeUnavailableError: LiteRT is not installed.
    """
    make = _interpreter_class()
    try:
        if isinstance(model, bytes):
            return make(model_content=model, num_threads=threads)
        return make(model_path=str(model), num_threads=threads)
    except (ValueError, RuntimeError) as error:
        text = str(error).strip().splitlines()[0]
        shown = "the model with its new parameters" if isinstance(model, bytes) else repr(str(model))
        raise BundleError(f"LiteRT refuses {shown}: {text} Export again, or update LiteRT.") from None


def open_training(
    bundle: Bundle, target: str | None = None, *, state: TrainingState | None = None, threads: int = 1
) -> _LiteRtTraining:
    """Load the signature ``train``."""
    name, entry = bundle.target(target, role="train_step")
    interpreter = load_interpreter(bundle.file(entry.artifacts["train_step"]), threads=threads)
    return _LiteRtTraining(_manifest(bundle, name), interpreter, state or initial_state(bundle))


def open_inference(
    bundle: Bundle, target: str | None = None, *, params: Arrays | None = None, threads: int = 1
) -> _LiteRtInference:
    """Load the signature ``infer``; ``params`` replaces trained tensors of the same name.

    Raises:
        ConfigurationError: ``params`` are given, but the file holds its parameters as constants.
    """
    name, entry = bundle.target(target, role="infer")
    path = bundle.file(entry.artifacts["infer"])
    runner = load_interpreter(path, threads=threads).get_signature_runner("infer")
    taken = {
        i: i.partition(".")[2] for i in runner.get_input_details() if i.startswith(("params.", "buffers."))
    }
    if params and not taken:
        raise ConfigurationError(
            f"{str(path)!r} holds its parameters as constants: lower it again for new ones (nagedge.finetune does)."
        )
    stored = bundle.params() if taken else {}
    state = {i: np.ascontiguousarray((params or {}).get(key, stored[key])) for i, key in taken.items()}
    return _LiteRtInference(_manifest(bundle, name), runner, state)


def _manifest(bundle: Bundle, target: str) -> Manifest:
    """Return the manifest with the batch size that the target's files take."""
    return bundle.manifest.model_copy(update={"batch": bundle.manifest.batch_of(target)})


class _LiteRtTraining:
    def __init__(self, manifest: Manifest, interpreter: Any, state: TrainingState) -> None:
        self._manifest = manifest
        self._train = interpreter.get_signature_runner("train")
        self._task_names = [task.name for task in manifest.tasks]
        self._inputs = set(self._train.get_input_details())
        roles = {"params": state.params, "momentum": state.momentum, "buffers": state.buffers}
        self._state = {
            f"{role}.{name}": np.array(value, order="C")
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
        """Run one step; see :class:`nagedge.runtimes.TrainingSession`."""
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
        results = self._train(**{name: array for name, array in fed.items() if name in self._inputs})
        self._state = {name: results[f"next.{name}"] for name in self._state}
        losses = {"loss": float(results["loss"])}
        return losses | {task: float(results[f"loss.{task}"]) for task in self._task_names}

    def state(self) -> TrainingState:
        """Return a copy of the state."""
        roles: dict[str, dict[str, Array]] = {"params": {}, "momentum": {}, "buffers": {}}
        for key, value in self._state.items():
            role, _, name = key.partition(".")
            roles[role][name] = np.array(value)
        return TrainingState(**roles)


class _LiteRtInference:
    def __init__(self, manifest: Manifest, runner: Any, state: Arrays) -> None:
        self._manifest, self._infer, self._state = manifest, runner, state

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by task name."""
        checked, _, _ = checked_batch(self._manifest, inputs, None, None)
        results: dict[str, Array] = self._infer(**checked, **self._state)
        return results
