"""Outliers: fences drawn by the training rows alone, rows dropped from these alone, counted with their reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from nagedge.data.config import DataConfig
from nagedge.data.load import load_data, split_rows
from nagedge.data.outliers import fences_of
from nagedge.errors import ConfigurationError
from nagedge.specs import TaskSpec
from nagedge.training.run import parse_run

TASKS = (TaskSpec("kind", "classification", size=2), TaskSpec("level", "regression", size=1))
ROWS = 400


def table() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, ROWS))
    return {"a": a, "b": 5 * b + 2, "kind": (a > 0).astype(int), "level": a + 3 * b}


def config(path: Path, source: str = "table", outliers: float | None = 4.0) -> DataConfig:
    steps = {"normalise": "train", **({} if outliers is None else {"outliers": outliers})}
    return DataConfig.model_validate({
        "source": source, "path": str(path), "columns": ["a", "b"], "preprocessing": steps
    })  # fmt: skip


def test_the_fences_are_tukeys() -> None:
    values = np.array([[1.0, 7.0], [2.0, 7.0], [3.0, 7.0], [4.0, 7.0], [5.0, np.nan]])
    fences = fences_of(values, 1.5)
    assert fences.low.tolist() == [2 - 3, -np.inf]
    assert fences.high.tolist() == [4 + 3, np.inf]
    outside = fences.outside(np.array([[7.5, 1e9], [np.nan, np.nan], [-1.0, 7.0]]))
    assert outside.tolist() == [[True, False], [False, False], [False, False]]


def test_training_rows_alone_are_dropped_and_counted(tmp_path: Path) -> None:
    plain = table()
    train, _, test = split_rows(ROWS, config(tmp_path).split)
    columns = {name: values.copy() for name, values in plain.items()}
    columns["a"][train[0]] = columns["a"][test[0]] = 1e6
    columns["b"][train[1:3]] = -1e4
    columns["level"][train[3]] = 500.0
    pa.csv.write_csv(pa.table(columns), tmp_path / "t.csv")
    data = load_data(config(tmp_path / "t.csv"), TASKS)
    assert (data.report.rows_read, data.report.rows_kept) == (ROWS, ROWS - 4)
    assert (len(data.train), len(data.test)) == (len(train) - 4, len(test))
    counted = {entry.reason: (entry.count, entry.first_rows) for entry in data.report.dropped}
    assert counted == {
        "outlier of column 'a', beyond 4 interquartile ranges": (1, (f"row {train[0] + 1}",)),
        "outlier of column 'b', beyond 4 interquartile ranges": (
            2,
            tuple(f"row {row + 1}" for row in train[1:3]),
        ),
        "outlier of target 'level', beyond 4 interquartile ranges": (1, (f"row {train[3] + 1}",)),
    }
    assert float(data.train.inputs["features"].std()) == pytest.approx(1, abs=1e-3)
    assert float(np.abs(data.test.inputs["features"]).max()) > 1e5
    kept = load_data(config(tmp_path / "t.csv", outliers=None), TASKS)
    assert kept.report.rows_kept == ROWS
    assert len(kept.train) == len(train)


def test_shards_lose_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    columns = table()
    train = split_rows(ROWS, config(tmp_path).split)[0]
    columns["a"][train[:3]] = [1e6, -1e6, 1e5]
    whole = pa.table(columns)
    pq.write_table(whole.slice(0, 150), tmp_path / "shards/part-0.parquet")
    pq.write_table(whole.slice(150), tmp_path / "shards/part-1.parquet")
    pa.csv.write_csv(whole, tmp_path / "t.csv")
    streamed = load_data(config(tmp_path / "shards", "shards"), TASKS)
    at_once = load_data(config(tmp_path / "t.csv"), TASKS)
    assert [(e.reason, e.count) for e in streamed.report.dropped] == [
        ("outlier of column 'a', beyond 4 interquartile ranges", 3)
    ]
    assert streamed.report.rows_kept == at_once.report.rows_kept == ROWS - 3
    one, two = (np.sort(np.asarray(d.train.inputs["features"])[:, 1]) for d in (streamed, at_once))
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [0, -1.5])
def test_a_width_that_is_not_above_zero(width: float) -> None:
    document = {
        "data": {"source": "table", "path": "t.csv", "columns": ["a"], "preprocessing": {"outliers": width}},
        "tasks": {"kind": {"kind": "classification", "size": 2}},
    }
    with pytest.raises(ConfigurationError, match=r"outliers is .*greater than 0"):
        parse_run(document, where="test")
