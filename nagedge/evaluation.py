"""A bundle's metrics on examples: what fine-tuning gains, and what quantisation costs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.data.examples import Examples
from nagedge.data.load import load_examples
from nagedge.data.preprocessing import Preprocessing
from nagedge.errors import ConfigurationError, DataError
from nagedge.runtimes import open_inference
from nagedge.tasks import check_targets, measure

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.data.cleaning import CleaningReport
    from nagedge.manifest import Manifest

__all__ = ["Metrics", "compare_metrics", "evaluate", "examples_of", "metrics_of", "predict"]

Array = npt.NDArray[Any]
Metrics = dict[str, dict[str, float]]

_PREDICTED_AT_ONCE = 64


def evaluate(
    bundle: Bundle,
    examples: Examples,
    *,
    runtime: str | None = None,
    target: str | None = None,
    threads: int = 1,
    params: Mapping[str, Array] | None = None,
) -> Metrics:
    """Return task -> metric -> value of the bundle's inference model on prepared examples, in the tasks' units."""
    outputs = predict(bundle, examples, runtime=runtime, target=target, threads=threads, params=params)
    return metrics_of(bundle, examples, outputs)


def compare_metrics(
    bundle: Bundle, examples: Examples, *, target: str, runtime: str | None = None
) -> Iterator[tuple[str, str, float, float]]:
    """Yield (task, metric, PyTorch's value in float32, the target's value) on prepared examples."""
    reference = evaluate(bundle, examples, runtime="torch")
    got = evaluate(bundle, examples, runtime=runtime, target=target)
    for task, values in reference.items():
        for metric, value in values.items():
            yield task, metric, value, got[task][metric]


def examples_of(
    bundle: Bundle, data: str | Path | Examples, reports: list[CleaningReport] | None = None
) -> Examples:
    """Return prepared examples that fit the bundle.

    Args:
        bundle: its manifest says how raw values become inputs and targets.
        data: a file of raw examples (.npz, .csv, .parquet), or examples that are already prepared.
        reports: what cleaning dropped from a file is added here.

    Raises:
        ConfigurationError: a file cannot serve a model of several inputs.
        DataError: the examples do not fit.
    """
    manifest = bundle.manifest
    if isinstance(data, Examples):
        _check(manifest, data)
        return data
    if len(manifest.inputs) != 1:
        raise ConfigurationError(
            f"bundle {str(bundle.path)!r} has {len(manifest.inputs)} inputs; a data file holds one. Give Examples from "
            "Python."
        )
    tasks = [task.spec() for task in manifest.tasks]
    examples, report = load_examples(data, tasks, _preprocessing(manifest), manifest.inputs[0].spec())
    if reports is not None:
        reports.append(report)
    return examples


def predict(
    bundle: Bundle,
    examples: Examples,
    *,
    runtime: str | None = None,
    target: str | None = None,
    threads: int = 1,
    params: Mapping[str, Array] | None = None,
) -> dict[str, Array]:
    """Return the raw outputs by task, ``[rows, ...]``; ``params`` as for :func:`nagedge.runtimes.open_inference`."""
    session = open_inference(bundle, target, runtime=runtime, params=params, threads=threads)
    fixed = bundle.manifest.batch if target is None else bundle.manifest.batch_of(target)
    size = fixed or _PREDICTED_AT_ONCE
    pieces: dict[str, list[Array]] = {}
    for start in range(0, len(examples), size):
        rows = np.arange(start, min(start + size, len(examples)))
        padded = np.resize(rows, size) if fixed is not None else rows
        for task, output in session.predict(examples.take(padded).inputs).items():
            pieces.setdefault(task, []).append(output[: len(rows)])
    return {task: np.concatenate(parts) for task, parts in pieces.items()}


def metrics_of(bundle: Bundle, examples: Examples, outputs: dict[str, Array]) -> Metrics:
    """Return task -> metric -> value of raw outputs, in the tasks' units."""
    targets: Mapping[str, Array] = examples.targets
    if bundle.manifest.preprocessing is not None:
        preprocessing = Preprocessing.from_json(bundle.manifest.preprocessing)
        outputs, targets = preprocessing.invert_outputs(outputs), preprocessing.invert_outputs(targets)
    return {
        task.name: measure(task.spec(), outputs[task.name], targets[task.name])
        for task in bundle.manifest.tasks
    }


def _check(manifest: Manifest, examples: Examples) -> None:
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
