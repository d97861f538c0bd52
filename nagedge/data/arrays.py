"""Arrays: a numpy ``.npz`` archive with one array an input and one a task."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.data.raw import RawExamples, fitted_target, row_names
from nagedge.errors import DataError, nearest_name
from nagedge.specs import TaskSpec

__all__ = ["examples_from_arrays", "read_arrays", "read_npz"]

Array = npt.NDArray[Any]

# What zipfile and numpy raise for archives with damaged bytes, as found by flipping each of them.
_DAMAGED = (
    ArithmeticError,
    EOFError,
    LookupError,
    MemoryError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


def read_npz(path: Path) -> dict[str, Array]:
    """Return every array of an ``.npz`` file; pickled objects are never loaded.

    Raises:
        DataError: the file is missing, no ``.npz``, truncated, or holds Python objects.
    """
    if not path.is_file():
        raise DataError(f"{path} is not a file, expected a .npz archive of numpy arrays. Check the path.")
    if path.stat().st_size == 0:
        raise DataError(
            f"{path} is empty (0 bytes), expected a .npz archive of numpy arrays. Write it again."
        )
    if not zipfile.is_zipfile(path):
        raise DataError(
            f"{path} is not a complete .npz archive, expected a file written by numpy.savez. "
            "It is truncated or of another kind: write it again."
        )
    arrays: dict[str, Array] = {}
    name = ""
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                arrays[name] = archive[name]
                if not isinstance(arrays[name], np.ndarray):  # numpy hands out other members as bytes
                    raise TypeError("no numpy array")
    except _DAMAGED as error:
        where = f"{path}, array {name!r}" if name else str(path)
        if "allow_pickle" in str(error):
            raise DataError(
                f"{where} holds Python objects, expected numbers; objects are not loaded because a "
                "pickle can run code. Save the array with a numeric dtype."
            ) from None
        raise DataError(
            f"{where} cannot be read ({error}): expected an array written by numpy.savez. The file is "
            "damaged: write it again."
        ) from None
    return arrays


def read_arrays(
    path: Path,
    tasks: Sequence[TaskSpec],
    *,
    input_name: str,
    dtype: str = "float32",
    targets: Mapping[str, str | Sequence[str]] | None = None,
    sample_weight: str | None = None,
) -> RawExamples:
    """Read an ``.npz`` file; see :func:`examples_from_arrays`.

    Raises:
        DataError: a file that cannot be read, a missing array, lengths, shapes or dtypes that do not fit.
    """
    return examples_from_arrays(
        str(path),
        read_npz(path),
        tasks,
        input_name=input_name,
        dtype=dtype,
        targets=targets,
        sample_weight=sample_weight,
    )


def examples_from_arrays(
    source: str,
    arrays: Mapping[str, Array],
    tasks: Sequence[TaskSpec],
    *,
    input_name: str,
    dtype: str = "float32",
    targets: Mapping[str, str | Sequence[str]] | None = None,
    sample_weight: str | None = None,
) -> RawExamples:
    """Return raw examples from named arrays with the rows on axis 0.

    Args:
        source: what the arrays came from, for texts.
        arrays: by name; those that nothing refers to are ignored.
        tasks: what is read.
        input_name: the input's array, ``[n, ...]``, bool, integer or floating.
        dtype: ``"float32"``, or ``"int64"`` for token ids, which must then be integers.
        targets: task name -> its array, or arrays ``[n]``, its columns; else the array of the task's name.
        sample_weight: the array of per-sample weights ``[n]``.

    Raises:
        DataError: a missing array, lengths, shapes or dtypes that do not fit.
    """
    values = _array(source, arrays, input_name, "the input")
    accepted = "biu" if dtype == "int64" else "biuf"
    if values.dtype.kind not in accepted:
        expected = "integers" if dtype == "int64" else "numbers"
        raise DataError(
            f"{source}, array {input_name!r} has dtype {values.dtype}, expected {expected}. "
            "Convert the array."
        )
    if values.ndim == 0:
        raise DataError(f"{source}, array {input_name!r} is a single value, expected one row a sample.")
    if values.ndim > 1 and 0 in values.shape[1:]:
        raise DataError(
            f"{source}, array {input_name!r} has shape {list(values.shape)}, expected sizes of at least 1. "
            "Write the array again."
        )
    raw_targets = {}
    for task in tasks:
        names = (targets or {}).get(task.name, task.name)
        raw_targets[task.name] = _target(source, arrays, task, names, len(values))
    weights = None
    if sample_weight is not None:
        weights = _array(source, arrays, sample_weight, "the sample weight")
        if weights.dtype.kind not in "biuf" or weights.shape != (len(values),):
            raise DataError(
                f"{source}, array {sample_weight!r} has dtype {weights.dtype} and shape "
                f"{list(weights.shape)}, expected numbers of shape [{len(values)}], one weight a row."
            )
        weights = weights.astype(np.float64)
    with np.errstate(
        over="ignore"
    ):  # a value beyond float32 becomes infinite, and is then reported with its row
        converted = values.astype(dtype)
    return RawExamples(source, converted, raw_targets, weights, row_names(len(values)))


def _target(
    source: str, arrays: Mapping[str, Array], task: TaskSpec, names: str | Sequence[str], rows: int
) -> Array:
    parts = [names] if isinstance(names, str) else list(names)
    columns = []
    for name in parts:
        column = _array(source, arrays, name, f"the target of task {task.name!r}")
        if column.ndim == 0 or len(column) != rows:
            raise DataError(
                f"{source}, array {name!r} has shape {list(column.shape)}, expected {rows} rows, as many as "
                "the input has. Write both from the same samples."
            )
        columns.append(column)
    if isinstance(names, str):
        return fitted_target(task, columns[0], f"{source}, array {names!r}")
    for name, column in zip(parts, columns, strict=True):
        if column.ndim != 1:
            raise DataError(
                f"{source}, array {name!r} has shape {list(column.shape)}, expected [n]: it is one of the "
                f"columns of task {task.name!r}."
            )
    return fitted_target(task, np.stack(columns, axis=1), f"{source}, arrays {parts}")


def _array(source: str, arrays: Mapping[str, Array], name: str, role: str) -> Array:
    if name not in arrays:
        raise DataError(
            f"{source} has no array {name!r} for {role}; it holds {', '.join(sorted(arrays)) or 'none'}."
            f"{nearest_name(name, arrays)} Add the array, or name the right one."
        )
    return arrays[name]
