"""Rows without a label for some task, from the file to the checkpoint."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nagedge.data.load import load_data
from nagedge.errors import DataError
from nagedge.training.fit import train
from nagedge.training.run import Run, parse_run


def run_of(path: Path, **tasks: dict[str, object]) -> Run:
    document = {
        "data": {"source": "table", "path": str(path), "columns": ["a", "b"]},
        "model": {"trunk": "mlp", "hidden": [8]},
        "tasks": tasks,
        "schedule": {"epochs": 30},
        "optimizer": {"lr": 0.03, "clip_norm": 1.0},
        "batch_size": 16,
    }
    return parse_run(document, where="test")


def write(path: Path, rows: int, *, labelled: float = 0.3, kinds: int = 2) -> None:
    rng = np.random.default_rng(0)
    lines = ["a,b,kind,level"]
    for _ in range(rows):
        a, b = rng.standard_normal(2)
        kind = str(int(a > 0) % kinds) if rng.random() < labelled else ""
        level = f"{100 + 50 * b:.3f}" if rng.random() < labelled else ""
        lines.append(f"{a:.4f},{b:.4f},{kind},{level}")
    path.write_text("\n".join(lines) + "\n")


def test_a_table_with_holes_trains_all_tasks(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", 300)
    run = run_of(
        tmp_path / "t.csv",
        kind={"kind": "classification", "size": 2, "missing": True},
        level={"kind": "regression", "missing": True},
    )
    data = load_data(run.data, run.task_specs())
    assert data.report.rows_kept == 300
    assert (data.train.targets["kind"] == -100).sum() > 100
    level = data.train.targets["level"]
    assert np.nanmean(level) == pytest.approx(0, abs=1e-5)  # statistics of the labelled rows alone
    assert np.nanstd(level) == pytest.approx(1, abs=1e-5)
    checkpoint = train(run, out=tmp_path / "c")
    assert checkpoint.metrics["kind"]["accuracy"] > 0.85
    assert checkpoint.metrics["level"]["r2"] > 0.9


def test_without_saying_so_a_missing_target_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", 30)
    run = run_of(tmp_path / "t.csv", level={"kind": "regression"})
    with pytest.raises(DataError, match="target 'level' is missing"):
        load_data(run.data, run.task_specs())


@pytest.mark.parametrize("task", [{"kind": "classification", "size": 2}, {"kind": "binary"}])
def test_a_task_that_never_has_labels_is_refused(task: dict[str, object], tmp_path: Path) -> None:
    write(tmp_path / "t.csv", 30, labelled=0.0)
    run = run_of(tmp_path / "t.csv", kind={**task, "missing": True})
    with pytest.raises(DataError, match="task 'kind' has no label in any of the 22 training rows"):
        load_data(run.data, run.task_specs())


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "t.csv", 30, labelled=1.0, kinds=1)
    run = run_of(tmp_path / "t.csv", kind={"kind": "classification", "size": 2})
    with pytest.raises(DataError, match="all 22 training labels of task 'kind' are of class 0"):
        load_data(run.data, run.task_specs())
