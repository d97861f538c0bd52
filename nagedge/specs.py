"""What a model takes and what it is trained for: plain data, standard library only."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from nagedge.errors import ConfigurationError, nearest_name

__all__ = ["BATCH", "TASK_KIND_NAMES", "LossSpec", "TaskSpec", "TensorSpec"]

BATCH = "batch"
"""The name of the symbolic batch dimension in a :attr:`TensorSpec.shape`."""

TASK_KIND_NAMES = ("classification", "binary", "multilabel", "regression")
"""The task kinds, each implemented by the module of the same name in :mod:`nagedge.tasks`."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class TensorSpec:
    """Name, dtype and shape of one tensor at the border of a graph.

    Args:
        name: the tensor's name in every artifact.
        dtype: a numpy dtype name, for example ``"float32"``.
        shape: sizes; :data:`BATCH` stands for the symbolic batch dimension.
        unit: the physical unit of the values, where there is one (``"degrees"``).
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    unit: str = ""


@dataclass(frozen=True)
class LossSpec:
    """A loss by name with its options; the defaults are torch's.

    Args:
        name: ``"cross_entropy"``, ``"bce_with_logits"``, ``"mse"``, ``"l1"`` or ``"huber"``.
        label_smoothing: of cross-entropy, in [0, 1].
        class_weights: of cross-entropy, one non-negative weight a class; of BCE, torch's ``pos_weight``.
        ignore_index: of cross-entropy, the label that means "no label".
        delta: of Huber, where it turns from quadratic to linear, > 0.
    """

    name: str
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    ignore_index: int = -100
    delta: float = 1.0


@dataclass(frozen=True)
class TaskSpec:
    """One task: the name of its head's output, its kind, size and loss.

    Args:
        name: a Python identifier; the key of the model's output and of the target column.
        kind: one of :data:`TASK_KIND_NAMES`.
        size: classes, labels or outputs, >= 1 (>= 2 for classification, 1 for binary).
        loss: a loss name, a :class:`LossSpec` for its options, or ``None`` for the kind's usual loss.
        weight: factor of this task's loss in the total, >= 0.
        unit: the physical unit of a regression target, for reports.

    Raises:
        ConfigurationError: for a value outside these ranges.
    """

    name: str
    kind: str
    size: int
    loss: str | LossSpec | None
    weight: float
    unit: str

    def __init__(
        self,
        name: str,
        kind: str,
        *,
        size: int,
        loss: str | LossSpec | None = None,
        weight: float = 1.0,
        unit: str = "",
    ) -> None:
        if not _NAME.fullmatch(name):
            raise ConfigurationError(
                f"task name {name!r} is not an identifier: use letters, digits and underscores, for example "
                "'digit'."
            )
        if kind not in TASK_KIND_NAMES:
            raise ConfigurationError(
                f"task {name!r}: unknown kind {kind!r}; expected one of {', '.join(TASK_KIND_NAMES)}."
                + nearest_name(kind, TASK_KIND_NAMES)
            )
        smallest = 2 if kind == "classification" else 1
        if size < smallest or (kind == "binary" and size != 1):
            expected = "exactly 1" if kind == "binary" else f"at least {smallest}"
            raise ConfigurationError(f"task {name!r}: size is {size}, a {kind} task needs {expected}.")
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigurationError(f"task {name!r}: weight is {weight}, expected a finite number >= 0.")
        for field, value in {
            "name": name, "kind": kind, "size": size, "loss": loss, "weight": float(weight), "unit": unit,
        }.items():  # fmt: skip
            object.__setattr__(self, field, value)
