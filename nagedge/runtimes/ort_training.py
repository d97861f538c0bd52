"""ONNX Runtime's on-device training (onnxruntime-training 1.19.2), in an isolated environment.

The process there loads the bundle's artifacts with the runtime's own Module, Optimizer and CheckpointState, as a device
does; the state is read back from the checkpoint that it saves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.ort_checkpoint import OrtCheckpoint, read_checkpoint, write_checkpoint
from nagedge.ort_checkpoint import with_state as checkpoint_with_state
from nagedge.runtimes.isolation import ENVIRONMENTS
from nagedge.runtimes.onnxruntime import with_parameters
from nagedge.runtimes.state import TrainingState, checked_batch, losses_of, step_inputs
from nagedge.runtimes.worker import FileSession

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.manifest import TargetEntry

__all__ = ["open_inference", "open_training", "with_hyperparameters", "with_state"]

Arrays = Mapping[str, npt.NDArray[Any]]

_ENVIRONMENT = ENVIRONMENTS["ort_training"]


def open_training(
    bundle: Bundle, target: str | None = None, *, state: TrainingState | None = None, threads: int = 1
) -> _OrtTrainingSession:
    """Load training, eval and optimizer model; without ``state`` it starts from the bundle's native checkpoint."""
    name, entry = bundle.target(target, role="optimizer_model")  # only this backend's targets have one
    return _OrtTrainingSession(bundle, name, entry, state, threads)


def open_inference(
    bundle: Bundle, target: str | None = None, *, params: Arrays | None = None, threads: int = 1
) -> _OrtInferenceSession:
    """Load ``infer.onnx``; parameters given here become the session's constants."""
    name, entry = bundle.target(target, role="infer")
    return _OrtInferenceSession(bundle, name, bundle.file(entry.artifacts["infer"]), params, threads)


def with_state(
    entry: TargetEntry, artifacts: Mapping[str, bytes], params: Arrays, momentum: Arrays
) -> dict[str, bytes] | None:
    """Return the artifacts that a new state changes, by role: ``infer.onnx`` and the native checkpoint.

    Args:
        entry: the target.
        artifacts: the old contents by role.
        params, momentum: every tensor of the model's state, and the momentum buffers, by name.
    """
    del entry
    changed = {"infer": with_parameters(artifacts["infer"], params)}
    if "checkpoint" in artifacts:
        both = {f"params.{name}": array for name, array in params.items()}
        both |= {f"buffers.{name}": array for name, array in params.items()}
        velocities = {f"params.{name}": array for name, array in momentum.items()}
        changed["checkpoint"] = checkpoint_with_state(artifacts["checkpoint"], both, velocities)
    return changed


def with_hyperparameters(model: bytes, *, momentum: float, weight_decay: float) -> bytes:
    """Return an ``optimizer_model.onnx`` with other constants; the learning rate is the API's to set.

    Args:
        model: the file.
        momentum: in [0, 1).
        weight_decay: >= 0, of the parameters of two or more dimensions.
    """
    import onnx

    proto = onnx.load_from_string(model)
    for tensor in proto.graph.initializer:
        if tensor.name == "momentum":
            value = np.asarray(momentum, np.float32)
        elif tensor.name == "weight_decay":  # by number of dimensions
            size = tensor.dims[0]
            value = np.where(np.arange(size) >= 2, weight_decay, 0).astype(np.float32)
        else:
            continue
        tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))
    changed: bytes = proto.SerializeToString()
    return changed


class _OrtTrainingSession:
    def __init__(
        self, bundle: Bundle, name: str, entry: TargetEntry, state: TrainingState | None, threads: int
    ) -> None:
        self._manifest, self._target = bundle.manifest, name
        files = {role: bundle.file(path) for role, path in entry.artifacts.items()}
        self._file = FileSession(_ENVIRONMENT, files["train_step"])
        checkpoint = files["checkpoint"]
        if state is not None:
            checkpoint = self._file.folder / "initial"
            checkpoint.write_bytes(_checkpoint_of(state))
        self._optimizer_model = files["optimizer_model"]
        self._constants: tuple[float, float] | None = None
        self._file.ask(
            "open", kind="ort_training", threads=threads, model=files["train_step"],
            eval_model=files["eval_model"], optimizer_model=self._optimizer_model, checkpoint=checkpoint,
        )  # fmt: skip

    def step(
        self,
        inputs: Arrays,
        targets: Arrays,
        sample_weight: npt.NDArray[Any] | None = None,
        *,
        lr: float,
        momentum: float,
        weight_decay: float,
        update: bool = True,
    ) -> dict[str, float]:
        """Run one step; see :class:`nagedge.runtimes.TrainingSession`.

        With ``update`` false only the gradient is computed, and added to that of the next step.
        """
        keys: dict[str, object] = {"learning_rate": lr, "update": update}
        if (momentum, weight_decay) != self._constants:
            # They are constants of the optimizer model; the momentum buffers belong to the checkpoint and stay.
            path = self._file.folder / "optimizer_model.onnx"
            path.write_bytes(
                with_hyperparameters(
                    self._optimizer_model.read_bytes(), momentum=momentum, weight_decay=weight_decay
                )
            )
            keys["optimizer"] = path.name
            self._constants = momentum, weight_decay
        fed = step_inputs(self._manifest, inputs, targets, sample_weight, target=self._target)
        return losses_of(self._manifest, self._file.run("step", fed, **keys))

    def evaluate(
        self, inputs: Arrays, targets: Arrays, sample_weight: npt.NDArray[Any] | None = None
    ) -> tuple[dict[str, float], dict[str, npt.NDArray[Any]]]:
        """Run the eval model on the present parameters; return the losses and the outputs by task."""
        fed = step_inputs(self._manifest, inputs, targets, sample_weight, target=self._target)
        results = self._file.run("predict", fed)
        return losses_of(self._manifest, results), {
            task.name: results[task.name] for task in self._manifest.tasks
        }

    def state(self) -> TrainingState:
        """Return a copy of the state, read from the checkpoint that the runtime saves."""
        self._file.ask("state", outputs="state")
        saved = read_checkpoint((self._file.folder / "state").read_bytes())
        return TrainingState(_plain(saved.params), _plain(saved.momentum), _plain(saved.buffers))


class _OrtInferenceSession:
    def __init__(self, bundle: Bundle, name: str, model: Path, params: Arrays | None, threads: int) -> None:
        self._manifest, self._target = bundle.manifest, name
        self._file = FileSession(_ENVIRONMENT, model)
        path = model
        if params:
            path = self._file.folder / "infer.onnx"
            path.write_bytes(with_parameters(model.read_bytes(), params))
        self._file.ask("open", kind="onnxruntime", threads=threads, model=path)

    def predict(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Return the outputs by task name."""
        checked, _, _ = checked_batch(self._manifest, inputs, None, None, target=self._target)
        return self._file.run("predict", checked)


def _checkpoint_of(state: TrainingState) -> bytes:
    def named(role: str, arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
        return {f"{role}.{name}": np.asarray(array) for name, array in arrays.items()}

    return write_checkpoint(
        OrtCheckpoint(
            named("params", state.params), named("buffers", state.buffers), named("params", state.momentum)
        )
    )


def _plain(arrays: Arrays) -> dict[str, npt.NDArray[Any]]:
    return {name.partition(".")[2]: array for name, array in arrays.items()}
