"""Fine-tuning as a device does it: a bundle, its training step on a runtime, and a user's examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.bundle import MOMENTUM_FILE, PARAMS_FILE, Bundle, check_replaceable, write_bundle
from nagedge.data.examples import Examples
from nagedge.data.load import load_examples
from nagedge.data.preprocessing import Preprocessing
from nagedge.errors import ConfigurationError, DataError, TrainingDivergedError
from nagedge.runtimes import TrainingSession, open_inference, open_training
from nagedge.runtimes.onnxruntime import with_parameters
from nagedge.tasks import TASK_KINDS, check_targets

if TYPE_CHECKING:
    from nagedge.data.cleaning import CleaningReport
    from nagedge.manifest import Manifest

__all__ = ["FinetuneResult", "evaluate", "finetune"]

Array = npt.NDArray[Any]
Metrics = dict[str, dict[str, float]]
Progress = Callable[[str, int, int], None]

_HELD_OUT = 0.2
_PREDICTED_AT_ONCE = 64


@dataclass(frozen=True)
class FinetuneResult:
    """What fine-tuning did.

    Attributes:
        bundle: the new bundle, with the personal parameters and momentum buffers.
        before, after: task -> metric -> value on the evaluation examples, in the tasks' units.
        losses: one dict a step: ``"loss"``, then one a task.
        examples, evaluated: how many examples were learnt from and evaluated on.
        runtime: what ran the steps.
        reports: what cleaning dropped, one a file read.
    """

    bundle: Bundle
    before: Metrics
    after: Metrics
    losses: tuple[dict[str, float], ...]
    examples: int
    evaluated: int
    runtime: str
    reports: tuple[CleaningReport, ...]


def finetune(
    bundle: Bundle,
    data: str | Path | Examples,
    *,
    out: str | Path,
    runtime: str = "onnxruntime",
    target: str | None = None,
    evaluation: str | Path | Examples | None = None,
    epochs: int = 5,
    batch_size: int = 16,
    lr: float | None = None,
    momentum: float | None = None,
    weight_decay: float | None = None,
    seed: int = 0,
    threads: int = 1,
    progress: Progress | None = None,
) -> FinetuneResult:
    """Continue training from the bundle on new examples and write the result as a new bundle.

    Args:
        bundle: must hold a training step.
        data: a file of raw examples (.npz, .csv, .parquet), prepared as the manifest says; or examples that are
            already prepared.
        out: where the new bundle goes.
        runtime: ``"onnxruntime"``, or ``"torch"`` for the reference.
        target: whose training step; None takes the first.
        evaluation: examples for the metrics before and after; None holds out every fifth example of ``data``.
        epochs: passes over the examples, >= 1.
        batch_size: examples a step, >= 1; a bundle with a fixed batch uses its own.
        lr: step size, > 0; None takes the bundle's default.
        momentum: in [0, 1); None takes the bundle's default.
        weight_decay: >= 0; None takes the bundle's default.
        seed: of the order of the examples.
        threads: of the runtime.
        progress: called with a description, the steps done and the steps in all.

    Raises:
        ConfigurationError: an argument is out of range, or the bundle cannot train.
        DataError: the examples do not fit.
        TrainingDivergedError: a loss, a tensor or an output became NaN or infinite; nothing is written.
    """
    settings = _settings(bundle, epochs, batch_size, lr, momentum, weight_decay)
    check_replaceable(out)  # before the work, and once more when the bundle is written
    report = progress or (lambda description, completed, total: None)
    reports: list[CleaningReport] = []
    examples = _examples(bundle, data, reports)
    if evaluation is None:
        examples, held_out = _split(examples, seed)
    else:
        held_out = _examples(bundle, evaluation, reports)
    size = bundle.manifest.batch or batch_size
    session = open_training(bundle, target, runtime=runtime, threads=threads)
    before = evaluate(bundle, held_out, runtime=runtime, target=target, threads=threads)
    steps = epochs * math.ceil(len(examples) / size)
    losses: list[dict[str, float]] = []
    for batch in _batches(examples, size, epochs, seed, pad=bundle.manifest.batch is not None):
        losses.append(_step(session, batch, settings, len(losses) + 1))
        report("fine-tuning", len(losses), steps)
    state = session.state()
    learnt = state.params | state.buffers
    _check_finite({f"tensor {name!r}": array for name, array in (learnt | state.momentum).items()}, settings)
    outputs = _predict(bundle, held_out, runtime, target, threads, learnt)
    _check_finite({f"the output of task {task!r}": array for task, array in outputs.items()}, settings)
    after = _metrics(bundle, held_out, outputs)
    personal = _personal_bundle(bundle, learnt, state.momentum, Path(out))
    return FinetuneResult(
        personal, before, after, tuple(losses), len(examples), len(held_out), runtime, tuple(reports)
    )


def evaluate(
    bundle: Bundle,
    examples: Examples,
    *,
    runtime: str = "onnxruntime",
    target: str | None = None,
    threads: int = 1,
    params: Mapping[str, Array] | None = None,
) -> Metrics:
    """Return task -> metric -> value of the bundle's inference model on prepared examples, in the tasks' units."""
    return _metrics(bundle, examples, _predict(bundle, examples, runtime, target, threads, params))


def _predict(
    bundle: Bundle,
    examples: Examples,
    runtime: str,
    target: str | None,
    threads: int,
    params: Mapping[str, Array] | None,
) -> dict[str, Array]:
    """Return the raw outputs by task."""
    session = open_inference(bundle, target, runtime=runtime, params=params, threads=threads)
    size = bundle.manifest.batch or _PREDICTED_AT_ONCE
    pieces: dict[str, list[Array]] = {}
    for start in range(0, len(examples), size):
        rows = np.arange(start, min(start + size, len(examples)))
        padded = np.resize(rows, size) if bundle.manifest.batch is not None else rows
        for task, output in session.predict(examples.take(padded).inputs).items():
            pieces.setdefault(task, []).append(output[: len(rows)])
    return {task: np.concatenate(parts) for task, parts in pieces.items()}


def _metrics(bundle: Bundle, examples: Examples, outputs: dict[str, Array]) -> Metrics:
    """Return task -> metric -> value of raw outputs, in the tasks' units."""
    targets: Mapping[str, Array] = examples.targets
    if bundle.manifest.preprocessing is not None:
        preprocessing = Preprocessing.from_json(bundle.manifest.preprocessing)
        outputs, targets = preprocessing.invert_outputs(outputs), preprocessing.invert_outputs(targets)
    return {
        task.name: TASK_KINDS[task.kind].metrics(outputs[task.name], targets[task.name], task.spec())
        for task in bundle.manifest.tasks
    }


@dataclass(frozen=True)
class _Settings:
    lr: float
    momentum: float
    weight_decay: float


def _settings(
    bundle: Bundle,
    epochs: int,
    batch_size: int,
    lr: float | None,
    momentum: float | None,
    weight_decay: float | None,
) -> _Settings:
    training = bundle.manifest.training
    if training is None:
        bundle.target(None, role="train_step")  # raises, naming the targets there are
        raise AssertionError
    chosen = _Settings(
        training.lr if lr is None else lr,
        training.momentum if momentum is None else momentum,
        training.weight_decay if weight_decay is None else weight_decay,
    )
    for name, value, fits, expected in (
        ("epochs", epochs, epochs >= 1, "a number >= 1"),
        ("batch_size", batch_size, batch_size >= 1, "a number >= 1"),
        ("lr", chosen.lr, math.isfinite(chosen.lr) and chosen.lr > 0, "a finite number > 0"),
        ("momentum", chosen.momentum, 0 <= chosen.momentum < 1, "a number in [0, 1)"),
        ("weight_decay", chosen.weight_decay, 0 <= chosen.weight_decay < math.inf, "a finite number >= 0"),
    ):
        if not fits:
            raise ConfigurationError(f"{name} is {value}, expected {expected}.")
    return chosen


def _examples(bundle: Bundle, data: str | Path | Examples, reports: list[CleaningReport]) -> Examples:
    manifest = bundle.manifest
    if isinstance(data, Examples):
        _check_examples(manifest, data)
        return data
    if len(manifest.inputs) != 1:
        raise ConfigurationError(
            f"bundle {str(bundle.path)!r} has {len(manifest.inputs)} inputs; a data file holds one. Give Examples from "
            "Python."
        )
    examples, report = load_examples(
        data, [t.spec() for t in manifest.tasks], _preprocessing(manifest), _spec(manifest)
    )
    reports.append(report)
    return examples


def _check_examples(manifest: Manifest, examples: Examples) -> None:
    """Refuse examples made in Python that no file would have given."""
    for name in (entry.name for entry in manifest.inputs):
        if name not in examples.inputs:
            raise DataError(
                f"the examples lack the input {name!r}; they have {', '.join(examples.inputs) or 'none'}."
            )
        bad = ~np.isfinite(examples.inputs[name].astype(np.float64))
        if bad.any():
            row = int(np.argwhere(bad)[0][0])
            raise DataError(
                f"input {name!r} holds NaN or infinite values, first in row {row}. Remove or fill these rows."
            )
    for task in manifest.tasks:
        if task.name not in examples.targets:
            raise DataError(
                f"the examples lack targets of task {task.name!r}; they have {', '.join(examples.targets) or 'none'}."
            )
        check_targets(task.spec(), np.asarray(examples.targets[task.name]), "the examples")
    if len(examples) == 0:
        raise DataError("there is no example: give at least one.")


def _preprocessing(manifest: Manifest) -> Preprocessing:
    if manifest.preprocessing is None:
        return Preprocessing(input=manifest.inputs[0].name)
    return Preprocessing.from_json(manifest.preprocessing)


def _spec(manifest: Manifest) -> Any:
    return manifest.inputs[0].spec()


def _split(examples: Examples, seed: int) -> tuple[Examples, Examples]:
    count = len(examples)
    held = max(1, round(count * _HELD_OUT))
    if count < 2:
        raise DataError(
            f"the data has {count} usable example(s), fine-tuning needs 2 or more: one to evaluate on."
        )
    order = np.random.default_rng([seed, 1]).permutation(count)
    return examples.take(order[held:]), examples.take(order[:held])


def _batches(examples: Examples, size: int, epochs: int, seed: int, *, pad: bool) -> Iterator[Examples]:
    """Yield shuffled batches; with ``pad`` the last one of an epoch is filled up with rows of weight 0."""
    for epoch in range(epochs):
        order = np.random.default_rng([seed, 2, epoch]).permutation(len(examples))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            batch = examples.take(np.resize(rows, size) if pad else rows)
            weight = (
                batch.sample_weight if batch.sample_weight is not None else np.ones(len(batch), np.float32)
            )
            if pad:
                weight = np.where(np.arange(size) < len(rows), weight, 0).astype(np.float32)
            yield Examples(batch.inputs, batch.targets, weight)


def _step(session: TrainingSession, batch: Examples, settings: _Settings, number: int) -> dict[str, float]:
    losses = session.step(
        batch.inputs, batch.targets, batch.sample_weight, lr=settings.lr, momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )  # fmt: skip
    for name, value in losses.items():
        if not math.isfinite(value) and name != "loss":
            raise TrainingDivergedError(
                f"fine-tuning diverged: the loss of task {name!r} is {value} at step {number} with lr {settings.lr:g}. "
                "Nothing was written; use a smaller --lr."
            )
    return losses


def _check_finite(tensors: Mapping[str, Array], settings: _Settings) -> None:
    """Refuse what the last step made: the losses that it reported were those before it."""
    for name, array in tensors.items():
        if not np.isfinite(array).all():
            raise TrainingDivergedError(
                f"fine-tuning diverged: {name} is NaN or infinite after the last step with lr {settings.lr:g}. "
                "Nothing was written; use a smaller --lr."
            )


def _personal_bundle(
    bundle: Bundle, learnt: Mapping[str, Array], momentum: Mapping[str, Array], out: Path
) -> Bundle:
    """Write the bundle again with the learnt tensors in its tensor files and in every inference model."""
    tensor_files = {
        PARAMS_FILE: bundle.params() | dict(learnt),
        MOMENTUM_FILE: bundle.momentum() | dict(momentum),
    }
    inference = {t.artifacts["infer"] for t in bundle.manifest.targets.values() if "infer" in t.artifacts}
    files = {}
    for name in bundle.manifest.files:
        if name in tensor_files:
            continue
        content = bundle.file(name).read_bytes()
        files[name] = with_parameters(content, learnt) if name in inference else content
    # Verification was of the parameters that the old bundle has.
    manifest = bundle.manifest.model_copy(update={"verification": {}})
    return write_bundle(out, manifest, files, tensor_files)
