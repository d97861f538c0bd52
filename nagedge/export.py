"""Export a model: trace it once, lower it for every target, write one bundle."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from nagedge import __version__
from nagedge.bundle import (
    EXAMPLES_FILE,
    FORWARD_FILE,
    FORWARD_TRAIN_FILE,
    MOMENTUM_FILE,
    PARAMS_FILE,
    Bundle,
    check_replaceable,
    write_bundle,
)
from nagedge.calibration import Calibrator, calibrated
from nagedge.errors import ConfigurationError, NagEdgeError
from nagedge.graphs.example import input_specs
from nagedge.graphs.locate import module_of
from nagedge.graphs.serialization import forward_to_json
from nagedge.graphs.train_step import StepGraph
from nagedge.lowering import Artifacts, Plan, backend_of, placed, size_in_bytes, within_budget
from nagedge.manifest import SCHEMA_VERSION, InputEntry, Manifest, TargetEntry, TaskEntry, TrainingEntry
from nagedge.sources import BalancedStart, ExportSource, source_of
from nagedge.specs import TaskSpec, TensorSpec
from nagedge.step_rules import BALANCING_PREFIX, StepRules
from nagedge.targets import Target, available_targets, load_target
from nagedge.tasks import loss_spec, target_spec
from nagedge.tracing import TracedModel, trace_model

if TYPE_CHECKING:
    from nagedge.data.examples import Examples
    from nagedge.training.checkpoint import Checkpoint

__all__ = ["export"]

Progress = Callable[[str, int, int], None]

_ALL = "all"
_TOOLS = ("onnx", "onnxruntime", "flatbuffers", "ai-edge-quantizer", "coremltools")


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
    balancing: str = "static",
    restart: str = "none",
    calibration: str | Path | Examples | None = None,
    memory_budget: int | str | None = None,
    progress: Progress | None = None,
) -> Bundle:
    """Export ``model`` for every target into one bundle and return it.

    With several targets, one that cannot be served does not stop the others: its reason stands in the manifest's
    ``refused``.

    Args:
        model: a module returning a tensor, a tuple or a dict (one entry a task), with ``tasks`` and
            ``example_input``; or a checkpoint, its folder, or ``"package.module:factory"`` (see
            :func:`nagedge.sources.load_source`).
        targets: names of targets, paths of target files, or targets; ``"all"`` for every one that comes with NagEdge.
        out: the bundle's folder, or a path ending in ``.zip``.
        tasks: one a model output, in order.
        example_input: a tensor, a tuple of tensors or a dict by parameter name; axis 0 is the batch.
        trainable: ``"all"``, ``"heads"``, ``"bias"``, ``"norm"``, ``"lora:RANK"`` or a regular expression that is
            searched for in the parameter names; everything else becomes a constant of the training step.
        batch_norm: ``"fold"``, ``"freeze"`` or ``"train"`` (:mod:`nagedge.graphs.batch_norm`).
        batch: fix the batch size; None leaves it free wherever the model allows it.
        balancing: how the step makes one gradient of its losses: ``"static"``, the sum with the tasks' weights (those
            that balancing ended with), or a method that the step computes itself, and goes on with where the run
            ended: ``"uncertainty"``, ``"imtl_l"``, ``"dwa"``, ``"famo"`` or ``"pcgrad"``.
        restart: when the step starts its momentum again from zero: ``"none"``, ``"gradient"`` or ``"loss"``
            (:class:`nagedge.step_rules.StepRules`).
        calibration: examples (a file of raw ones, or prepared ones) from which static quantisation takes the ranges of
            activations; None takes a checkpoint's training data, else ``example_input``.
        memory_budget: the most that a training step of the example's batch size may hold above its loaded session, in
            bytes or as text such as ``"32MB"``: values are computed again instead of kept until the plan is within it.
            Only for the backend ``onnxruntime``; other training targets are refused.
        progress: called with a description, the steps done and the steps in all.

    Raises:
        ConfigurationError: an argument is wrong, or the model does not fit its tasks.
        UnsupportedOperatorError: no target can be served; the text names an operator and its module.
    """
    chosen = _targets(targets)
    if batch is not None and batch < 1:
        raise ConfigurationError(f"batch is {batch}, expected a size >= 1.")
    budget_bytes = None if memory_budget is None else size_in_bytes(memory_budget)
    check_replaceable(out)  # before the work, and once more when the bundle is written
    source, start = _balanced(source_of(model, tasks, example_input), balancing, restart)
    done = 0
    total = 3 + len(chosen)

    def report(description: str) -> None:
        nonlocal done
        if progress is not None:
            progress(description, min(done, total), total)
        done += 1

    backends, refused = _backends(chosen)
    traced = trace_model(
        source, trainable=trainable, batch_norm=batch_norm, batch=batch, report=report,
        tables={t.backend: backends[t.backend].DECOMPOSITIONS for t in chosen if t.train and t.backend in backends},
        rules=start.rules, rule_state={f"{BALANCING_PREFIX}{name}": value for name, value in start.state.items()},
    )  # fmt: skip
    calibrator = Calibrator(source, calibration)
    files: dict[str, bytes] = {FORWARD_FILE: forward_to_json(traced.forward).encode()}
    if traced.train_forward is not traced.forward:
        files[FORWARD_TRAIN_FILE] = forward_to_json(traced.train_forward).encode()
    entries: dict[str, TargetEntry] = {}
    for target in chosen:
        report(f"lowering for {target.name}")
        if target.name in refused:
            continue
        try:
            artifacts, planned = _lower(traced, target, source, calibrator, budget_bytes)
            paths, contents = placed(target.name, artifacts)
        except NagEdgeError as error:
            refused[target.name] = error
            continue
        files |= contents
        entries[target.name] = _entry(target, paths, planned)
    if not entries or (refused and len(chosen) == 1):
        raise next(iter(refused.values()))
    report("writing the bundle")
    tensors = {PARAMS_FILE: {name: t.numpy() for name, t in traced.state.items()}}
    if traced.step is not None:
        tensors[MOMENTUM_FILE] = {
            name: np.zeros(tuple(traced.state[name].shape), np.float32) for name in traced.step.trainable
        }
    if calibrator.used:
        tensors[EXAMPLES_FILE] = calibrator.few()
    manifest = _manifest(source, traced, trainable, batch_norm, entries)
    manifest = manifest.model_copy(
        update={
            "refused": {name: str(error) for name, error in refused.items()},
            "notes": [*traced.notes, *calibrator.notes],
        }
    )
    bundle = write_bundle(out, manifest, files, tensors)
    if progress is not None:
        progress("written", total, total)
    return bundle


def _balanced(source: ExportSource, balancing: str, restart: str) -> tuple[ExportSource, BalancedStart]:
    """Return the source with the task weights that belong to the method, and where the step begins."""
    if balancing == "static" or source.balanced is None:
        return source, BalancedStart(StepRules(balancing, restart=restart), source.tasks, {})
    start = source.balanced(balancing, restart)
    return replace(source, tasks=start.tasks), start


def _backends(chosen: Sequence[Target]) -> tuple[dict[str, Any], dict[str, NagEdgeError]]:
    """Return the backends by name, and the targets whose backend is not installed."""
    backends: dict[str, Any] = {}
    refused: dict[str, NagEdgeError] = {}
    for target in chosen:
        try:
            backends[target.backend] = backend_of(target)
        except NagEdgeError as error:
            refused[target.name] = error
    return backends, refused


def _lower(
    traced: TracedModel,
    target: Target,
    source: ExportSource,
    calibrator: Calibrator,
    budget_bytes: int | None,
) -> tuple[Artifacts, Plan | None]:
    step = traced.steps[target.backend] if target.train else None
    if isinstance(step, NagEdgeError):
        raise step
    calibration = calibrator.batches() if calibrated(target) else ()

    def lower(step: StepGraph | None) -> Artifacts:
        return backend_of(target).lower(
            traced.inference,
            step,
            target,
            module_of=partial(module_of, traced.model, source.example_input),
            calibration=calibration,
        )

    return within_budget(lower, step, target, budget_bytes)


def _entry(target: Target, paths: Mapping[str, str], plan: Plan | None) -> TargetEntry:
    return TargetEntry(
        backend=target.backend, precision=target.precision, opset=target.opset, minimum_os=target.minimum_os,
        batch=target.batch, rtol=target.rtol, atol=target.atol, inference_rtol=target.inference_rtol,
        inference_atol=target.inference_atol, backward_error=target.backward_error, artifacts=dict(paths),
        planned_step_bytes=plan.step_bytes if plan else None, planned_rows=plan.rows if plan else None,
    )  # fmt: skip


def _manifest(
    source: ExportSource,
    traced: TracedModel,
    trainable: str,
    batch_norm: str,
    targets: dict[str, TargetEntry],
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
            balancing=step.rules.balancing, balancing_options=dict(step.rules.options), restart=step.rules.restart,  # type: ignore[arg-type] # StepRules checks it
        ),
        targets=targets,
        files={},
        versions={
            "nagedge": __version__, "python": sys.version.split()[0], "torch": torch.__version__,
            **{tool: version for tool in _TOOLS if (version := _version(tool))},
        },
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


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def _targets(targets: Sequence[str | Path | Target] | str | Path | Target) -> list[Target]:
    listed = [targets] if isinstance(targets, (str, Path, Target)) else list(targets)
    if not listed:
        raise ConfigurationError("no target was given: name at least one (see `nagedge targets ls`).")
    if _ALL in listed:
        listed = [*(item for item in listed if item != _ALL), *available_targets()]
    chosen = [item if isinstance(item, Target) else load_target(item) for item in listed]
    names = [target.name for target in chosen]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(f"target {name!r} was given {names.count(name)} times: name each once.")
    return chosen
