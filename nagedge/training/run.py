"""The run file: one TOML file that says everything about a training run."""

from __future__ import annotations

import inspect
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails

from nagedge.data.config import DataConfig
from nagedge.errors import ConfigurationError, nearest_name
from nagedge.models.config import ModelConfig
from nagedge.specs import LossSpec, TaskSpec
from nagedge.training.balancing.config import BalancingConfig
from nagedge.training.optimizer_config import OptimizerConfig

__all__ = [
    "RUN_TEMPLATE",
    "BalancingConfig",
    "OptimizerConfig",
    "Run",
    "ScheduleConfig",
    "TaskConfig",
    "load_run",
    "parse_run",
    "run_json_schema",
]


class _Table(BaseModel):
    # nan and inf are valid TOML numbers; no number of a run file may be one
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class TaskConfig(_Table):
    """One ``[tasks.NAME]`` table."""

    kind: str = Field(
        description="'classification', 'binary', 'multilabel', 'regression', 'ordinal', 'quantile', 'mixture', "
        "'segmentation', 'tagging' or 'embedding'."
    )
    size: int = Field(
        default=1,
        description="Classes, labels or outputs; 1 for a binary task; quantiles of 'quantile', components of "
        "'mixture'.",
    )
    shape: list[int] = Field(
        default_factory=list,
        description="Of 'segmentation': height and width of the labels; of 'tagging': steps; of 'embedding': its "
        "dimension.",
    )
    loss: str | None = Field(
        default=None,
        description="'cross_entropy' (classification), 'bce_with_logits' (binary, multilabel), 'mse', 'l1' or "
        "'huber' (regression); left out: the first that fits, mse for regression. The other kinds have one loss.",
    )
    weight: float = Field(default=1.0, ge=0, description="Factor of this task's loss in the total.")
    unit: str = Field(default="", description="Physical unit of a regression target, for reports.")
    label_smoothing: float = Field(default=0.0, ge=0, le=1, description="Of cross_entropy.")
    class_weights: list[float] | None = Field(
        default=None,
        description="Of cross_entropy, one a class; of bce_with_logits, the weight of positives.",
    )
    ignore_index: int = Field(
        default=-100, description="Of cross_entropy and cumulative: the label that means 'no label'."
    )
    missing: bool = Field(
        default=False,
        description="Some rows have no target for this task (empty, NaN): they train and measure the other tasks.",
    )
    quantiles: list[float] | None = Field(
        default=None,
        description="Of pinball: the quantiles, rising; left out: evenly spaced, as many as size.",
    )
    delta: float = Field(default=1.0, gt=0, description="Of huber: where it turns from quadratic to linear.")

    def spec(self, name: str) -> TaskSpec:
        """Return the task; raises ConfigurationError for what does not fit its kind."""
        from nagedge.tasks import TASK_KINDS, loss_spec

        keywords: dict[str, Any] = {"size": self.size, "unit": self.unit, "shape": self.shape}
        plain = TaskSpec(name, self.kind, weight=self.weight, **keywords)
        loss = LossSpec(
            self.loss or TASK_KINDS[self.kind].default_loss,
            label_smoothing=self.label_smoothing,
            class_weights=None if self.class_weights is None else tuple(self.class_weights),
            ignore_index=self.ignore_index,
            delta=self.delta,
            quantiles=None if self.quantiles is None else tuple(self.quantiles),
            missing=self.missing,
        )
        task = TaskSpec(name, self.kind, loss=loss, weight=plain.weight, **keywords)
        loss_spec(task)
        return task


class ScheduleConfig(_Table):
    """Linear warm-up, then a cosine to zero."""

    epochs: int = Field(default=10, ge=1, description="Passes over the training examples.")
    warmup: float = Field(default=0.0, ge=0, description="Epochs of linear warm-up, fractions allowed.")

    @model_validator(mode="after")
    def _warmup_ends(self) -> ScheduleConfig:
        if self.warmup >= self.epochs:
            raise ValueError(f"warmup is {self.warmup:g} epochs of {self.epochs}, expected fewer than epochs")
        return self


class Run(_Table):
    """A training run: data, model, tasks, optimizer, schedule."""

    data: DataConfig
    model: ModelConfig = Field(default_factory=ModelConfig)
    tasks: dict[str, TaskConfig] = Field(min_length=1, description="One table a task, by name.")
    optimizer: OptimizerConfig = Field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = Field(default_factory=ScheduleConfig)
    balancing: BalancingConfig = Field(default_factory=BalancingConfig)
    batch_size: int = Field(default=64, ge=1, description="Examples a step, over all devices together.")
    seed: int = Field(
        default=0, ge=0, lt=2**63, description="Of the initial weights and the order of the data."
    )
    output: Path = Field(default=Path("checkpoint"), description="Folder of the checkpoint.")
    checkpoint_steps: int = Field(
        default=0,
        ge=0,
        description="Also write the checkpoint every so many steps; 0: after each epoch only.",
    )

    @field_validator("tasks")
    @classmethod
    def _tasks_fit(cls, value: dict[str, TaskConfig]) -> dict[str, TaskConfig]:
        for name, task in value.items():
            try:
                task.spec(name)
            except ConfigurationError as error:
                raise ValueError(str(error)) from None
        return value

    def task_specs(self) -> tuple[TaskSpec, ...]:
        """Return the tasks in the order of the file."""
        return tuple(task.spec(name) for name, task in self.tasks.items())

    def in_folder(self, folder: Path) -> Run:
        """Return the run with its relative paths taken from ``folder`` and made absolute."""
        folder = folder.resolve()
        return self.model_copy(update={"data": self.data.in_folder(folder), "output": folder / self.output})


def load_run(path: str | Path) -> Run:
    """Read a run file (TOML, UTF-8); relative paths in it are relative to its folder.

    Raises:
        ConfigurationError: the file cannot be read, is no TOML, or holds a key or a value that is not known.
    """
    path = Path(path)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(
            f"run file {str(path)!r} cannot be read: {error.strerror}. Write one with: nagedge init."
        ) from None
    except UnicodeDecodeError:
        raise ConfigurationError(
            f"run file {str(path)!r} is not a text file in UTF-8, expected TOML."
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigurationError(f"run file {str(path)!r} is not valid TOML: {error}.") from None
    return parse_run(document, where=f"run file {str(path)!r}").in_folder(path.parent)


def parse_run(document: Mapping[str, object], *, where: str) -> Run:
    """Check the content of a run file; ``where`` names it in the one error that lists everything wrong.

    Raises:
        ConfigurationError: unknown keys (with the nearest valid name), missing keys, wrong types and values.
    """
    try:
        return Run.model_validate(document)
    except ValidationError as error:
        problems = [_problem(detail) for detail in error.errors(include_url=False)]
        raise ConfigurationError(
            "\n  ".join([f"{where}:", *problems] if problems[1:] else [f"{where}: {problems[0]}"])
        ) from None


def _problem(detail: ErrorDetails) -> str:
    location = detail["loc"]
    key = ".".join(str(part) for part in location if _is_key(part))
    if detail["type"] == "extra_forbidden":
        known = _keys_at(Run, location[:-1])
        hint = nearest_name(str(location[-1]), known) or f" Known here: {', '.join(known)}."
        return f"unknown key {key!r}.{hint}"
    if detail["type"] == "missing":
        return f"key {key!r} is missing. Add it."
    text = detail["msg"].removeprefix("Value error, ")
    if detail["type"] == "value_error":
        return f"{key}: {text}" if key and not text.startswith("task ") else text
    return f"{key} is {detail['input']!r}: {text[0].lower()}{text[1:]}."


def _is_key(part: int | str) -> bool:
    """Tell keys of the file from the names of union members that pydantic puts between them."""
    return isinstance(part, int) or not ("[" in part or part[:1].isupper() or part in {"float", "str", "int"})


def _keys_at(table: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    """Return the keys that are valid at a location of a run file."""
    for part in location:
        field = table.model_fields.get(str(part))
        inner = _tables(field.annotation) if field else []
        table = inner[0] if inner else table
    return list(table.model_fields)


def _tables(annotation: object) -> list[type[BaseModel]]:
    """Return the table classes in an annotation such as ``Table``, ``dict[str, Table]`` or ``Table | str``."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return [annotation]
    return [table for argument in typing.get_args(annotation) for table in _tables(argument)]


def run_json_schema() -> dict[str, JsonValue]:
    """Return the JSON Schema of a run file, for editors (draft 2020-12)."""
    schema: dict[str, Any] = Run.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "NagEdge run file"}


RUN_TEMPLATE = """\
# A NagEdge run: `nagedge train THIS_FILE`. Relative paths are relative to this file.

output = "checkpoint"       # folder of the checkpoint
batch_size = 64             # examples a step
seed = 0                    # of the initial weights and the order of the data
# checkpoint_steps = 200    # also write the checkpoint every so many steps, not only after each epoch

[data]
source = "mnist"            # 5,000 handwritten digits, built in. Or "arrays" (.npz), "table" (CSV, Parquet)
                            # or "images" (a folder), with a path:
# path = "examples.npz"
standardise = true          # regression targets are trained as (target - mean) / std

[data.preprocessing]        # stored in the bundle: a device repeats it
scale = 0.00392156862745098 # 1/255: pixels to [0, 1]
normalise = "train"         # mean and standard deviation of the training examples

[model]
trunk = "cnn"               # "cnn", "mlp", "timm:NAME" or "package.module:factory"
channels = [16, 32, 64]     # of the convolutions of "cnn"

[tasks.digit]
kind = "classification"     # "classification", "binary", "multilabel" or "regression"
size = 10                   # classes, labels or outputs
# label_smoothing = 0.1
# class_weights = [1, 1, 1, 1, 1, 1, 1, 1, 2, 2]

[tasks.slant]
kind = "regression"
loss = "huber"              # "mse", "l1" or "huber"
unit = "degrees"
weight = 0.5                # factor of this loss in the total

[tasks.stroke_mass]
kind = "regression"
weight = 0.5

[optimizer]                 # SGD with Nesterov momentum
lr = 0.05
momentum = 0.9
weight_decay = 5e-4         # not of norms and biases
clip_norm = 5.0             # largest norm of the gradient

# [balancing]               # how the losses share the trunk; without it: their weighted sum
# method = "imtl_g"

[schedule]                  # linear warm-up, then a cosine to zero
epochs = 15
warmup = 0.5                # epochs
"""
