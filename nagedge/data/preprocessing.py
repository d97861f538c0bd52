"""Declared preprocessing: a list of steps that any device can repeat, computed here with numpy alone.

Every step works in float32, in the order in which it is listed, so that a second implementation (in Kotlin,
say) that follows the formulas below gives the same numbers up to the last bit or two of float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from nagedge.data.log_mel import LogMel
from nagedge.data.resize import resize_bilinear
from nagedge.data.tokens import Tokenise
from nagedge.errors import DataError

__all__ = [
    "DataLayout",
    "FillMissing",
    "Normalise",
    "Preprocessing",
    "Resize",
    "Scale",
    "StandardiseTarget",
    "Step",
]

Array = npt.NDArray[Any]


def _over_axis_1(values: Sequence[float], array: Array) -> npt.NDArray[np.float32]:
    """Shape per-channel values (one for all, or one an entry of axis 1) to broadcast over ``array``."""
    shape = [1] * array.ndim
    if len(values) > 1:
        if array.ndim < 2 or array.shape[1] != len(values):
            raise DataError(
                f"preprocessing has {len(values)} values for axis 1, the input has shape "
                f"{list(array.shape)}: use data of the shape that the model was trained on."
            )
        shape[1] = len(values)
    return np.asarray(values, dtype=np.float32).reshape(shape)


@dataclass(frozen=True)
class FillMissing:
    """``x = value where x is NaN``; ``value`` has one entry for all, or one for each entry of axis 1."""

    kind: ClassVar[str] = "fill_missing"
    value: tuple[float, ...]

    def apply(self, x: Array) -> Array:
        """Return a copy of float32 ``x [n, ...]`` without NaN."""
        return np.where(np.isnan(x), _over_axis_1(self.value, x), x)


@dataclass(frozen=True)
class Resize:
    """Bilinear resize of ``[n, channels, h, w]`` to ``height`` by ``width``: :mod:`nagedge.data.resize`."""

    kind: ClassVar[str] = "resize"
    height: int
    width: int

    def apply(self, x: Array) -> Array:
        """Return float32 ``[n, channels, height, width]``."""
        return resize_bilinear(x, self.height, self.width)


@dataclass(frozen=True)
class Scale:
    """``x = x * factor``."""

    kind: ClassVar[str] = "scale"
    factor: float

    def apply(self, x: Array) -> Array:
        """Return float32, the shape of ``x``."""
        return x * np.float32(self.factor)


@dataclass(frozen=True)
class Normalise:
    """``x = (x - mean) / std``; each has one entry for all, or one for each channel or feature (axis 1)."""

    kind: ClassVar[str] = "normalise"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def apply(self, x: Array) -> Array:
        """Return float32, the shape of ``x``."""
        return (x - _over_axis_1(self.mean, x)) / _over_axis_1(self.std, x)


Step = FillMissing | Resize | Scale | Normalise | Tokenise | LogMel

_STEPS: dict[str, Callable[..., Step]] = {
    step.kind: step for step in (FillMissing, Resize, Scale, Normalise, Tokenise, LogMel)
}


@dataclass(frozen=True)
class StandardiseTarget:
    """A task on numbers is trained on ``(target - mean) / std``; one entry for each of its outputs.

    Args:
        mean, std: of the training targets.
        components: of a mixture task; its outputs are logits, means and logarithms of scales, each of this length.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    components: int = 0

    def apply(self, target: Array) -> npt.NDArray[np.float32]:
        """Return the float32 target that the model learns, from one in the task's unit."""
        mean, std = (_over_axis_1(values, target) for values in (self.mean, self.std))
        return ((target.astype(np.float32) - mean) / std).astype(np.float32)

    def invert(self, output: Array) -> npt.NDArray[np.float32]:
        """Return the float32 value in the task's unit, from a model's output: ``output * std + mean``.

        Of a mixture's outputs the means are taken there, and ``log(std)`` is added to the logarithms of the scales.
        """
        if self.components and output.ndim == 2:
            logits, means, log_scales = np.split(output.astype(np.float32), 3, axis=1)
            moved = means * self.std[0] + self.mean[0], log_scales + math.log(self.std[0])
            return np.concatenate([logits, *moved], axis=1).astype(np.float32)
        mean, std = (_over_axis_1(values, output) for values in (self.mean, self.std))
        return (output.astype(np.float32) * std + mean).astype(np.float32)


@dataclass(frozen=True)
class DataLayout:
    """Under which names a file of new examples holds its values: that of the training data.

    Args:
        columns: the input columns of a table, in the model's order; empty for other sources.
        targets: task name -> its column, array, or columns; a task that is not named uses its own name.
        classes: task name -> its class names, in label order, where they are known.
        colour: ``"greyscale"`` or ``"rgb"`` for image files, else ``""``.
        labels: name of the labels CSV of a folder of images or sounds; ``""`` for a folder a class.
        seconds: length of a sound; 0 for other inputs.
    """

    columns: tuple[str, ...] = ()
    targets: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    colour: str = ""
    labels: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Preprocessing:
    """What is done to the raw values of one input, and to the targets of regression tasks.

    Args:
        input: name of the input the steps apply to; other inputs pass unchanged.
        steps: applied in this order. int64 inputs (token ids) have none.
        targets: task name -> standardisation; a task that is not named is trained on its raw values.
        layout: names of columns, arrays and classes in the data files.
    """

    input: str
    steps: tuple[Step, ...] = ()
    targets: Mapping[str, StandardiseTarget] = field(default_factory=dict)
    layout: DataLayout = field(default_factory=DataLayout)

    @property
    def vocabulary(self) -> int:
        """How many token ids there are; 0 where the input is no text."""
        return next((step.vocabulary for step in self.steps if isinstance(step, Tokenise)), 0)

    def apply(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return the inputs as the model takes them, from raw ``[n, ...]`` arrays of any real dtype."""
        return {name: self.apply_array(x) if name == self.input else x for name, x in inputs.items()}

    def apply_array(self, x: Array) -> Array:
        """Return the preprocessed input; texts become ids, and int64 stays as it is when there is no step."""
        if self.steps and isinstance(self.steps[0], Tokenise):
            return self.steps[0].apply(x)
        if not self.steps and x.dtype == np.int64:
            return x
        x = x.astype(np.float32)
        for step in self.steps:
            x = step.apply(x)
        return np.ascontiguousarray(x, dtype=np.float32)

    def apply_targets(self, targets: Mapping[str, Array]) -> dict[str, Array]:
        """Return the targets that the model learns, from targets in the tasks' units."""
        return {
            task: self.targets[task].apply(target) if task in self.targets else target
            for task, target in targets.items()
        }

    def invert_outputs(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Return outputs in the tasks' units, from a model's outputs ``[n]`` or ``[n, size]``."""
        return {
            task: self.targets[task].invert(output) if task in self.targets else output
            for task, output in outputs.items()
        }

    def to_json(self) -> dict[str, Any]:
        """Return plain lists, strings and numbers for ``json.dump``; :meth:`from_json` reads them back."""
        return {
            "input": self.input,
            "steps": [
                {"step": step.kind, **{f.name: _plain(getattr(step, f.name)) for f in fields(step) if f.init}}
                for step in self.steps
            ],
            "targets": {
                task: {
                    "mean": list(step.mean),
                    "std": list(step.std),
                    **({"components": step.components} if step.components else {}),
                }
                for task, step in self.targets.items()
            },
            "layout": {
                "columns": list(self.layout.columns),
                "targets": {task: _plain(names) for task, names in self.layout.targets.items()},
                "classes": {task: list(names) for task, names in self.layout.classes.items()},
                "colour": self.layout.colour,
                "labels": self.layout.labels,
                **({"seconds": self.layout.seconds} if self.layout.seconds else {}),
            },
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Preprocessing:
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: for an unknown step or a field that is missing, unknown or of the wrong type.
        """
        try:
            layout = document["layout"]
            return cls(
                input=str(document["input"]),
                steps=tuple(_step_from_json(entry) for entry in document["steps"]),
                targets={
                    task: StandardiseTarget(
                        _floats(entry["mean"]), _floats(entry["std"]), int(entry.get("components", 0))
                    )
                    for task, entry in document["targets"].items()
                },
                layout=DataLayout(
                    columns=tuple(layout["columns"]),
                    targets={
                        task: names if isinstance(names, str) else tuple(names)
                        for task, names in layout["targets"].items()
                    },
                    classes={task: tuple(names) for task, names in layout["classes"].items()},
                    colour=str(layout["colour"]),
                    labels=str(layout["labels"]),
                    seconds=float(layout.get("seconds", 0.0)),
                ),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(
                f"preprocessing cannot be read ({type(error).__name__}: {error}): expected the object that "
                "Preprocessing.to_json() writes. Export the model again."
            ) from None


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _step_from_json(entry: Mapping[str, Any]) -> Step:
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    kind = values.pop("step")
    if kind not in _STEPS:
        raise DataError(
            f"preprocessing holds an unknown step {kind!r}, expected one of {', '.join(_STEPS)}: "
            "it was written by a newer version; use that version, or export the model again."
        )
    return _STEPS[kind](**values)
