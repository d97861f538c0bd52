"""Export a model: trace it once, lower it for every target, write one bundle."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nagedge import __version__
from nagedge.bundle import Bundle, check_replaceable, write_bundle
from nagedge.errors import BundleError, ConfigurationError, NagEdgeError, UnsupportedOperatorError
from nagedge.graphs.batch_norm import apply_policy
from nagedge.graphs.decompositions import ONNX
from nagedge.graphs.example import input_specs
from nagedge.graphs.forward import FixedBatchError, ForwardGraph, check_state, trace_forward
from nagedge.graphs.inference import InferenceGraph, trace_inference
from nagedge.graphs.locate import module_of
from nagedge.graphs.lora import add_lora
from nagedge.graphs.serialization import forward_to_json
from nagedge.graphs.train_step import StepGraph, trace_train_step
from nagedge.graphs.trainable import head_parameters, lora_rank, select_trainable
from nagedge.lowering import backend_of
from nagedge.manifest import SCHEMA_VERSION, InputEntry, Manifest, TargetEntry, TaskEntry, TrainingEntry
from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.targets import Target, load_target
from nagedge.tasks import loss_spec, target_spec

if TYPE_CHECKING:
    from nagedge.data.preprocessing import Preprocessing
    from nagedge.training.checkpoint import Checkpoint

__all__ = ["ExportSource", "export", "load_source"]

Progress = Callable[[str, int, int], None]

_DEFAULT_LR, _DEFAULT_MOMENTUM = 0.01, 0.9
# Of the learning rate that trained from scratch: folding BatchNorm away takes its damping of large steps away.
_FINE_TUNING_LR_FACTOR = 0.02


@dataclass(frozen=True)
class ExportSource:
    """A model with all that its export needs to know.

    Attributes:
        model: returns a tensor, a tuple or a dict, one entry a task.
        tasks: in the order of the model's outputs.
        example_input: a tensor, a tuple of tensors or a dict by parameter name; axis 0 is the batch.
        name: for people.
        preprocessing: from raw values to the model's input; None when not declared.
        input: the input's name and unit; None takes the name from ``model.forward``.
        lr, momentum, weight_decay: defaults of the exported step.
    """

    model: nn.Module
    tasks: tuple[TaskSpec, ...]
    example_input: object
    name: str
    preprocessing: Preprocessing | None = None
    input: TensorSpec | None = None
    lr: float = _DEFAULT_LR
    momentum: float = _DEFAULT_MOMENTUM
    weight_decay: float = 0.0


def export(
    model: nn.Module | Checkpoint | str | Path,
    *,
    targets: Sequence[str | Path | Target] | str | Path | Target,
    out: str | Path,
    tasks: Sequence[TaskSpec] | None = None,
    example_input: object = None,
    trainable: str = "all",
    batch_norm: str = "fold",
    batch: int | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Export ``model`` for every target into one bundle and return it.

    Args:
        model: a module returning a tensor, a tuple or a dict (one entry a task), with ``tasks`` and
            ``example_input``; or a checkpoint, its folder, or ``"package.module:factory"`` (see :func:`load_source`).
        targets: names of targets, paths of target files, or targets.
        out: the bundle's folder, or a path ending in ``.zip``.
        tasks: one a model output, in order.
        example_input: a tensor, a tuple of tensors or a dict by parameter name; axis 0 is the batch.
        trainable: ``"all"``, ``"heads"``, ``"bias"``, ``"norm"``, ``"lora:RANK"`` or a regular expression that is
            searched for in the parameter names; everything else becomes a constant of the training step.
        batch_norm: ``"fold"``, ``"freeze"`` or ``"train"`` (:mod:`nagedge.graphs.batch_norm`).
        batch: fix the batch size; None leaves it free wherever the model allows it.
        progress: called with a description, the steps done and the steps in all.

    Raises:
        ConfigurationError: an argument is wrong, or the model does not fit its tasks.
        UnsupportedOperatorError: a backend cannot lower an operator; the text names it and its module.
    """
    chosen = _targets(targets)
    if batch is not None and batch < 1:
        raise ConfigurationError(f"batch is {batch}, expected a size >= 1.")
    check_replaceable(out)  # before the work, and once more when the bundle is written
    source = _source(model, tasks, example_input)
    report = progress or (lambda description, completed, total: None)
    total = 3 + len(chosen)
    report("tracing the forward pass", 0, total)
    traced = _trace(source, trainable, batch_norm, batch, any(t.train for t in chosen), report, total)
    files: dict[str, bytes] = {"forward.json": forward_to_json(traced.forward).encode()}
    if traced.train_forward is not traced.forward:
        files["forward_train.json"] = forward_to_json(traced.train_forward).encode()
    entries: dict[str, TargetEntry] = {}
    for i, target in enumerate(chosen):
        report(f"lowering for {target.name}", 2 + i, total)
        artifacts = backend_of(target).lower(
            traced.inference,
            traced.step if target.train else None,
            target,
            module_of=partial(module_of, traced.model, source.example_input),
            calibration=(),
        )
        paths = {}
        for role, (file_name, content) in artifacts.items():
            paths[role] = f"targets/{target.name}/{file_name}"
            if isinstance(content, bytes):
                files[paths[role]] = content
            else:
                files |= {f"{paths[role]}/{inner}": data for inner, data in content.items()}
        entries[target.name] = TargetEntry(
            backend=target.backend, precision=target.precision, opset=target.opset, rtol=target.rtol,
            atol=target.atol, inference_rtol=target.inference_rtol, inference_atol=target.inference_atol,
            backward_error=target.backward_error, artifacts=paths, minimum_os=target.minimum_os, batch=target.batch,
        )  # fmt: skip
    report("writing the bundle", 2 + len(chosen), total)
    manifest = _manifest(source, traced, trainable, batch_norm, entries)
    tensors = {"params.safetensors": {name: t.numpy() for name, t in traced.state.items()}}
    if traced.step is not None:
        tensors["momentum.safetensors"] = {
            name: np.zeros(tuple(traced.state[name].shape), np.float32) for name in traced.step.trainable
        }
    bundle = write_bundle(out, manifest, files, tensors)
    report("written", total, total)
    return bundle


@dataclass(frozen=True)
class _Traced:
    model: nn.Module
    forward: ForwardGraph
    train_forward: ForwardGraph
    inference: InferenceGraph
    step: StepGraph | None
    state: Mapping[str, Tensor]
    notes: tuple[str, ...]


def _trace(
    source: ExportSource,
    trainable: str,
    batch_norm: str,
    batch: int | None,
    train: bool,
    report: Progress,
    total: int,
) -> _Traced:
    check_state(source.model)
    prepared = apply_policy(source.model, batch_norm, source.example_input)
    added: list[str] = []
    rank = lora_rank(trainable)
    if rank is not None:
        plain = trace_forward(prepared, source.example_input, source.tasks, batch=batch)
        parameters = [name for name, _ in prepared.named_parameters() if name in set(plain.state_names)]
        heads = {name.rpartition(".")[0] for name in head_parameters(plain, parameters)}
        added = add_lora(prepared, rank, skip=heads)
    notes: list[str] = []
    attempts = [batch] if batch is not None else [None, _rows(source)]
    for attempt in attempts:
        forward = _renamed(
            trace_forward(prepared, source.example_input, source.tasks, batch=attempt), source.input
        )
        train_forward = forward
        if train and batch_norm == "train":
            train_forward = _renamed(
                trace_forward(
                    prepared,
                    source.example_input,
                    source.tasks,
                    batch=forward.batch,
                    batch_norm_training=True,
                ),
                source.input,
            )
        state = _state(prepared, forward, train_forward)
        report("tracing the training step", 1, total)
        step = None
        try:
            inference = trace_inference(forward, state)
        except FixedBatchError:
            continue
        if train:
            chosen = select_trainable(trainable, prepared, train_forward, added)
            try:
                step = trace_train_step(
                    train_forward, state, chosen, source.tasks, overrides=ONNX
                )
            except NagEdgeError:
                raise
            except Exception as error:
                if attempt is None and train_forward.batch is None:
                    continue
                text = (str(error).strip().splitlines() or [type(error).__name__])[0]
                raise UnsupportedOperatorError(
                    f"the training step of {source.name} cannot be traced: {text} Freeze the part of the model that "
                    "causes it (--trainable), or replace it by operators of torch.nn in common use."
                ) from (None if isinstance(error, FixedBatchError) else error)
        break
    if batch is None and train_forward.batch is not None:
        notes.append(
            f"The batch size is fixed to {train_forward.batch}: the model's forward pass depends on it. Pad a smaller "
            "batch with rows of sample_weight 0."
        )
    _check_names(forward, step)
    return _Traced(prepared, forward, train_forward, inference, step, state, tuple(notes))


def _check_names(forward: ForwardGraph, step: StepGraph | None) -> None:
    """Refuse names that an artifact would hold twice: those of inputs, outputs and constants."""
    inputs = [spec.name for spec in forward.inputs]
    taken = dict.fromkeys(inputs, "an input")
    for name in forward.outputs:
        if name in taken:
            raise ConfigurationError(f"task {name!r} has the name of an input of the model: rename the task.")
        taken[name] = "a task"
    in_step = {}
    if step is not None:
        in_step = {spec.name: "an input of the training step" for spec in step.inputs}
        in_step |= dict.fromkeys(step.outputs, "an output of the training step")
    for names, known in (
        (forward.state_names, taken),
        (() if step is None else tuple(step.constants), in_step),
    ):
        for name in names:
            if name in known:
                raise ConfigurationError(
                    f"model tensor {name!r} has the name of {known[name]}: rename it, or what has its name."
                )


def _state(model: nn.Module, *forwards: ForwardGraph) -> dict[str, Tensor]:
    full = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    used: dict[str, Tensor] = {}
    for forward in forwards:
        for name in (*forward.state_names, *forward.updated_buffers):
            tensor = forward.constants[name] if name in forward.constants else full[name]
            used[name] = tensor.detach().cpu().contiguous()
    return used


def _renamed(forward: ForwardGraph, spec: TensorSpec | None) -> ForwardGraph:
    """Give the only input the name and unit that the data calls it by."""
    if spec is None or len(forward.inputs) != 1:
        return forward
    own = forward.inputs[0]
    inputs = (TensorSpec(spec.name, own.dtype, own.shape, spec.unit),)
    return ForwardGraph(
        forward.module, forward.state_names, inputs, forward.outputs, forward.updated_buffers, forward.constants,
        forward.batch,
    )  # fmt: skip


def _rows(source: ExportSource) -> int:
    _, tensors = input_specs(source.model, source.example_input)
    return int(tensors[0].shape[0])


def _manifest(
    source: ExportSource, traced: _Traced, trainable: str, batch_norm: str, targets: dict[str, TargetEntry]
) -> Manifest:
    _, tensors = input_specs(source.model, source.example_input)
    step = traced.step
    return Manifest(
        schema_version=SCHEMA_VERSION,
        model=source.name,
        inputs=[_input_entry(spec, t) for spec, t in zip(traced.forward.inputs, tensors, strict=True)],
        tasks=[TaskEntry.of(task, loss_spec(task), target_spec(task)) for task in source.tasks],
        batch=traced.train_forward.batch,
        preprocessing=source.preprocessing.to_json() if source.preprocessing is not None else None,
        training=None if step is None else TrainingEntry(
            trainable=trainable, parameters=list(step.trainable), decayed=sorted(step.decayed),
            buffers=list(step.updated_buffers), batch_norm=batch_norm,  # type: ignore[arg-type] # checked by apply_policy
            lr=source.lr, momentum=source.momentum, weight_decay=source.weight_decay,
        ),
        targets=targets,
        files={},
        versions={
            "nagedge": __version__, "python": sys.version.split()[0], "torch": torch.__version__,
            "onnx": metadata.version("onnx"),
        },
        notes=list(traced.notes),
    )  # fmt: skip


def _input_entry(spec: TensorSpec, example: Tensor) -> InputEntry:
    values: dict[str, Any] = {}
    if example.is_floating_point():
        finite = example[torch.isfinite(example)].double()
        std = float(finite.std()) if finite.numel() > 1 else 0.0
        values = {"mean": float(finite.mean()) if finite.numel() else 0.0, "std": std if std > 0 else 1.0}
    elif example.dtype != torch.bool:
        values = {"low": int(example.min()), "high": int(example.max())}
    return InputEntry(name=spec.name, dtype=spec.dtype, shape=list(spec.shape), unit=spec.unit, **values)


def _targets(targets: Sequence[str | Path | Target] | str | Path | Target) -> list[Target]:
    listed = [targets] if isinstance(targets, (str, Path, Target)) else list(targets)
    if not listed:
        raise ConfigurationError("no target was given: name at least one (see `nagedge targets ls`).")
    chosen = [item if isinstance(item, Target) else load_target(item) for item in listed]
    names = [target.name for target in chosen]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"target {name!r} was given {names.count(name)} times: name each once.")
    return chosen


def _source(
    model: nn.Module | Checkpoint | str | Path, tasks: Sequence[TaskSpec] | None, example_input: object
) -> ExportSource:
    if not isinstance(model, nn.Module):
        if tasks is not None or example_input is not None:
            raise ConfigurationError(
                "tasks and example_input belong to a torch.nn.Module; a checkpoint and a factory bring their own."
            )
        return load_source(model)
    if tasks is None or example_input is None:
        missing = "tasks" if tasks is None else "example_input"
        raise ConfigurationError(
            f"export of a {type(model).__name__} needs {missing}=: see nagedge.TaskSpec."
        )
    return _checked(ExportSource(model, tuple(tasks), example_input, type(model).__name__))


def load_source(source: Checkpoint | str | Path) -> ExportSource:
    """Return what to export from a checkpoint, its folder, or ``"package.module:factory"``.

    A factory takes no argument and returns an :class:`ExportSource` or ``(model, tasks, example_input)``.

    Raises:
        ConfigurationError: the factory cannot be imported or returns something else.
        BundleError: the folder holds no checkpoint.
    """
    from nagedge.training.checkpoint import CHECKPOINT_FILE, Checkpoint

    text = os.fspath(source) if isinstance(source, (str, Path)) else ""
    if text and ":" in text and not Path(text).exists():
        return _checked(_from_factory(text))
    if text and not (Path(text) / CHECKPOINT_FILE).exists():
        raise BundleError(
            f"{text!r} is neither a checkpoint folder (no {CHECKPOINT_FILE}) nor 'package.module:factory'. Give the "
            "folder that `nagedge train` wrote."
        )
    checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.load(text)
    optimizer = checkpoint.run.optimizer
    generator = torch.Generator().manual_seed(0)
    shape = [8 if size == BATCH else int(size) for size in checkpoint.input.shape]
    example = (
        torch.randn(shape, generator=generator)
        if checkpoint.input.dtype.startswith("float")
        else torch.zeros(shape, dtype=getattr(torch, checkpoint.input.dtype))
    )
    return ExportSource(
        checkpoint.build_model(), checkpoint.tasks, example, checkpoint.run.model.trunk, checkpoint.preprocessing,
        checkpoint.input, optimizer.lr * _FINE_TUNING_LR_FACTOR, optimizer.momentum, optimizer.weight_decay,
    )  # fmt: skip


def _from_factory(text: str) -> ExportSource:
    module_name, _, attribute = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: a factory beside the user is found
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
        made = factory()
    except NagEdgeError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"source {text!r} cannot be used: {type(error).__name__}: {error}. Expected 'package.module:factory', a "
            "function without arguments."
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if isinstance(made, ExportSource):
        return made
    if not (isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], nn.Module)):
        raise ConfigurationError(
            f"source {text!r} returned {type(made).__name__}, expected (model, tasks, example_input)."
        )
    model, tasks, example = made
    return ExportSource(model, tuple(tasks), example, type(model).__name__)


def _checked(source: ExportSource) -> ExportSource:
    if not source.tasks or not all(isinstance(task, TaskSpec) for task in source.tasks):
        raise ConfigurationError("tasks must hold one nagedge.TaskSpec for each output of the model.")
    names = [task.name for task in source.tasks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"task name {name!r} is used {names.count(name)} times: names must differ."
            )
        if name == "loss":
            raise ConfigurationError(
                "task name 'loss' is taken by the total loss of all tasks: choose another."
            )
    for task in source.tasks:
        loss_spec(task)
    return source
