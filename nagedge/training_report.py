"""The report of a training run: curves, weights, gradient cosines and confusion matrices on one HTML page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nagedge.profiling.report import write_report
from nagedge.profiling.sections import Curve, Fact, Section, TableSection, TrainingSection

if TYPE_CHECKING:
    from nagedge.data.examples import Examples
    from nagedge.specs import TaskSpec
    from nagedge.training.checkpoint import Checkpoint
    from nagedge.training.events import EpochFinished

_Values = Callable[["EpochFinished"], Mapping[str, float]]

__all__ = ["training_section", "write_training_report"]

_LARGEST_MATRIX = 30
"""Confusion matrices of more classes are not printed: nobody reads them."""


def write_training_report(checkpoint: Checkpoint, path: str | Path, *, test: Examples | None = None) -> Path:
    """Write the report of a checkpoint with at least one epoch; return its path.

    Args:
        checkpoint: of the run.
        path: the HTML file.
        test: the examples of the confusion matrices, instead of reading the run's data again.

    Raises:
        DataError: the run's data cannot be read any more.
    """
    if test is None:
        from nagedge.data.load import load_data

        test = load_data(checkpoint.run.data, checkpoint.tasks).test
    run, state = checkpoint.run, checkpoint.state
    sections: list[Section] = [training_section(checkpoint), *_balancing(checkpoint)]
    sections += _confusions(checkpoint, test)
    return write_report(
        Path(path),
        title=f"Training of {', '.join(run.tasks)}",
        subtitle=f"{state.step} of {state.steps} steps, {len(state.history)} epochs, trunk {run.model.trunk}.",
        sections=sections,
    )


def training_section(checkpoint: Checkpoint) -> TrainingSection:
    """Return losses, metrics and facts of a run."""
    history, run = checkpoint.state.history, checkpoint.run
    losses = [
        *_curves(history, lambda e: e.losses, "{} (training)"),
        *_curves(history, lambda e: e.validation_losses, "{} (validation)"),
    ]
    metrics = _curves(
        history,
        lambda e: {
            f"{task} {name}": v for task, values in e.validation.items() for name, v in values.items()
        },
    )
    facts = (
        Fact("data", f"{run.data.source}, batch size {run.batch_size}, seed {run.seed}"),
        Fact("model", f"{run.model.trunk} with the heads {', '.join(run.tasks)}"),
        Fact(
            "optimizer",
            f"SGD with Nesterov momentum {run.optimizer.momentum:g}, lr {run.optimizer.lr:g}, "
            f"weight decay {run.optimizer.weight_decay:g}",
        ),
        *(
            Fact(f"{task}, test", ", ".join(f"{name} {value:.4g}" for name, value in values.items()))
            for task, values in checkpoint.state.test.items()
        ),
    )
    return TrainingSection(losses=tuple(losses), metrics=tuple(metrics), facts=facts)


def _curves(history: Iterable[EpochFinished], values: _Values, label: str = "{}") -> list[Curve]:
    """Return one curve a name, over the epochs that have a finite value for it."""
    points: dict[str, list[tuple[float, float]]] = {}
    for epoch in history:
        for name, value in values(epoch).items():
            if np.isfinite(value):
                points.setdefault(name, []).append((float(epoch.epoch), value))
    return [
        Curve(label.format(name), tuple(x for x, _ in found), tuple(y for _, y in found))
        for name, found in points.items()
    ]


def _balancing(checkpoint: Checkpoint) -> list[TrainingSection]:
    """Return the weights and the cosines, where there is more than one task."""
    history, table = checkpoint.state.history, checkpoint.run.balancing
    if len(checkpoint.tasks) < 2:
        return []
    weights = _curves(history, lambda e: e.weights, "weight of {}")
    cosines = _curves(history, lambda e: e.cosines, "cosine: {}")
    scope = f", scope {table.chosen_scope}" if table.scope else ""
    return [
        TrainingSection(
            metrics=(*weights, *cosines),
            facts=(Fact("method", table.method + scope),),
            title="Balancing",
            lead="The weight that each loss had in effect, and the cosine between the gradients of every two tasks on"
            " the features of the same training examples: below zero one task undoes what the other does.",
        )
    ]


def _confusions(checkpoint: Checkpoint, test: Examples) -> list[TableSection]:
    """Return a matrix for each task with one label a sample and few classes."""
    import torch

    tasks = [
        t for t in checkpoint.tasks if t.kind in ("classification", "binary") and t.size <= _LARGEST_MATRIX
    ]
    if not tasks or len(test) == 0:
        return []
    model = checkpoint.build_model()
    rows = torch.from_numpy(test.inputs[checkpoint.input.name])
    with torch.inference_mode():
        parts = [model(part) for part in torch.split(rows, 512)]
    sections = []
    for task in tasks:
        output = torch.cat([part[task.name] for part in parts]).numpy()
        sections.append(_confusion(task, output, test.targets[task.name], _class_names(checkpoint, task)))
    return sections


def _class_names(checkpoint: Checkpoint, task: TaskSpec) -> list[str]:
    known: Mapping[str, tuple[str, ...]] = checkpoint.preprocessing.layout.classes
    return list(known.get(task.name, ())) or [str(label) for label in range(max(2, task.size))]


def _confusion(task: TaskSpec, output: np.ndarray, target: np.ndarray, names: list[str]) -> TableSection:
    """Return rows of true classes and columns of predicted ones; samples without a label are left out."""
    binary = task.kind == "binary"
    said = (output.reshape(-1) > 0).astype(np.int64) if binary else output.argmax(axis=1)
    known = np.isfinite(target) & (target >= 0)
    true = (target[known] > 0.5).astype(np.int64) if binary else target[known]
    counts = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(counts, (true, said[known]), 1)
    return TableSection(
        title=f"Confusion: {task.name}",
        lead=f"{int(counts.sum())} test examples; a row is the true class, a column the predicted one.",
        header=("", *names),
        rows=tuple((name, *(str(n) for n in row)) for name, row in zip(names, counts, strict=True)),
    )
