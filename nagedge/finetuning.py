"""Fine-tuning as a device does it: a bundle, its training step on a runtime, and a user's examples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.bundle import MOMENTUM_FILE, PARAMS_FILE, Bundle, check_replaceable, write_bundle
from nagedge.data.examples import Examples
from nagedge.errors import ConfigurationError, DataError, TrainingDivergedError
from nagedge.evaluation import Metrics, evaluate, examples_of, metrics_of, predict
from nagedge.lowering import batched, relowered
from nagedge.runtimes import TrainingSession, TrainingState, choose_runtime, open_training

if TYPE_CHECKING:
    from nagedge.data.cleaning import CleaningReport
    from nagedge.manifest import Manifest

__all__ = ["FinetuneResult", "evaluate", "finetune"]

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]

_HELD_OUT = 0.2
_CALIBRATED_ON = 256  # rows, for the ranges of statically quantised activations


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
    runtime: str | None = None,
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
        runtime: one of :data:`nagedge.runtimes.RUNTIMES`; None takes the target's own, ``"torch"`` the reference.
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
    examples = examples_of(bundle, data, reports)
    if evaluation is None:
        examples, held_out = _split(examples, seed)
    else:
        held_out = examples_of(bundle, evaluation, reports)
    target, runtime = choose_runtime(bundle, target, runtime, role="train_step")
    fixed = bundle.manifest.batch_of(target)
    size = fixed or batch_size
    session = open_training(bundle, target, runtime=runtime, threads=threads)
    before = evaluate(bundle, held_out, runtime=runtime, target=target, threads=threads)
    steps = epochs * math.ceil(len(examples) / size)
    losses: list[dict[str, float]] = []
    for batch in _batches(examples, size, epochs, seed, pad=fixed is not None):
        losses.append(_step(session, batch, settings, len(losses) + 1))
        report("fine-tuning", len(losses), steps)
    state = session.state()
    del session  # two runtimes with their buffers would be in memory below
    learnt = state.params | state.buffers
    _check_finite({f"tensor {name!r}": array for name, array in (learnt | state.momentum).items()}, settings)
    manifest, files, tensors = _personal(bundle, state, examples)
    with TemporaryDirectory() as folder:
        draft = write_bundle(Path(folder) / "bundle", manifest, files, tensors, shown=out)
        outputs = predict(draft, held_out, runtime=runtime, target=target, threads=threads)
    _check_finite({f"the output of task {task!r}": array for task, array in outputs.items()}, settings)
    after = metrics_of(bundle, held_out, outputs)
    personal = write_bundle(out, manifest, files, tensors)
    return FinetuneResult(
        personal, before, after, tuple(losses), len(examples), len(held_out), runtime, tuple(reports)
    )


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


def _personal(
    bundle: Bundle, state: TrainingState, examples: Examples
) -> tuple[Manifest, dict[str, bytes], dict[str, dict[str, Array]]]:
    """Return what the new bundle holds: the learnt tensors in its tensor files and in every inference artifact."""
    tensors = {
        PARAMS_FILE: bundle.params() | state.params | state.buffers,
        MOMENTUM_FILE: bundle.momentum() | state.momentum,
    }
    kept = examples.take(np.arange(min(len(examples), _CALIBRATED_ON))).inputs
    replaced = relowered(bundle, tensors[PARAMS_FILE], tensors[MOMENTUM_FILE], calibration=batched(kept))
    files = {
        name: replaced[name] if name in replaced else bundle.file(name).read_bytes()
        for name in bundle.manifest.files
        if name not in tensors
    }
    # Verification was of the parameters that the old bundle has.
    return bundle.manifest.model_copy(update={"verification": {}}), files, tensors
