"""Rows as a source holds them, before any preprocessing, and the checks that every source shares."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.data.cleaning import CleaningReport, Finding, drop_rows
from nagedge.errors import DataError
from nagedge.specs import TaskSpec
from nagedge.tasks import TASK_KINDS, check_targets, target_spec
from nagedge.tasks.kind import allows_missing
from nagedge.tasks.losses import ignored_label

__all__ = ["RawExamples", "clean", "fitted_target", "row_names"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class RawExamples:
    """n rows of a source.

    Args:
        source: the file or folder, for texts.
        input: float32 ``[n, ...]`` with NaN for a missing value, or int64 ``[n, ...]``.
        targets: task name -> float64 ``[n]`` or ``[n, size]`` with NaN for a missing value.
        sample_weight: float64 ``[n]``, or ``None``.
        names: n names of rows for texts.
        columns: names of the input's columns, where it has them.
        findings: faults that only the reader of the source can see.
    """

    source: str
    input: Array
    targets: dict[str, Array]
    sample_weight: Array | None
    names: Sequence[str]
    columns: Sequence[str] = ()
    findings: tuple[Finding, ...] = field(default=())


def row_names(count: int) -> tuple[str, ...]:
    """Return ``"row 1"`` .. ``"row <count>"``."""
    return tuple(f"row {row}" for row in range(1, count + 1))


def clean(
    raw: RawExamples,
    tasks: Sequence[TaskSpec],
    *,
    missing: str | float,
    bad_rows: str,
    remedy: str,
    duplicates: str = "keep",
    allow_none: bool = False,
) -> tuple[RawExamples, CleaningReport]:
    """Return the usable rows, targets in the dtype and shape of their task, and what became of the others.

    Args:
        raw: what a source read.
        tasks: each has an entry in ``raw.targets``.
        missing: ``"error"``, ``"drop"``; with ``"mean"`` or a number missing inputs stay, as NaN.
        bad_rows: ``"error"`` or ``"drop"``.
        remedy: ends the text of an error about a row.
        allow_none: whether no usable row is fine: the rows are a piece of a source.
        duplicates: ``"keep"``, or ``"drop"`` for rows with the input and the targets of one before.

    Raises:
        DataError: as :func:`nagedge.data.cleaning.drop_rows`, and for a source without rows.
    """
    if len(raw.names) == 0:
        raise DataError(f"{raw.source} holds no rows, expected at least one. Give a file with data.")
    findings = [*raw.findings, *_input_findings(raw, keep_missing=missing not in ("error", "drop"))]
    for task in tasks:
        findings += _target_findings(task, raw.targets[task.name])
    findings += _weight_findings(raw.sample_weight)
    if duplicates == "drop":
        findings.append(_duplicates(raw))
    keep, report = drop_rows(
        findings,
        source=raw.source,
        row_names=raw.names,
        missing=str(missing),
        bad_rows=bad_rows,
        remedy=remedy,
        allow_none=allow_none,
    )
    targets = {task.name: _as_task_dtype(task, raw.targets[task.name][keep], raw.source) for task in tasks}
    kept = RawExamples(
        source=raw.source,
        input=raw.input[keep],
        targets=targets,
        sample_weight=None if raw.sample_weight is None else raw.sample_weight[keep],
        names=tuple(name for name, used in zip(raw.names, keep, strict=True) if used),
    )
    filled = int(np.isnan(kept.input).sum()) if kept.input.dtype.kind == "f" else 0
    return kept, replace(report, filled_values=filled)


def fitted_target(task: TaskSpec, values: Array, where: str) -> Array:
    """Return real ``values`` as float64 in the shape of the task's targets; ``[n]`` and ``[n, 1]`` are one.

    Raises:
        DataError: for another shape, or values that are not numbers.
    """
    shape = tuple(size for size in target_spec(task).shape[1:] if isinstance(size, int))
    if values.dtype.kind not in "biuf":
        raise DataError(
            f"{where}: targets of task {task.name!r} have dtype {values.dtype}, expected numbers. "
            "Convert them to numbers."
        )
    if values.ndim >= 1 and (values.shape[1:] == shape or {values.shape[1:], shape} == {(), (1,)}):
        return values.astype(np.float64).reshape(len(values), *shape)
    expected = "[n" + "".join(f", {size}" for size in shape) + "]"
    raise DataError(
        f"{where}: targets of {task.kind} task {task.name!r} have shape {list(values.shape)}, "
        f"expected {expected} for size {task.size}. Give one row a sample, or change the task's size."
    )


def _input_findings(raw: RawExamples, *, keep_missing: bool) -> list[Finding]:
    if raw.input.dtype.kind != "f":
        return []
    flat = raw.input.reshape(len(raw.input), -1)
    infinite, missing = np.isinf(flat), np.isnan(flat)

    def place(wrong: npt.NDArray[np.bool_]) -> str:
        position = int(np.argmax(wrong))
        return f"in column {raw.columns[position]!r}" if raw.columns else f"at position {position}"

    findings = [
        Finding(
            "infinite input value",
            _any_in_row(infinite),
            lambda row: f"{flat[row][infinite[row]][0]:g} {place(infinite[row])}",
            "finite float32 numbers",
        )
    ]
    if not keep_missing:
        findings.append(
            Finding(
                "missing input value",
                _any_in_row(missing),
                lambda row: f"NaN or nothing {place(missing[row])}",
                "a number",
                missing_input=True,
            )
        )
    return findings


def _duplicates(raw: RawExamples) -> Finding:
    """Return the rows whose input and targets are those of an earlier row, bit by bit."""
    first: dict[tuple[bytes, ...], int] = {}
    earlier = np.full(len(raw.names), -1)
    for row in range(len(raw.names)):
        value = raw.input[row]
        key = str(value).encode() if raw.input.dtype.kind == "O" else value.tobytes()
        earlier[row] = first.setdefault(
            (key, *(target[row].tobytes() for target in raw.targets.values())), row
        )
    return Finding(
        "duplicate",
        earlier != np.arange(len(earlier)),
        lambda row: f"the values of {raw.names[earlier[row]]}",
        "a row of its own",
        harmless=True,
    )


def _any_in_row(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    return np.asarray(mask.any(axis=1), dtype=np.bool_)


def _target_findings(task: TaskSpec, values: Array) -> list[Finding]:
    """Return the rows whose target is missing, infinite or out of the task's range."""
    flat = values.reshape(len(values), -1)
    name = f"target {task.name!r}"

    def got(wrong: npt.NDArray[np.bool_]) -> Any:
        return lambda row: f"{flat[row][wrong[row]][0]:.9g}"

    def finding(what: str, wrong: npt.NDArray[np.bool_], expected: str) -> Finding:
        return Finding(f"{name} {what}", _any_in_row(wrong), got(wrong), expected)

    missing = np.isnan(flat)
    findings = [] if allows_missing(task) else [finding("is missing", missing, "a value in every row")]
    present = np.where(missing, 0.0, flat)
    answers = TASK_KINDS[task.kind].answers
    if answers == "labels":
        labels = f"a whole number from 0 to {task.size - 1}"
        outside = (present < 0) | (present >= task.size) | (present != np.floor(present))
        findings.append(finding("is out of range", outside & (present != ignored_label(task)), labels))
    elif answers == "probabilities":
        findings.append(finding("is out of range", (present < 0) | (present > 1), "a number from 0 to 1"))
    else:
        limit = np.finfo(np.float32).max
        findings.append(finding("is infinite", np.abs(present) > limit, "a finite float32 number"))
    return findings


def _weight_findings(weights: Array | None) -> list[Finding]:
    if weights is None:
        return []
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    return [Finding("sample weight", wrong, lambda row: f"{weights[row]:g}", "a finite number >= 0")]


def _as_task_dtype(task: TaskSpec, values: Array, source: str) -> Array:
    spec = target_spec(task)
    if spec.dtype == "int64":
        values = np.where(np.isnan(values), ignored_label(task), values)
    target = values.astype(spec.dtype)
    check_targets(task, target, source)
    return target
