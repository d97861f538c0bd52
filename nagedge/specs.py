"""What a model takes and what it is trained for: plain data, standard library only."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from nagedge.errors import ConfigurationError, nearest_name

__all__ = ["BATCH", "MISSING", "TASK_KIND_NAMES", "LossSpec", "TaskSpec", "TensorSpec"]

BATCH = "batch"
"""The name of the symbolic batch dimension in a :attr:`TensorSpec.shape`."""

TASK_KIND_NAMES = (
    "classification",
    "binary",
    "multilabel",
    "regression",
    "ordinal",
    "quantile",
    "mixture",
    "segmentation",
    "tagging",
    "embedding",
)
"""The task kinds, each implemented by the module of the same name in :mod:`nagedge.tasks`."""

MISSING = -1e30
"""A target number that is not above this one, or is NaN, is no label (in tasks with missing labels)."""

_AXES = {"segmentation": 2, "tagging": 1, "embedding": 1}
_SMALLEST = {"classification": 2, "ordinal": 2, "segmentation": 2, "tagging": 2, "embedding": 2}

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
        name: ``"cross_entropy"``, ``"bce_with_logits"``, ``"mse"``, ``"l1"``, ``"huber"``, ``"cumulative"``,
            ``"pinball"`` or ``"mixture_nll"``.
        label_smoothing: of cross-entropy, in [0, 1].
        class_weights: of cross-entropy, one non-negative weight a class; of BCE, torch's ``pos_weight``.
        ignore_index: of losses on labels, the label that means "no label".
        delta: of Huber, where it turns from quadratic to linear, > 0.
        quantiles: of the pinball loss, one an output, rising, in (0, 1); ``None`` for evenly spaced ones.
        missing: some targets are missing. Of losses on numbers: one that is NaN, or not above :data:`MISSING`, means
            "no label"; of losses on labels it is ``ignore_index``.
    """

    name: str
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None
    ignore_index: int = -100
    delta: float = 1.0
    quantiles: tuple[float, ...] | None = None
    missing: bool = False


@dataclass(frozen=True)
class TaskSpec:
    """One task: the name of its head's output, its kind, size and loss.

    Args:
        name: a Python identifier; the key of the model's output and of the target column.
        kind: one of :data:`TASK_KIND_NAMES`.
        size: classes, labels or outputs, >= 1 (>= 2 where it counts classes, 1 for binary); of a quantile task the
            quantiles, of a mixture its components.
        loss: a loss name, a :class:`LossSpec` for its options, or ``None`` for the kind's usual loss.
        weight: factor of this task's loss in the total, >= 0.
        unit: the physical unit of a regression target, for reports.
        shape: of a segmentation, height and width of the labels; of a tagging, their number; of an embedding, its
            dimension; else empty.

    Raises:
        ConfigurationError: for a value outside these ranges.
    """

    name: str
    kind: str
    size: int
    loss: str | LossSpec | None
    weight: float
    unit: str
    shape: tuple[int, ...]

    def __init__(
        self,
        name: str,
        kind: str,
        *,
        size: int,
        loss: str | LossSpec | None = None,
        weight: float = 1.0,
        unit: str = "",
        shape: Sequence[int] = (),
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
        smallest = _SMALLEST.get(kind, 1)
        if size < smallest or (kind == "binary" and size != 1):
            expected = "exactly 1" if kind == "binary" else f"at least {smallest}"
            raise ConfigurationError(f"task {name!r}: size is {size}, a {kind} task needs {expected}.")
        axes = _AXES.get(kind, 0)
        if len(shape) != axes or any(extent < 1 for extent in shape):
            what = f"{axes} whole numbers >= 1" if axes else "none"
            raise ConfigurationError(
                f"task {name!r}: shape is {list(shape)}, a {kind} task needs {what}"
                + {1: ", for example [32]", 2: ", height and width of its labels"}.get(axes, "")
                + "."
            )
        if not (math.isfinite(weight) and weight >= 0):
            raise ConfigurationError(f"task {name!r}: weight is {weight}, expected a finite number >= 0.")
        for field, value in {
            "name": name, "kind": kind, "size": size, "loss": loss, "weight": float(weight), "unit": unit,
            "shape": tuple(shape),
        }.items():  # fmt: skip
            object.__setattr__(self, field, value)
