"""Checkpoints: a folder of safetensors and JSON that a kill at any point leaves whole.

``checkpoint.json`` names the two tensor files, with their hashes; they are called after their content, so a newer
state never overwrites a file that the older one needs. Replacing ``checkpoint.json`` is the one moment at which the
new state takes the place of the old; what is no longer named is removed after that.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.numpy
import safetensors.torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn

from nagedge.data.preprocessing import Preprocessing
from nagedge.errors import BundleError, NagEdgeError
from nagedge.files import make_folder, write_file
from nagedge.models import build_model, with_vocabulary
from nagedge.specs import TaskSpec, TensorSpec
from nagedge.training.balancing import BalancerState
from nagedge.training.events import EpochFinished
from nagedge.training.run import Run, parse_run

__all__ = ["CHECKPOINT_FILE", "Checkpoint", "TrainingState", "write_checkpoint"]

CHECKPOINT_FILE = "checkpoint.json"
_FORMAT, _VERSION = "nagedge-checkpoint", 1
_TENSOR_FILE = re.compile(r"(params|momentum|balancer|averaging)-([0-9a-f]{16})\.safetensors")
_UNFINISHED = re.compile(r"\.(params-|momentum-|balancer-|averaging-|checkpoint\.json).*\.part")


@dataclass(frozen=True)
class TrainingState:
    """How far a run is; with the tensors, all that resuming needs.

    The order of the data, the learning rate and the random numbers of a step are functions of the run and the step.

    Args:
        step: steps done.
        steps: steps of the whole run.
        history: one record an epoch done.
        loss_sums: sums over the steps done in an unfinished epoch: total loss, losses, weights, steps with labels.
        balancer: what of the balancer's state is no tensor.
        optimizer: of restarts and of the guard against NaN.
        test: task name -> metric name -> value on the test examples, once all steps are done.
    """

    step: int
    steps: int
    history: tuple[EpochFinished, ...] = ()
    loss_sums: tuple[float, ...] = ()
    balancer: dict[str, str] = dataclasses.field(default_factory=dict)
    optimizer: dict[str, float] = dataclasses.field(default_factory=dict)
    test: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint on disk; the tensors are read when they are asked for.

    Args:
        path: the folder.
        run: the run it belongs to.
        input: the model's input.
        preprocessing: from raw data to the model's input, and from its outputs to the tasks' units.
        state: how far the run is, with the history of losses and metrics.
        files: ``"params"``, ``"momentum"`` and, with a state, ``"balancer"`` and ``"averaging"`` -> file name in
            the folder.
    """

    path: Path
    run: Run
    input: TensorSpec
    preprocessing: Preprocessing
    state: TrainingState
    files: Mapping[str, str]

    @property
    def tasks(self) -> tuple[TaskSpec, ...]:
        """The tasks, in the order of the run file."""
        return self.run.task_specs()

    @property
    def finished(self) -> bool:
        """Whether all steps of the run are done."""
        return self.state.step == self.state.steps

    @property
    def metrics(self) -> dict[str, dict[str, float]]:
        """Task name -> metric name -> value on the validation examples after the last whole epoch."""
        return self.state.history[-1].validation if self.state.history else {}

    @classmethod
    def load(cls, path: str | Path) -> Checkpoint:
        """Read a checkpoint; the hashes of its files are checked.

        Raises:
            BundleError: the folder holds no checkpoint, or a damaged or newer one.
        """
        path = Path(path)
        document = _read_document(path)
        try:
            named = document["files"]
            kinds = ("params", "momentum", *(kind for kind in ("balancer", "averaging") if kind in named))
            files = {kind: _checked_file(path, kind, named[kind]) for kind in kinds}
            spec, state = document["input"], document["state"]
            return cls(
                path=path,
                run=parse_run(document["run"], where="its run"),
                input=TensorSpec(spec["name"], spec["dtype"], tuple(spec["shape"]), spec["unit"]),
                preprocessing=Preprocessing.from_json(document["preprocessing"]),
                state=TrainingState(
                    step=int(state["step"]),
                    steps=int(state["steps"]),
                    history=tuple(EpochFinished(**record) for record in state["history"]),
                    loss_sums=tuple(float(value) for value in state["loss_sums"]),
                    balancer={str(key): str(value) for key, value in state.get("balancer", {}).items()},
                    optimizer={str(key): float(value) for key, value in state.get("optimizer", {}).items()},
                    test=state["test"],
                ),
                files=files,
            )
        except BundleError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, NagEdgeError) as error:
            text = str(error) if isinstance(error, NagEdgeError) else f"{type(error).__name__}: {error}"
            raise BundleError(
                f"checkpoint {str(path)!r}: {CHECKPOINT_FILE} does not hold what version {_VERSION} expects ({text})."
                " Train again, or take the folder from a backup."
            ) from None

    def params(self) -> dict[str, Tensor]:
        """Return the model's state: parameters and buffers by name, on the CPU."""
        return safetensors.torch.load(self._read("params"))

    def momentum(self) -> dict[str, NDArray[Any]]:
        """Return the momentum buffers by parameter name, each of its parameter's shape; zeros before step 1."""
        return safetensors.numpy.load(self._read("momentum"))

    def balancer(self) -> BalancerState:
        """Return the state of the balancer; empty for methods that have none."""
        if "balancer" not in self.files:
            return BalancerState({}, self.state.balancer)
        return BalancerState(safetensors.torch.load(self._read("balancer")), self.state.balancer)

    def averaging(self) -> dict[str, Tensor]:
        """Return the sequence of plain steps of schedule-free averaging by parameter name; empty for other methods."""
        return safetensors.torch.load(self._read("averaging")) if "averaging" in self.files else {}

    def exported_tasks(self) -> tuple[TaskSpec, ...]:
        """Return the tasks with the weights that balancing ended with, as an exported step uses them.

        They are the means over the last epoch; a method may have given a task a negative one, which becomes 0. Before
        the first epoch is done, and with plain sums, they are those of the run file.
        """
        weights = self.state.history[-1].weights if self.state.history else {}
        if self.run.balancing.method == "sum":
            return self.tasks
        return tuple(
            TaskSpec(
                task.name, task.kind, size=task.size, loss=task.loss, unit=task.unit, shape=task.shape,
                weight=max(0.0, weights.get(task.name, task.weight)),
            )
            for task in self.tasks
        )  # fmt: skip

    def build_model(self) -> nn.Module:
        """Return the model with the stored weights, in evaluation mode, on the CPU.

        Raises:
            BundleError: the stored weights are not those of the model that the run describes.
            ConfigurationError: the model's own module cannot be imported.
        """
        untrained = with_vocabulary(
            self.run.model.model_copy(update={"pretrained": False}), self.preprocessing.vocabulary
        )
        model = build_model(untrained, self.input, self.tasks, self.run.seed)
        try:
            model.load_state_dict(self.params())
        except RuntimeError as error:
            first = (str(error).splitlines()[1:] or [str(error)])[0]  # torch lists every tensor, one a line
            raise BundleError(
                f"checkpoint {str(self.path)!r}: its parameters do not fit model {self.run.model.trunk!r}:"
                f" {first.strip().rstrip('.')}. Use the code of the model that it was trained with."
            ) from None
        return model.eval()

    def _read(self, kind: str) -> bytes:
        return _read_tensors(self.path, self.files[kind])


def _read_document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads((path / CHECKPOINT_FILE).read_text(encoding="utf-8"))
    except OSError as error:
        what = "holds no checkpoint" if path.is_dir() else "is no folder"
        raise BundleError(
            f"{str(path)!r} {what}: {CHECKPOINT_FILE} cannot be read ({error.strerror})."
            " Give the folder that `nagedge train` wrote."
        ) from None
    except ValueError as error:
        raise BundleError(
            f"checkpoint {str(path)!r}: {CHECKPOINT_FILE} is damaged ({error}). Take the folder from a backup."
        ) from None
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise BundleError(
            f'{str(path)!r} is no checkpoint: {CHECKPOINT_FILE} lacks "format": "{_FORMAT}".'
            " Give the folder that `nagedge train` wrote."
        )
    if document.get("version") != _VERSION:
        raise BundleError(
            f"checkpoint {str(path)!r} has version {document.get('version')!r}, this program reads {_VERSION}."
            " Use the version that wrote it."
        )
    return document


def _checked_file(path: Path, kind: str, entry: Mapping[str, Any]) -> str:
    name = str(entry["name"])
    match = _TENSOR_FILE.fullmatch(name)
    if match is None or match[1] != kind:
        raise BundleError(
            f"checkpoint {str(path)!r}: {CHECKPOINT_FILE} names {name!r} as its {kind}, expected"
            f" '{kind}-<hash>.safetensors'. It was not written by this program; do not use it."
        )
    content = _read_tensors(path, name)
    if len(content) != entry["size_bytes"] or hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise BundleError(
            f"checkpoint {str(path)!r}: {name} is damaged: its {len(content)} bytes are not the {entry['size_bytes']}"
            f" bytes with sha256 {str(entry['sha256'])[:16]}... that were written. Take the folder from a backup, or"
            " train again."
        )
    try:
        safetensors.numpy.load(content)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"checkpoint {str(path)!r}: {name} is no safetensors file: {error}.") from None
    return name


def _read_tensors(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise BundleError(
            f"checkpoint {str(path)!r}: {name} cannot be read ({error.strerror}). Take the folder from a backup."
        ) from None


def write_checkpoint(
    path: Path,
    *,
    run: Run,
    input_spec: TensorSpec,
    preprocessing: Preprocessing,
    state: TrainingState,
    params: Mapping[str, Tensor],
    momentum: Mapping[str, Tensor],
    balancer: Mapping[str, Tensor] | None = None,
    averaging: Mapping[str, Tensor] | None = None,
) -> Checkpoint:
    """Write a checkpoint in place of the one in ``path``, which stays valid until the new one is whole.

    Raises:
        BundleError: the folder cannot be written.
    """
    try:
        make_folder(path)
        files = {
            kind: _write_tensors(path, kind, tensors)
            for kind, tensors in (
                ("params", params),
                ("momentum", momentum),
                ("balancer", balancer),
                ("averaging", averaging),
            )
            if tensors or kind in ("params", "momentum")
        }
        document = {
            "format": _FORMAT,
            "version": _VERSION,
            "run": run.model_dump(mode="json", exclude_unset=True),
            "input": dataclasses.asdict(input_spec),
            "preprocessing": preprocessing.to_json(),
            "files": files,
            "state": dataclasses.asdict(state),
        }
        text = json.dumps(document, indent=1, allow_nan=False) + "\n"
        write_file(path / CHECKPOINT_FILE, text)
        names = {kind: str(entry["name"]) for kind, entry in files.items()}
        for old in path.iterdir():
            unnamed = _TENSOR_FILE.fullmatch(old.name) and old.name not in names.values()
            if unnamed or _UNFINISHED.fullmatch(old.name):
                old.unlink()
    except OSError as error:
        raise BundleError(
            f"checkpoint {str(path)!r} cannot be written: {error.strerror}. The checkpoint that it held is kept;"
            " free some space, or give another folder."
        ) from error
    return Checkpoint(path, run, input_spec, preprocessing, state, names)


def _write_tensors(path: Path, kind: str, tensors: Mapping[str, Tensor] | None) -> dict[str, str | int]:
    # clone: tied weights share memory, which the format refuses
    content = safetensors.torch.save(
        {name: t.detach().cpu().contiguous().clone() for name, t in (tensors or {}).items()}
    )
    sha256 = hashlib.sha256(content).hexdigest()
    name = f"{kind}-{sha256[:16]}.safetensors"
    write_file(path / name, content)
    return {"name": name, "sha256": sha256, "size_bytes": len(content)}
