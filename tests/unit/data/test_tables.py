"""CSV and Parquet: what is read, what becomes a finding, and the text of every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from nagedge.data.raw import clean
from nagedge.data.tables import read_table
from nagedge.errors import DataError
from nagedge.specs import TaskSpec

KIND = TaskSpec("kind", "classification", size=2)
HEAT = TaskSpec("heat", "regression", size=1)


def csv(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def parquet(folder: Path, **columns: Any) -> Path:
    path = folder / "table.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    return path


def refusal(
    path: Path,
    *,
    tasks: tuple[TaskSpec, ...] = (KIND,),
    columns: tuple[str, ...] = ("a", "b"),
    **options: Any,
) -> str:
    """The error of reading, or of cleaning with the strict policies."""

    def use() -> None:
        raw = read_table(path, tasks, columns=columns, **options)
        clean(raw, tasks, missing="error", bad_rows="error", remedy="Correct the row.")

    with pytest.raises(DataError) as caught:
        use()
    return str(caught.value).replace(str(path), "FILE")


def test_csv_columns_by_name_in_the_given_order(tmp_path: Path) -> None:
    path = csv(tmp_path, "kind,b,unused,a,w\n1, 2.5 ,x,1e-3,1\n0,NA,,4,0.5\n")
    raw = read_table(path, [KIND], columns=["a", "b"], sample_weight="w")
    np.testing.assert_allclose(raw.input, np.array([[1e-3, 2.5], [4, np.nan]], dtype=np.float32))
    np.testing.assert_array_equal(raw.targets["kind"], [1, 0])
    np.testing.assert_array_equal(raw.sample_weight, [1, 0.5])


def test_parquet_types_that_are_numbers(tmp_path: Path) -> None:
    path = parquet(
        tmp_path,
        a=pa.array([1, None, 3], pa.int16()),
        b=pa.array([True, False, True]),
        kind=pa.array(["1", "0", "1"]).dictionary_encode(),
    )
    raw = read_table(path, [KIND], columns=["a", "b"])
    np.testing.assert_array_equal(raw.input, np.array([[1, 1], [np.nan, 0], [3, 1]], dtype=np.float32))
    np.testing.assert_array_equal(raw.targets["kind"], [1, 0, 1])


def test_class_names_become_labels(tmp_path: Path) -> None:
    path = csv(tmp_path, 'a,b,kind\n1,2,dog\n3,4,cat\n5,6,"dog"\n')
    raw = read_table(path, [KIND], columns=["a", "b"], classes={"kind": ["cat", "dog"]})
    np.testing.assert_array_equal(raw.targets["kind"], [1, 0, 1])


def test_several_columns_for_one_task(tmp_path: Path) -> None:
    box = TaskSpec("box", "regression", size=2)
    path = csv(tmp_path, "a,x,y\n1,2,3\n4,5,6\n")
    raw = read_table(path, [box], columns=["a"], targets={"box": ["y", "x"]})
    np.testing.assert_array_equal(raw.targets["box"], [[3, 2], [6, 5]])
    wrong = TaskSpec("box", "regression", size=3)
    assert refusal(path, tasks=(wrong,), columns=("a",), targets={"box": ["y", "x"]}).startswith(
        "FILE, columns ['y', 'x']: targets of regression task 'box' have shape [2, 2], expected [n, 3] for size 3."
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a,b,kind\n1,2,0\n", None),
        ("", "FILE is empty (0 bytes), expected a .csv table. Write it again."),
        ("a,b,kind\n", "FILE holds no rows, expected at least one. Give a file with data."),
        (
            "a,c,kind\n1,2,0\n",
            "FILE has no column 'b'; it holds a, c, kind. Add the column, or name the right one.",
        ),
        ("a,b,b,kind\n1,2,3,0\n", "FILE has column 'b' more than once. Rename one of them."),
        (
            "a,b,kind\n1,2,0\n1,2 kg,0\n3,four,1\n",
            (
                "FILE, row 2: column 'b' is not a number: got '2 kg', expected a number such as 1.5 (with a point, no "
                "unit, no thousands separator) (2 such rows). Correct the row."
            ),
        ),
        (
            "a,b,kind\n1,2,0\n1,,0\n",
            "FILE, row 2: missing input value: got NaN or nothing in column 'b', expected a number. Correct the row.",
        ),
        (
            "a,b,kind\n1,inf,0\n",
            (
                "FILE, row 1: infinite input value: got inf in column 'b', expected finite float32 numbers. "
                "Correct the row."
            ),
        ),
        (
            "a,b,kind\n1,1e39,0\n",
            (
                "FILE, row 1: infinite input value: got inf in column 'b', expected finite float32 numbers. "
                "Correct the row."
            ),
        ),
        (
            "a,b,kind\n1,2,0\n1,2,2\n",
            "FILE, row 2: target 'kind' is out of range: got 2, expected a whole number from 0 to 1. Correct the row.",
        ),
        (
            "a,b,kind\n1,2,0.5\n",
            (
                "FILE, row 1: target 'kind' is out of range: got 0.5, expected a whole number from 0 to 1. "
                "Correct the row."
            ),
        ),
        (
            "a,b,kind\n1,2,\n",
            "FILE, row 1: target 'kind' is missing: got nan, expected a value in every row. Correct the row.",
        ),
        (
            "a,b,kind\n1,2,0\n1,2\n\n1,2,1,4\n",
            "FILE, row 2: wrong number of fields: got 2 fields, expected 3 (2 such rows). Correct the row.",
        ),
    ],
)
def test_csv_that_cannot_be_used(tmp_path: Path, text: str, expected: str | None) -> None:
    path = csv(tmp_path, text)
    if expected is None:
        assert len(read_table(path, (KIND,), columns=("a", "b")).input) == 1
    else:
        assert refusal(path) == expected


def test_rows_keep_their_numbers_after_a_ragged_row(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b,kind\n1,2,0\n1,2\n5,6,1\n7,8,9\n")
    raw = read_table(path, [KIND], columns=["a", "b"])
    kept, report = clean(raw, [KIND], missing="error", bad_rows="drop", remedy="")
    np.testing.assert_array_equal(kept.input, [[1, 2], [5, 6]])
    assert [(entry.reason, entry.first_rows) for entry in report.dropped] == [
        ("wrong number of fields", ("row 2",)),
        ("target 'kind' is out of range", ("row 4",)),
    ]


def test_a_class_name_that_is_not_listed(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b,kind\n1,2,cat\n1,2,bird\n")
    assert refusal(path, classes={"kind": ["cat", "dog"]}) == (
        "FILE, row 2: class of task 'kind' is unknown: got 'bird' in column 'kind', expected one of 'cat', 'dog'. "
        "Correct the row."
    )


def test_a_negative_weight(tmp_path: Path) -> None:
    path = csv(tmp_path, "a,b,kind,w\n1,2,0,-1\n")
    assert refusal(path, sample_weight="w") == (
        "FILE, row 1: sample weight: got -1, expected a finite number >= 0. Correct the row."
    )


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_bytes(b"a,b,kind\n1,\xff,0\n")
    assert "cannot be read as csv" in refusal(path)


def test_an_unusable_parquet_type(tmp_path: Path) -> None:
    path = parquet(tmp_path, a=[[1.0], [2.0]], b=[1, 2], kind=[0, 1])
    assert refusal(path) == (
        "FILE, column 'a' has type list<element: double>, expected numbers. Convert the column."
    )


@pytest.mark.parametrize(
    ("kind", "shown"), [([[1], [2]], "list<element: int64>"), ([b"\xff", b"a"], "binary")]
)
def test_class_names_that_are_no_text(tmp_path: Path, kind: list[object], shown: str) -> None:
    path = parquet(tmp_path, a=[1, 2], b=[1, 2], kind=kind)
    assert refusal(path, classes={"kind": ["cat", "dog"]}) == (
        f"FILE, column 'kind' has type {shown}, expected text. Convert the column."
    )


def test_a_parquet_file_without_rows(tmp_path: Path) -> None:
    path = parquet(
        tmp_path, a=pa.array([], pa.float32()), b=pa.array([], pa.float32()), kind=pa.array([], pa.int8())
    )
    assert refusal(path) == "FILE holds no rows, expected at least one. Give a file with data."


@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_a_truncated_parquet_file(tmp_path: Path, share: float) -> None:
    path = parquet(tmp_path, a=list(range(1000)), b=list(range(1000)), kind=[0] * 1000)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    text = refusal(path)
    assert text.startswith("FILE cannot be read as parquet (")
    assert text.endswith("It is truncated, damaged or of another kind: write it again.")


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.csv") == "FILE is not a file, expected a .csv table. Check the path."
    assert refusal(tmp_path / "x.xlsx") == "FILE is of kind .xlsx, expected a .csv or .parquet file."


def test_a_missing_target_of_a_regression(tmp_path: Path) -> None:
    path = parquet(tmp_path, a=[1.0, 2.0], b=[1.0, 2.0], heat=[1.0, float("nan")])
    assert refusal(path, tasks=(HEAT,)) == (
        "FILE, row 2: target 'heat' is missing: got nan, expected a value in every row. Correct the row."
    )
