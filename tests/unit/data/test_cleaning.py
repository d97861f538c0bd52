"""Policies over findings, and the report that says what became of every row."""

from __future__ import annotations

import json

import numpy as np
import pytest

from nagedge.data.cleaning import CleaningReport, Dropped
from nagedge.data.raw import RawExamples, clean, row_names
from nagedge.errors import DataError
from nagedge.specs import LossSpec, TaskSpec

LABEL = TaskSpec("label", "classification", size=3)


def raw(values: list[list[float]], labels: list[float], weights: list[float] | None = None) -> RawExamples:
    return RawExamples(
        source="data",
        input=np.array(values, dtype=np.float32),
        targets={"label": np.array(labels, dtype=np.float64)},
        sample_weight=None if weights is None else np.array(weights),
        names=row_names(len(values)),
    )


NAN, INF = float("nan"), float("inf")


def test_every_dropped_row_is_counted_once_under_its_first_fault() -> None:
    rows = raw([[1], [INF], [NAN], [NAN], [5], [6], [7]], [0, 9, 1, 9, 9, NAN, 2], [1, 1, 1, 1, 1, 1, -1])
    kept, report = clean(rows, [LABEL], missing="drop", bad_rows="drop", remedy="")
    np.testing.assert_array_equal(kept.input, [[1]])
    assert kept.targets["label"].dtype == np.int64
    assert list(kept.names) == ["row 1"]
    assert report.dropped == (
        Dropped("infinite input value", 1, ("row 2",)),
        Dropped("missing input value", 2, ("row 3", "row 4")),
        Dropped("target 'label' is missing", 1, ("row 6",)),
        Dropped("target 'label' is out of range", 1, ("row 5",)),
        Dropped("sample weight", 1, ("row 7",)),
    )
    assert report.rows_read == report.rows_kept + sum(entry.count for entry in report.dropped)


def test_missing_inputs_and_bad_rows_have_policies_of_their_own() -> None:
    rows = raw([[1], [NAN], [3]], [0, 1, 7])
    with pytest.raises(DataError, match="row 2: missing input value"):
        clean(rows, [LABEL], missing="error", bad_rows="drop", remedy="")
    with pytest.raises(DataError, match="row 3: target 'label' is out of range: got 7"):
        clean(rows, [LABEL], missing="drop", bad_rows="error", remedy="")


def test_missing_inputs_that_will_be_filled_stay_and_are_counted() -> None:
    kept, report = clean(
        raw([[1, NAN], [NAN, NAN]], [0, 1]), [LABEL], missing="mean", bad_rows="error", remedy=""
    )
    assert len(kept.input) == 2
    assert (report.rows_kept, report.filled_values) == (2, 3)
    assert str(report) == "data: 2 rows read, 2 kept; 3 missing values filled"


def test_no_row_left() -> None:
    with pytest.raises(DataError) as caught:
        clean(raw([[1], [2]], [7, 8]), [LABEL], missing="error", bad_rows="drop", remedy="")
    assert str(caught.value) == (
        "no usable row is left. data: 2 rows read, 0 kept; 2 dropped: target 'label' is out of range "
        "(row 1, row 2). Correct the file."
    )


def test_no_row_at_all() -> None:
    empty = RawExamples("data", np.zeros((0, 2), np.float32), {"label": np.zeros(0)}, None, ())
    with pytest.raises(DataError) as caught:
        clean(empty, [LABEL], missing="error", bad_rows="drop", remedy="")
    assert str(caught.value) == "data holds no rows, expected at least one. Give a file with data."


def test_the_label_that_means_no_label_is_kept() -> None:
    task = TaskSpec("label", "classification", size=3, loss=LossSpec("cross_entropy", ignore_index=-1))
    kept, report = clean(raw([[1], [2]], [-1, 2]), [task], missing="error", bad_rows="error", remedy="")
    np.testing.assert_array_equal(kept.targets["label"], [-1, 2])
    assert report.rows_kept == 2


@pytest.mark.parametrize(
    ("task", "targets", "text"),
    [
        (
            TaskSpec("t", "binary", size=1),
            [0.0, 2.0],
            "target 't' is out of range: got 2, expected a number from 0 to 1",
        ),
        (TaskSpec("t", "multilabel", size=2), [[0, 1], [1, -1]], "got -1, expected a number from 0 to 1"),
        (
            TaskSpec("t", "regression", size=1),
            [0.0, INF],
            "target 't' is infinite: got inf, expected a finite float32",
        ),
        (TaskSpec("t", "regression", size=1), [0.0, 1e39], "target 't' is infinite: got 1e+39"),
        (TaskSpec("t", "classification", size=2), [0.0, INF], "target 't' is out of range: got inf"),
    ],
)
def test_targets_out_of_range_of_each_kind(task: TaskSpec, targets: list[object], text: str) -> None:
    rows = RawExamples(
        "data", np.zeros((2, 1), np.float32), {"t": np.array(targets, float)}, None, row_names(2)
    )
    with pytest.raises(DataError) as caught:
        clean(rows, [task], missing="error", bad_rows="error", remedy="")
    assert str(caught.value).startswith("data, row 2: ")
    assert text in str(caught.value)


def test_a_report_names_five_rows_of_a_reason_at_most_and_goes_through_json() -> None:
    _, report = clean(raw([[1]] * 9, [9.0] * 8 + [1.0]), [LABEL], missing="error", bad_rows="drop", remedy="")
    assert report.dropped[0] == Dropped(
        "target 'label' is out of range", 8, ("row 1", "row 2", "row 3", "row 4", "row 5")
    )
    assert str(report).endswith(
        "8 dropped: target 'label' is out of range (row 1, row 2, row 3, row 4, row 5, ...)"
    )
    assert CleaningReport.from_json(json.loads(json.dumps(report.to_json()))) == report
    with pytest.raises(DataError, match="cleaning report cannot be read"):
        CleaningReport.from_json({"source": "x"})
