"""From shards to split, preprocessed examples that are mapped from files; see :mod:`nagedge.data.streaming`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.data.cleaning import CleaningReport, drop_rows
from nagedge.data.config import DataConfig
from nagedge.data.examples import DataSplits
from nagedge.data.fitting import fit_steps, fit_targets
from nagedge.data.load import check_training_labels, layout_of, split_rows
from nagedge.data.outliers import outliers
from nagedge.data.preprocessing import Preprocessing
from nagedge.data.raw import RawExamples, row_names
from nagedge.data.shards import PIECE, read_shards
from nagedge.data.streaming import Store, cache_folder, clean_pieces, mapped_examples, sample_of
from nagedge.specs import BATCH, TaskSpec, TensorSpec

__all__ = ["load_shards"]

Array = npt.NDArray[Any]


def load_shards(config: DataConfig, tasks: Sequence[TaskSpec]) -> DataSplits:
    """Read, clean, divide and preprocess shards, through files that are mapped.

    Args:
        config: the ``[data]`` table, source ``shards``.
        tasks: at least one.

    Raises:
        DataError: the data cannot be used; the text names shard and row.
    """
    assert config.path is not None
    policies = config.preprocessing
    store = Store(cache_folder(config.cache))
    pieces = read_shards(
        config.path,
        tasks,
        columns=config.columns,
        colour=config.colour,
        targets=config.targets,
        classes=config.classes,
    )
    report = clean_pieces(
        pieces, tasks, store, missing=policies.missing, bad_rows=policies.bad_rows,
        remedy="Correct the row, or choose what happens to such rows in [data.preprocessing].",
    )  # fmt: skip
    raw = {name: store.mapped(f"target.{name}") for name in (task.name for task in tasks)}
    raw["input"] = store.mapped("input")
    parts = dict(
        zip(
            ("train", "validation", "test"),
            split_rows(report.rows_kept, config.split, source=report.source),
            strict=True,
        )
    )
    sample = sample_of(parts["train"], int(np.prod(raw["input"].shape[1:])), config.split.seed)
    targets = {name: np.asarray(array[sample]) for name, array in raw.items() if name != "input"}
    inputs = np.asarray(raw["input"][sample])
    if policies.outliers is not None:
        parts["train"], report = _without_outliers(
            raw, parts["train"], (inputs, targets), tasks, config, report
        )
        sample = sample_of(parts["train"], int(np.prod(raw["input"].shape[1:])), config.split.seed)
        targets = {name: np.asarray(array[sample]) for name, array in raw.items() if name != "input"}
        inputs = np.asarray(raw["input"][sample])
    kept = RawExamples(report.source, inputs, targets, None, row_names(len(sample)))
    check_training_labels(kept, tasks, np.arange(len(sample)))
    preprocessing = Preprocessing(
        input=config.input_name,
        steps=fit_steps(policies, inputs, report.source),
        targets=fit_targets(tasks, targets) if config.standardise else {},
        layout=layout_of(config, tasks),
    )
    splits = {
        part: mapped_examples(store, part, rows, config.input_name, raw, preprocessing)
        for part, rows in parts.items()
    }
    example = splits["train"].inputs[config.input_name]
    for name in list(raw):
        del raw[name]
        store.remove("input" if name == "input" else f"target.{name}")
    return DataSplits(
        **splits,
        input=TensorSpec(
            config.input_name,
            str(example.dtype),
            (BATCH, *(int(size) for size in example.shape[1:])),
            config.unit,
        ),
        preprocessing=preprocessing,
        report=report,
    )


def _without_outliers(
    raw: Mapping[str, Array],
    train: npt.NDArray[np.int64],
    drawn_by: tuple[Array, Mapping[str, Array]],
    tasks: Sequence[TaskSpec],
    config: DataConfig,
    report: CleaningReport,
) -> tuple[npt.NDArray[np.int64], CleaningReport]:
    """Return the training rows that are no outliers, looked at in pieces, and the report with the others.

    The fences are drawn by ``drawn_by``, the sample of the training rows that gives all statistics.
    """
    assert config.preprocessing.outliers is not None
    left = []
    for start in range(0, len(train), PIECE):
        rows = np.sort(train[start : start + PIECE])
        piece = {name: np.asarray(array[rows]) for name, array in raw.items()}
        inputs = piece.pop("input")
        findings = outliers(
            inputs, piece, tasks, config.columns, config.preprocessing.outliers, drawn_by=drawn_by
        )
        names = [f"row {row + 1} of those kept" for row in rows]
        inside, dropped = drop_rows(
            findings, source=report.source, row_names=names, missing="drop", bad_rows="drop", remedy="",
            allow_none=True,
        )  # fmt: skip
        left.append(rows[inside])
        report = report.with_more(dropped)
    return np.concatenate(left), report.merged()
