"""TensorFlow Lite (tflite-runtime 2.14.0, upstream's last), in an isolated environment.

It reads the same .tflite files as LiteRT: the signature ``infer`` and, where the target trains, the signature
``train``, with the names of the specs. The training state goes in and comes out with every step; in between the process
keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from nagedge.errors import ConfigurationError
from nagedge.runtimes import runner
from nagedge.runtimes.isolation import ENVIRONMENTS
from nagedge.runtimes.state import (
    TrainingState,
    checked_batch,
    initial_state,
    losses_of,
    named_state,
    state_of,
    step_inputs,
)
from nagedge.runtimes.worker import FileSession

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["open_inference", "open_training"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

_ENVIRONMENT = ENVIRONMENTS["tflite_runtime"]


def open_training(
    bundle: Bundle, target: str | None = None, *, state: TrainingState | None = None, threads: int = 1
) -> _TfliteTraining:
    """Load the signature ``train``."""
    name, entry = bundle.target(target, role="train_step")
    path = bundle.file(entry.artifacts["train_step"])
    return _TfliteTraining(bundle, name, path, state or initial_state(bundle), threads)


def open_inference(
    bundle: Bundle, target: str | None = None, *, params: Arrays | None = None, threads: int = 1
) -> _TfliteInference:
    """Load the signature ``infer``.

    Raises:
        ConfigurationError: ``params`` are given, but the file holds its parameters as constants.
    """
    name, entry = bundle.target(target, role="infer")
    path = bundle.file(entry.artifacts["infer"])
    fed = {}
    if bundle.manifest.training is not None:
        state = initial_state(bundle)
        fed = named_state(
            TrainingState(_replaced(state.params, params), {}, _replaced(state.buffers, params))
        )
    session = _TfliteInference(bundle, name, path, fed, threads)
    if params and not session.takes_parameters:
        raise ConfigurationError(
            f"{str(path)!r} holds its parameters as constants: lower it again for new ones (nagedge.finetune does)."
        )
    return session


def _replaced(own: Arrays, params: Arrays | None) -> dict[str, Array]:
    return {name: (params or {}).get(name, array) for name, array in own.items()}


class _TfliteTraining:
    def __init__(self, bundle: Bundle, target: str, path: Path, state: TrainingState, threads: int) -> None:
        self._manifest, self._target = bundle.manifest, target
        self._file = FileSession(_ENVIRONMENT, path)
        arrays = named_state(state)
        runner.save_arrays(self._file.folder / "initial.npz", arrays)
        self._file.ask(
            "open", kind="tflite_runtime", model=path, signature="train", threads=threads, state="initial.npz",
            carry={f"next.{name}": name for name in arrays},
        )  # fmt: skip

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
        return losses_of(self._manifest, self._file.run("step", fed))

    def state(self) -> TrainingState:
        """Return a copy of the state."""
        self._file.ask("state", outputs="state.npz")
        return state_of(runner.load_arrays(self._file.folder / "state.npz"))


class _TfliteInference:
    def __init__(self, bundle: Bundle, target: str, path: Path, fed: Arrays, threads: int) -> None:
        self._manifest, self._target = bundle.manifest, target
        self._file = FileSession(_ENVIRONMENT, path)
        runner.save_arrays(self._file.folder / "fed.npz", fed)
        reply = self._file.ask(
            "open",
            kind="tflite_runtime",
            model=path,
            signature="infer",
            threads=threads,
            state="fed.npz",
        )
        self.takes_parameters = any(name in fed for name in reply["inputs"])

    def predict(self, inputs: Arrays) -> dict[str, Array]:
        """Return the outputs by task name."""
        checked, _, _ = checked_batch(self._manifest, inputs, None, None, target=self._target)
        return self._file.run("predict", checked)
