"""TensorFlow Lite (tflite-runtime 2.14.0, upstream's last), in an isolated environment.

It reads the same .tflite files as LiteRT: the signature ``infer`` and, where the target trains, the signature
``train``, with the names of the specs. The training state goes in and comes out with every step; in between the process
keeps it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import ConfigurationError
from nagedge.runtimes import runner
from nagedge.runtimes.isolation import ENVIRONMENTS, ensure
from nagedge.runtimes.state import TrainingState, checked_batch, initial_state
from nagedge.runtimes.worker import FileSession

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.manifest import Manifest

__all__ = ["available", "open_inference", "open_training"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

_ENVIRONMENT = ENVIRONMENTS["tflite_runtime"]


def available() -> str:
    """Return name and version of the runtime; its environment is made on first use.

    Raises:
        RuntimeUnavailableError: it cannot be made.
    """
    ensure(_ENVIRONMENT)
    return _ENVIRONMENT.version


def open_training(
    bundle: Bundle, target: str | None = None, *, state: TrainingState | None = None, threads: int = 1
) -> _TfliteTraining:
    """Load the signature ``train``."""
    name, entry = bundle.target(target, role="train_step")
    path = bundle.file(entry.artifacts["train_step"])
    return _TfliteTraining(_manifest(bundle, name), path, state or initial_state(bundle), threads)


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
        learnt = {"params": state.params, "buffers": state.buffers}
        fed = _named({role: {**own, **_known(own, params)} for role, own in learnt.items()})
    session = _TfliteInference(_manifest(bundle, name), path, fed, threads)
    if params and not session.takes_parameters:
        raise ConfigurationError(
            f"{str(path)!r} holds its parameters as constants: lower it again for new ones (nagedge.finetune does)."
        )
    return session


def _manifest(bundle: Bundle, target: str) -> Manifest:
    """Return the manifest with the batch size that the target's files take."""
    return bundle.manifest.model_copy(update={"batch": bundle.manifest.batch_of(target)})


def _known(own: Arrays, params: Arrays | None) -> dict[str, Array]:
    return {name: array for name, array in (params or {}).items() if name in own}


def _named(roles: Mapping[str, Arrays]) -> dict[str, Array]:
    return {f"{role}.{name}": array for role, arrays in roles.items() for name, array in arrays.items()}


class _TfliteTraining:
    def __init__(self, manifest: Manifest, path: Path, state: TrainingState, threads: int) -> None:
        self._manifest, self._file = manifest, FileSession(_ENVIRONMENT, path)
        arrays = _named({"params": state.params, "momentum": state.momentum, "buffers": state.buffers})
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
        checked, wanted, weight = checked_batch(self._manifest, inputs, targets, sample_weight)
        scalars = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        fed = {
            **checked,
            **{f"target.{name}": value for name, value in wanted.items()},
            "sample_weight": weight,
            **{name: np.asarray(value, np.float32) for name, value in scalars.items()},
        }
        results = self._file.run("step", fed)
        losses = {name: float(value.reshape(-1)[0]) for name, value in results.items()}
        return {"loss": losses["loss"], **{t.name: losses[f"loss.{t.name}"] for t in self._manifest.tasks}}

    def state(self) -> TrainingState:
        """Return a copy of the state."""
        self._file.ask("state", outputs="state.npz")
        roles: dict[str, dict[str, Array]] = {"params": {}, "momentum": {}, "buffers": {}}
        for key, value in runner.load_arrays(self._file.folder / "state.npz").items():
            role, _, name = key.partition(".")
            roles[role][name] = value
        return TrainingState(**roles)


class _TfliteInference:
    def __init__(self, manifest: Manifest, path: Path, fed: Arrays, threads: int) -> None:
        self._manifest, self._file = manifest, FileSession(_ENVIRONMENT, path)
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
        checked, _, _ = checked_batch(self._manifest, inputs, None, None)
        return self._file.run("predict", checked)
