"""From a declared source to split, preprocessed examples; and new examples for a trained model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.data.arrays import examples_from_arrays, read_arrays, read_npz
from nagedge.data.audio import read_audio
from nagedge.data.cleaning import CleaningReport, drop_rows
from nagedge.data.config import DataConfig, SplitConfig
from nagedge.data.examples import DataSplits, Examples
from nagedge.data.fitting import fit_steps, fit_targets
from nagedge.data.images import class_folders, read_images
from nagedge.data.log_mel import LogMel
from nagedge.data.mnist import read_mnist
from nagedge.data.outliers import outliers
from nagedge.data.preprocessing import DataLayout, FillMissing, Preprocessing, Resize
from nagedge.data.raw import RawExamples, clean
from nagedge.data.tables import TABLE_SUFFIXES, read_table, read_text
from nagedge.data.tokens import Tokenise
from nagedge.errors import ConfigurationError, DataError, nearest_name
from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.tasks import TASK_KINDS
from nagedge.tasks.losses import ignored_label

__all__ = ["check_training_labels", "layout_of", "load_data", "load_examples", "split_rows"]

Array = npt.NDArray[Any]

WEIGHT_NAME = "sample_weight"
"""An array or column of this name in a file of new examples holds per-sample weights."""


def load_data(config: DataConfig, tasks: Sequence[TaskSpec]) -> DataSplits:
    """Read, clean, divide and preprocess the data of a run.

    Every statistic (mean of a missing value, mean and standard deviation of an input or a target) is taken
    from the training part alone. The same configuration gives the same arrays on every machine.

    Args:
        config: the ``[data]`` table; a relative path is taken from the working directory.
        tasks: at least one, names unique.

    Raises:
        ConfigurationError: the table does not fit the tasks.
        DataError: the data cannot be used; the text names file, row and column.
    """
    _check_task_names(config, tasks)
    if config.source == "shards":
        from nagedge.data.load_shards import load_shards

        return load_shards(config, tasks)
    raw = _read(config, tasks)
    steps = config.preprocessing
    kept, report = clean(
        raw,
        tasks,
        missing=steps.missing,
        bad_rows=steps.bad_rows,
        duplicates=steps.duplicates,
        remedy="Correct the row, or choose what happens to such rows in [data.preprocessing].",
    )
    train, validation, test = split_rows(len(kept.names), config.split, source=kept.source)
    if steps.outliers is not None:
        train, report = _without_outliers(kept, train, tasks, config, report)
    check_training_labels(kept, tasks, train)
    inputs = kept.input[train]
    preprocessing = Preprocessing(
        input=config.input_name,
        steps=fit_steps(steps, inputs, kept.source),
        targets=fit_targets(tasks, {name: array[train] for name, array in kept.targets.items()})
        if config.standardise
        else {},
        layout=layout_of(config, tasks),
    )
    examples = _preprocessed(kept, preprocessing)
    sizes = examples.inputs[config.input_name].shape[1:]
    return DataSplits(
        train=examples.take(train),
        validation=examples.take(validation),
        test=examples.take(test),
        input=TensorSpec(
            config.input_name,
            str(examples.inputs[config.input_name].dtype),
            (BATCH, *(int(size) for size in sizes)),
            config.unit,
        ),
        preprocessing=preprocessing,
        report=report,
    )


def _without_outliers(
    kept: RawExamples,
    train: npt.NDArray[np.int64],
    tasks: Sequence[TaskSpec],
    config: DataConfig,
    report: CleaningReport,
) -> tuple[npt.NDArray[np.int64], CleaningReport]:
    """Return the training rows that are no outliers among themselves, and the report that counts the others."""
    assert config.preprocessing.outliers is not None
    targets = {name: array[train] for name, array in kept.targets.items()}
    findings = outliers(kept.input[train], targets, tasks, config.columns, config.preprocessing.outliers)
    inside, dropped = drop_rows(
        findings, source=kept.source, row_names=[kept.names[row] for row in train], missing="drop", bad_rows="drop",
        remedy="",
    )  # fmt: skip
    return train[inside], report.with_more(dropped)


def load_examples(
    path: Path | str,
    tasks: Sequence[TaskSpec],
    preprocessing: Preprocessing,
    input: TensorSpec,  # noqa: A002 - the name that TensorSpec has in a checkpoint and a bundle
    *,
    missing: str = "error",
    bad_rows: str = "error",
) -> tuple[Examples, CleaningReport]:
    """Read new examples for a trained model: raw values in the file, preprocessed as in training.

    Args:
        path: ``.npz`` (an array of the input's name and one a task, in the task's unit), ``.csv`` or
            ``.parquet`` (the columns of the training table), or a folder of images laid out as the training
            data. An array or column ``sample_weight`` is used where there is one.
        tasks: the model's tasks; every one needs targets.
        preprocessing: of the checkpoint or the bundle.
        input: the model's input.
        missing, bad_rows: ``"error"``, or ``"drop"`` to leave such rows out and count them. Missing inputs
            are filled when the preprocessing has a step for them.

    Raises:
        DataError: the file cannot be read, or does not hold what the model takes.
    """
    path = Path(path)
    raw = _read_examples(path, tasks, preprocessing, input)
    fills = any(isinstance(step, FillMissing) for step in preprocessing.steps)
    kept, report = clean(
        raw,
        tasks,
        missing="mean" if fills else missing,
        bad_rows=bad_rows,
        remedy="Correct or remove the row.",
    )
    _check_raw_shape(raw.source, kept.input, preprocessing, input)
    return _preprocessed(kept, preprocessing), report


def split_rows(
    count: int, split: SplitConfig, *, source: str = "data"
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return rows for training, validation and test: int64, disjoint, each at least one, together all.

    Raises:
        DataError: fewer than 3 rows.
    """
    if count < 3:
        raise DataError(
            f"{source} has {count} usable {'row' if count == 1 else 'rows'}, expected at least 3: one "
            "each to train, "
            "validate and test on. Give more data."
        )
    validation = max(1, min(round(count * split.validation), count - 2))
    test = max(1, min(round(count * split.test), count - 1 - validation))
    order = np.random.default_rng(split.seed).permutation(count)
    return order[validation + test :], order[:validation], order[validation : validation + test]


def _check_task_names(config: DataConfig, tasks: Sequence[TaskSpec]) -> None:
    names = [task.name for task in tasks]
    if not names:
        raise ConfigurationError("the run has no task, expected at least one. Add a [[tasks]] table.")
    for key, mapping in (("targets", config.targets), ("classes", config.classes)):
        for name in mapping:
            if name not in names:
                raise ConfigurationError(
                    f"data.{key} names {name!r}, which is no task of the run; the tasks are "
                    f"{', '.join(names)}." + nearest_name(name, names)
                )
    for task in tasks:
        classes = config.classes.get(task.name)
        if classes is not None and (task.kind != "classification" or len(classes) != task.size):
            raise ConfigurationError(
                f"data.classes.{task.name} has {len(classes)} names for a {task.kind} task of size "
                f"{task.size}, "
                "expected a classification task and one name a class."
            )
    if config.input_name in names:
        raise ConfigurationError(
            f"the input and a task are both named {config.input_name!r}. Rename one of them."
        )


def check_training_labels(kept: RawExamples, tasks: Sequence[TaskSpec], train: npt.NDArray[np.int64]) -> None:
    """Refuse a task that the training part cannot teach: without any label, or with labels of one class only."""
    for task in tasks:
        targets = kept.targets[task.name][train]
        known = (
            targets[~np.isnan(targets)]
            if targets.dtype.kind == "f"
            else targets[targets != ignored_label(task)]
        )
        if known.size == 0:
            raise DataError(
                f"{kept.source}: task {task.name!r} has no label in any of the {len(train)} training rows, expected at"
                " least one. Label some rows, or remove the task."
            )
        if TASK_KINDS[task.kind].answers == "labels" and (known == known[0]).all() and len(known) > 1:
            raise DataError(
                f"{kept.source}: all {known.size} training labels of task {task.name!r} are of class {known[0]},"
                " expected at least two classes. Give rows of other classes, or remove the task."
            )


def _read(config: DataConfig, tasks: Sequence[TaskSpec]) -> RawExamples:
    if config.source == "mnist" or config.path is None:
        return read_mnist(tasks, input_name=config.input_name)
    if config.source == "arrays":
        return read_arrays(
            config.path,
            tasks,
            input_name=config.input_name,
            dtype=config.dtype,
            targets=config.targets,
            sample_weight=config.sample_weight,
        )
    if config.source == "table":
        return read_table(
            config.path,
            tasks,
            columns=config.columns,
            targets=config.targets,
            classes=config.classes,
            sample_weight=config.sample_weight,
        )
    if config.source == "text":
        return read_text(
            config.path,
            tasks,
            column=config.columns[0],
            targets=config.targets,
            classes=config.classes,
            sample_weight=config.sample_weight,
        )
    if config.source == "audio":
        assert config.preprocessing.log_mel is not None
        assert config.labels is not None
        return read_audio(
            config.path,
            tasks,
            labels=config.labels,
            sample_rate=config.preprocessing.log_mel.sample_rate,
            seconds=config.preprocessing.log_mel.seconds,
            targets=config.targets,
            classes=config.classes,
        )
    return read_images(
        config.path,
        tasks,
        colour=config.colour,
        size=config.preprocessing.resize,
        labels=config.labels,
        targets=config.targets,
        classes=config.classes,
    )


def _read_examples(
    path: Path, tasks: Sequence[TaskSpec], preprocessing: Preprocessing, spec: TensorSpec
) -> RawExamples:
    layout = preprocessing.layout
    sounds = [step for step in preprocessing.steps if isinstance(step, LogMel)]
    if path.is_dir() and sounds:
        return read_audio(
            path,
            tasks,
            labels=layout.labels,
            sample_rate=sounds[0].sample_rate,
            seconds=layout.seconds,
            targets=layout.targets,
            classes=layout.classes,
        )
    if path.suffix.lower() in TABLE_SUFFIXES and preprocessing.vocabulary:
        return read_text(
            path,
            tasks,
            column=layout.columns[0],
            targets=layout.targets,
            classes=layout.classes,
            sample_weight=WEIGHT_NAME,
            weight_is_optional=True,
        )
    if path.is_dir() and layout.colour:
        resize = [step for step in preprocessing.steps if isinstance(step, Resize)]
        return read_images(
            path,
            tasks,
            colour=layout.colour,
            size=(resize[0].height, resize[0].width) if resize else None,
            labels=layout.labels or None,
            targets=layout.targets,
            classes=layout.classes,
        )
    if path.suffix.lower() in TABLE_SUFFIXES:
        if not layout.columns:
            shape = ", ".join(str(size) for size in spec.shape[1:])
            raise DataError(
                f"{path} is a table, but the model was not trained on one: its input {spec.name!r} "
                "has shape "
                f"[n, {shape}]. Give a .npz file with an array {spec.name!r}."
            )
        return read_table(
            path,
            tasks,
            columns=layout.columns,
            targets=layout.targets,
            classes=layout.classes,
            sample_weight=WEIGHT_NAME,
            weight_is_optional=True,
        )
    if path.suffix.lower() != ".npz":
        kind = "a folder" if path.is_dir() else f"of kind {path.suffix or 'unknown (it has no suffix)'}"
        raise DataError(f"{path} is {kind}, expected a .npz, .csv or .parquet file. Convert the data.")
    arrays = read_npz(path)
    # A file made for this model has one array a task; one made like the training data has that one's names.
    targets = {
        task: names
        for task, names in layout.targets.items()
        if task not in arrays
        and all(name in arrays for name in ([names] if isinstance(names, str) else names))
    }
    return examples_from_arrays(
        str(path),
        arrays,
        tasks,
        input_name=spec.name,
        dtype=spec.dtype,
        targets=targets,
        sample_weight=WEIGHT_NAME if WEIGHT_NAME in arrays else None,
    )


def _check_raw_shape(source: str, values: Array, preprocessing: Preprocessing, spec: TensorSpec) -> None:
    expected: list[int | str] = list(spec.shape[1:])
    resized = any(isinstance(step, Resize) for step in preprocessing.steps)
    if any(isinstance(step, (Tokenise, LogMel)) for step in preprocessing.steps):
        return  # read in the form that the steps take
    if resized:
        fits = values.ndim == 4 and values.shape[1] == expected[0]
        expected = [*expected[:-2], "height", "width"]
    else:
        fits = list(values.shape[1:]) == expected
    if not fits:
        wanted = ", ".join(str(size) for size in ["n", *expected])
        raise DataError(
            f"{source}: input {spec.name!r} has shape {list(values.shape)}, expected [{wanted}]. "
            "Give data of the shape that the model was trained on."
        )


def _preprocessed(raw: RawExamples, preprocessing: Preprocessing) -> Examples:
    return Examples(
        inputs=preprocessing.apply({preprocessing.input: raw.input}),
        targets=preprocessing.apply_targets(raw.targets),
        sample_weight=None if raw.sample_weight is None else raw.sample_weight.astype(np.float32),
    )


def layout_of(config: DataConfig, tasks: Sequence[TaskSpec]) -> DataLayout:
    """Return under which names a file of new examples will hold its values."""
    classes = {task: tuple(names) for task, names in config.classes.items()}
    if config.source == "images" and config.labels is None and config.path is not None:
        classes = {tasks[0].name: classes.get(tasks[0].name, class_folders(config.path))}
    return DataLayout(
        columns=tuple(config.columns),
        targets={
            task: names if isinstance(names, str) else tuple(names) for task, names in config.targets.items()
        },
        classes=classes,
        colour=config.colour if config.source == "images" else "",
        labels=config.labels or "",
        seconds=config.preprocessing.log_mel.seconds if config.preprocessing.log_mel else 0.0,
    )
