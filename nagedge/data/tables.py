"""Tables: CSV (UTF-8, comma, one header line) and Parquet files, read with Arrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from nagedge.data.cleaning import Finding
from nagedge.data.raw import RawExamples, fitted_target, row_names
from nagedge.errors import DataError, nearest_name
from nagedge.specs import TaskSpec

__all__ = ["TABLE_SUFFIXES", "Columns", "read_columns", "read_table", "read_text", "table_targets"]

TABLE_SUFFIXES = (".csv", ".parquet")
NULLS = ("", "NA", "N/A", "NaN", "nan", "null", "NULL", "None")
"""What stands for "no value" in a CSV field that is not quoted."""

Array = npt.NDArray[Any]


class Columns:
    """The named columns of one file, with the faults found while they were turned into numbers.

    Args:
        source: the file, for texts.
        columns: column name -> Arrow values, all of one length.
        names: one name a row.
    """

    def __init__(self, source: str, columns: Mapping[str, pa.ChunkedArray], names: Sequence[str]) -> None:
        self.source = source
        self.columns = columns
        self.names = names
        self.findings: list[Finding] = []

    def text(self, name: str) -> list[str | None]:
        """Return a column as text, ``None`` where it is missing.

        Raises:
            DataError: a column type (lists, bytes that are not UTF-8) that is no text.
        """
        try:
            values: list[str | None] = pc.cast(self.columns[name], pa.string()).to_pylist()
        except pa.ArrowException:
            raise DataError(
                f"{self.source}, column {name!r} has type {self.columns[name].type}, expected text. "
                "Convert the column."
            ) from None
        return values

    def numbers(self, name: str) -> npt.NDArray[np.float64]:
        """Return a column as float64 ``[n]``, NaN where it is missing or no number (the latter is a finding).

        Raises:
            DataError: a column type (dates, lists) that holds no numbers.
        """
        column = self.columns[name]
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            return self._parsed(name, pc.utf8_trim_whitespace(column))
        kind = column.type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
                or pa.types.is_decimal(kind) or pa.types.is_null(kind)):  # fmt: skip
            raise DataError(
                f"{self.source}, column {name!r} has type {kind}, expected numbers. Convert the column."
            )
        if pa.types.is_boolean(kind):
            column = pc.cast(column, pa.int8())
        return _to_float64(pc.cast(column, pa.float64(), safe=False))

    def labels(self, name: str, task: TaskSpec, classes: Sequence[str]) -> npt.NDArray[np.float64]:
        """Return the positions of a column's class names in ``classes``, float64 ``[n]``."""
        values = self.text(name)
        position = {label: float(index) for index, label in enumerate(classes)}
        unknown = np.array([value is not None and value not in position for value in values], dtype=np.bool_)
        listed = ", ".join(repr(label) for label in classes[:10]) + (", ..." if len(classes) > 10 else "")
        self.findings.append(
            Finding(
                f"class of task {task.name!r} is unknown",
                unknown,
                lambda row: f"{values[row]!r} in column {name!r}",
                f"one of {listed}",
            )
        )
        return np.array([np.nan if value is None else position.get(value, 0.0) for value in values])

    def _parsed(self, name: str, column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
        try:
            return _to_float64(pc.cast(column, pa.float64()))
        except pa.ArrowInvalid:
            texts: list[str | None] = column.to_pylist()
        values = [_number(text) for text in texts]
        wrong = np.array([value is None for value in values], dtype=np.bool_)
        self.findings.append(
            Finding(
                f"column {name!r} is not a number",
                wrong,
                lambda row: repr(texts[row]),
                "a number such as 1.5 (with a point, no unit, no thousands separator)",
            )
        )
        # The row is a finding already; 0 keeps it from being reported as missing instead.
        return np.array([0.0 if value is None else value for value in values])


def _number(text: str | None) -> float | None:
    if text is None:
        return float("nan")
    try:
        return float(pc.cast(pa.scalar(text), pa.float64()).as_py())
    except pa.ArrowInvalid:
        return None


def _to_float64(column: pa.ChunkedArray) -> npt.NDArray[np.float64]:
    return np.asarray(pc.fill_null(column, float("nan")).to_numpy(), dtype=np.float64)


def read_table(
    path: Path,
    tasks: Sequence[TaskSpec],
    *,
    columns: Sequence[str],
    targets: Mapping[str, str | Sequence[str]] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    sample_weight: str | None = None,
    weight_is_optional: bool = False,
) -> RawExamples:
    """Read the rows of a CSV or Parquet file; the input is ``[n, len(columns)]``.

    Args:
        path: ends in .csv or .parquet.
        tasks: what is read.
        columns: the input columns, in the model's order.
        targets: task name -> its column, or its columns; else the column of the task's name.
        classes: task name -> class names in label order, for columns that hold names.
        sample_weight: the column of per-sample weights.
        weight_is_optional: a file without that column has weights of one.

    Raises:
        DataError: a file that cannot be read, a missing column, a column that holds no numbers.
    """
    mapping = {task.name: (targets or {}).get(task.name, task.name) for task in tasks}
    weight = [] if sample_weight is None else [sample_weight]
    required = [*columns, *_flat(mapping), *([] if weight_is_optional else weight)]
    table = read_columns(path, required, optional=weight)
    with np.errstate(
        over="ignore"
    ):  # a value beyond float32 becomes infinite, and is then reported with its row
        values = np.stack([table.numbers(name) for name in columns], axis=1).astype(np.float32)
    raw_targets = table_targets(table, tasks, mapping, classes or {})
    weights = table.numbers(weight[0]) if weight and weight[0] in table.columns else None
    return RawExamples(
        source=table.source,
        input=values,
        targets=raw_targets,
        sample_weight=weights,
        names=table.names,
        columns=tuple(columns),
        findings=tuple(table.findings),
    )


def read_text(
    path: Path,
    tasks: Sequence[TaskSpec],
    *,
    column: str,
    targets: Mapping[str, str | Sequence[str]] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    sample_weight: str | None = None,
    weight_is_optional: bool = False,
) -> RawExamples:
    """Read the rows of a CSV or Parquet file with a column of text; the input is an array of texts ``[n]``.

    An empty text is a missing input value. For the other arguments and errors see :func:`read_table`.
    """
    mapping = {task.name: (targets or {}).get(task.name, task.name) for task in tasks}
    weight = [] if sample_weight is None else [sample_weight]
    required = [column, *_flat(mapping), *([] if weight_is_optional else weight)]
    table = read_columns(path, required, optional=weight)
    texts = [text or "" for text in table.text(column)]
    empty = np.array([not text.strip() for text in texts], dtype=np.bool_)
    raw_targets = table_targets(table, tasks, mapping, classes or {})
    missing = Finding(
        "missing input value",
        empty,
        lambda row: f"an empty text in column {column!r}",
        "a text",
        missing_input=True,
    )
    return RawExamples(
        source=table.source,
        input=np.array(texts, dtype=object),
        targets=raw_targets,
        sample_weight=table.numbers(weight[0]) if weight and weight[0] in table.columns else None,
        names=table.names,
        findings=(missing, *table.findings),
    )


def table_targets(
    table: Columns,
    tasks: Sequence[TaskSpec],
    mapping: Mapping[str, str | Sequence[str]],
    classes: Mapping[str, Sequence[str]],
) -> dict[str, Array]:
    """Return task name -> float64 targets; ``mapping`` names the column or the columns of every task."""
    targets = {}
    for task in tasks:
        names = mapping[task.name]
        where = (
            f"{table.source}, column {names!r}"
            if isinstance(names, str)
            else f"{table.source}, columns {names}"
        )
        if not isinstance(names, str):
            values: Array = np.stack([table.numbers(name) for name in names], axis=1)
        elif task.kind == "classification" and task.name in classes:
            values = table.labels(names, task, classes[task.name])
        else:
            values = table.numbers(names)
        targets[task.name] = fitted_target(task, values, where)
    return targets


def _flat(mapping: Mapping[str, str | Sequence[str]]) -> list[str]:
    return [name for names in mapping.values() for name in ([names] if isinstance(names, str) else names)]


def read_columns(path: Path, required: Sequence[str], *, optional: Sequence[str] = ()) -> Columns:
    """Return the named columns of a file, those of ``optional`` where it has them; CSV values are still text.

    Raises:
        DataError: the file is missing, empty, damaged or of another kind, or a column is missing or double.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLE_SUFFIXES:
        raise DataError(
            f"{path} is of kind {suffix or 'unknown (it has no suffix)'}, expected a .csv or .parquet file."
        )
    if not path.is_file():
        raise DataError(f"{path} is not a file, expected a {suffix} table. Check the path.")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty (0 bytes), expected a {suffix} table. Write it again.")
    reader = _read_csv if suffix == ".csv" else _read_parquet
    try:
        table = reader(path, required, optional)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{path} cannot be read as {suffix[1:]} ({reason}). It is truncated, damaged or of another kind: "
            "write it again."
        ) from None
    if len(table.names) == 0:
        raise DataError(f"{path} holds no rows, expected at least one. Give a file with data.")
    return table


def _chosen(
    path: Path, present: Sequence[str], required: Sequence[str], optional: Sequence[str]
) -> list[str]:
    """Return the columns to read, each once, or refuse a file in which one is missing or ambiguous."""
    wanted = list(dict.fromkeys([*required, *(name for name in optional if name in present)]))
    for name in wanted:
        if name not in present:
            shown = ", ".join(present[:20]) + (", ..." if len(present) > 20 else "")
            raise DataError(
                f"{path} has no column {name!r}; it holds {shown}.{nearest_name(name, present)} "
                "Add the column, or name the right one."
            )
        if list(present).count(name) > 1:
            raise DataError(f"{path} has column {name!r} more than once. Rename one of them.")
    return wanted


def _read_parquet(path: Path, required: Sequence[str], optional: Sequence[str]) -> Columns:
    with pa.parquet.ParquetFile(path) as file:
        wanted = _chosen(path, file.schema_arrow.names, required, optional)
        table = file.read(columns=wanted)
    return Columns(str(path), {name: table[name] for name in wanted}, row_names(table.num_rows))


def _read_csv(path: Path, required: Sequence[str], optional: Sequence[str]) -> Columns:
    ragged: dict[int, int] = {}

    def note(row: Any) -> str:
        ragged[int(row.number) - 2] = int(row.actual_columns)  # the header is row 1 of the reader
        return "skip"

    parse_options = pa.csv.ParseOptions(newlines_in_values=True, invalid_row_handler=note)
    read_options = pa.csv.ReadOptions(use_threads=False)  # with threads a skipped row has no number
    with pa.csv.open_csv(path, read_options=read_options, parse_options=parse_options) as reader:
        present = reader.schema.names
    wanted = _chosen(path, present, required, optional)
    ragged.clear()
    table = pa.csv.read_csv(
        path,
        read_options=read_options,
        parse_options=parse_options,
        convert_options=pa.csv.ConvertOptions(
            column_types={name: pa.string() for name in present},
            include_columns=wanted,
            null_values=list(NULLS),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        ),
    )
    rows = table.num_rows + len(ragged)
    columns = {name: table[name] for name in wanted}
    if not ragged:
        return Columns(str(path), columns, row_names(rows))
    wrong = np.zeros(rows, dtype=np.bool_)
    wrong[list(ragged)] = True
    # Put the skipped rows back as empty ones, so that every row keeps its number.
    position = pa.array(np.cumsum(~wrong) - 1, mask=wrong)
    result = Columns(
        str(path), {name: column.take(position) for name, column in columns.items()}, row_names(rows)
    )
    result.findings.append(
        Finding("wrong number of fields", wrong, lambda row: f"{ragged[row]} fields", f"{len(present)}")
    )
    return result
