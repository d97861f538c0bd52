"""The manifest of a bundle: its contract with every client, as checked data.

The JSON Schema in the documentation is generated from these classes.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nagedge.specs import LossSpec, TaskSpec, TensorSpec
from nagedge.step_rules import StepRules

__all__ = [
    "SCHEMA_VERSION", "CheckEntry", "ComparisonEntry", "FileEntry", "InputEntry", "Manifest", "MetricEntry",
    "TargetEntry", "TaskEntry",
    "TensorEntry", "TrainingEntry", "VerificationEntry", "manifest_json_schema",
]  # fmt: skip

SCHEMA_VERSION = 1


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TensorEntry(_Entry):
    """One tensor at the border of a graph."""

    name: str = Field(description="The tensor's name in every artifact.")
    dtype: str = Field(description="A numpy dtype name, such as float32 or int64.")
    shape: list[int | str] = Field(description="Sizes; the string 'batch' is the symbolic batch dimension.")
    unit: str = Field("", description="Physical unit of the values, where there is one.")

    @classmethod
    def of(cls, spec: TensorSpec) -> TensorEntry:
        """Return the entry of a spec."""
        return cls(name=spec.name, dtype=spec.dtype, shape=list(spec.shape), unit=spec.unit)

    def spec(self) -> TensorSpec:
        """Return the spec of this entry."""
        return TensorSpec(self.name, self.dtype, tuple(self.shape), self.unit)


class InputEntry(TensorEntry):
    """One input, with the range of values from which verification and profiling draw theirs."""

    mean: float = Field(0.0, description="Of a floating input: mean of the values drawn.")
    std: float = Field(1.0, description="Of a floating input: standard deviation of the values drawn.")
    low: int = Field(0, description="Of an integer input: the smallest value drawn.")
    high: int = Field(0, description="Of an integer input: the largest value drawn.")


class LossEntry(_Entry):
    """A loss by name with its options."""

    name: str
    label_smoothing: float = 0.0
    class_weights: list[float] | None = None
    ignore_index: int = -100
    delta: float = 1.0
    quantiles: list[float] | None = Field(None, description="Of pinball: one an output.")
    missing: bool = Field(False, description="A target that is NaN or not above -1e30 means 'no label'.")


class TaskEntry(_Entry):
    """One task: its output has the task's name."""

    name: str
    kind: str = Field(
        description="classification, binary, multilabel, regression, ordinal, quantile, mixture, segmentation, "
        "tagging or embedding."
    )
    size: int = Field(description="Classes, labels or outputs; quantiles of quantile, components of mixture.")
    shape: list[int] = Field(
        [],
        description="segmentation: height and width; tagging: steps; embedding: its dimension; else empty.",
    )
    loss: LossEntry
    weight: float = Field(description="Factor of this task's loss in the total.")
    unit: str = Field("", description="Physical unit of a regression target.")
    target: TensorEntry = Field(description="What the training step takes as this task's target.")

    @classmethod
    def of(cls, task: TaskSpec, loss: LossSpec, target: TensorSpec) -> TaskEntry:
        """Return the entry of a task with its resolved loss and target."""
        return cls(
            name=task.name, kind=task.kind, size=task.size, weight=task.weight, unit=task.unit,
            shape=list(task.shape),
            loss=LossEntry(
                name=loss.name, label_smoothing=loss.label_smoothing, ignore_index=loss.ignore_index, delta=loss.delta,
                class_weights=None if loss.class_weights is None else list(loss.class_weights),
                quantiles=None if loss.quantiles is None else list(loss.quantiles), missing=loss.missing,
            ),
            target=TensorEntry(
                name=f"target.{task.name}", dtype=target.dtype, shape=list(target.shape), unit=target.unit
            ),
        )  # fmt: skip

    def spec(self) -> TaskSpec:
        """Return the task."""
        values = self.loss.model_dump()
        for key in ("class_weights", "quantiles"):
            values[key] = None if values[key] is None else tuple(values[key])
        return TaskSpec(
            self.name,
            self.kind,
            size=self.size,
            loss=LossSpec(**values),
            weight=self.weight,
            unit=self.unit,
            shape=self.shape,
        )


class TrainingEntry(_Entry):
    """What the training step trains, and with what by default."""

    trainable: str = Field(description="The choice at export: all, heads, bias, norm, lora:RANK or a regex.")
    parameters: list[str] = Field(description="Names of the trained parameters.")
    decayed: list[str] = Field(description="Those of them to which weight decay applies.")
    buffers: list[str] = Field(
        description="Buffers that the step updates (BatchNorm statistics under 'train')."
    )
    batch_norm: Literal["fold", "freeze", "train"]
    lr: float = Field(description="Default learning rate.")
    momentum: float = Field(description="Default Nesterov momentum.")
    weight_decay: float = Field(description="Default weight decay.")
    balancing: str = Field(
        "static",
        description="How the step makes one gradient of the losses: static (their sum with the tasks' weights), "
        "uncertainty, imtl_l, dwa, famo or pcgrad. What it remembers are buffers named balancing.*.",
    )
    balancing_options: dict[str, float] = Field(
        default_factory=dict, description="The method's numbers, where they are not its defaults."
    )
    restart: Literal["none", "gradient", "loss"] = Field(
        "none",
        description="When the step starts its momentum again from zero; buffers named restart.* count and remember.",
    )

    def rules(self) -> StepRules:
        """Return how the step balances and restarts."""
        return StepRules(self.balancing, self.balancing_options, self.restart)


class FileEntry(_Entry):
    """Size and hash of one file."""

    size_bytes: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class ComparisonEntry(_Entry):
    """The worst agreement of one tensor over a verified trajectory."""

    tensor: str
    step: int
    max_abs: float | None = Field(description="Largest absolute difference; null when not finite.")
    max_rel: float | None = Field(description="It over the largest reference value; null when not finite.")
    rtol: float
    atol: float
    within_tolerance: bool


class CheckEntry(_Entry):
    """The verdict on one half of a target: its inference, or its training step."""

    verdict: Literal["within tolerance", "out of tolerance", "skipped"]
    reason: str = Field(default="", description="Why it was skipped.")
    tensor: str = Field(default="", description="The most telling tensor.")
    step: int = 0
    max_abs: float | None = None
    max_rel: float | None = Field(default=None, description="Of that tensor; null when not finite.")
    rtol: float
    atol: float


class MetricEntry(_Entry):
    """One task's metric on held-out examples: PyTorch in float32 against the target's artifact."""

    task: str
    metric: str
    reference: float
    target: float
    examples: int


class VerificationEntry(_Entry):
    """What `nagedge verify` found for one target in one runtime."""

    runtime: str = Field(description="The runtime and its version; what evaluated the artifact.")
    reference: str = Field(description="PyTorch's version.")
    steps: int
    batch: int
    lr: float
    realigned: list[int] = Field(
        default_factory=list,
        description="Steps at which the trajectories parted at a kink within rounding and were made equal again.",
    )
    checks: dict[Literal["inference", "training"], CheckEntry]
    worst: list[ComparisonEntry] = Field(description="The tensors that agree least, worst first.")
    metrics: list[MetricEntry] = Field(default_factory=list)

    @property
    def within_tolerance(self) -> bool:
        """Whether everything was run and is within tolerance; what was skipped is not."""
        return all(check.verdict == "within tolerance" for check in self.checks.values())


class TargetEntry(_Entry):
    """The artifacts of one target."""

    backend: str
    precision: str
    opset: int | None = Field(None, description="Version of ai.onnx; null where the files are not ONNX.")
    minimum_os: str = Field("", description="Oldest system that loads the files, such as iOS18.")
    batch: int | None = Field(
        None, description="The only batch size of this target's artifacts; null where it is the bundle's."
    )
    rtol: float
    atol: float
    inference_rtol: float
    inference_atol: float
    backward_error: float
    artifacts: dict[str, str] = Field(
        description="Role (infer, train_step, ...) to the path in the bundle: of a file, or of a folder (.mlpackage)."
    )
    planned_step_bytes: int | None = Field(
        None,
        description="Memory that a training step is planned to hold above its loaded session, on one thread of ONNX "
        "Runtime without its planned block and its reuse of buffers; null where there is no plan.",
    )
    planned_rows: int | None = Field(None, description="The batch size of that plan: the example's.")


class Manifest(_Entry):
    """Everything a client needs to know of a bundle."""

    format: Literal["nagedge-bundle"] = "nagedge-bundle"
    schema_version: int = Field(description="Version of this schema; a client refuses a newer one.")
    model: str = Field(description="The model's class or name, for people.")
    inputs: list[InputEntry]
    tasks: list[TaskEntry] = Field(min_length=1)
    batch: int | None = Field(description="The only batch size the artifacts take; null when it is free.")
    preprocessing: dict[str, Any] | None = Field(
        None, description="Steps from raw values to inputs and targets."
    )
    training: TrainingEntry | None = Field(None, description="null for a bundle without a training step.")
    targets: dict[str, TargetEntry]
    files: dict[str, FileEntry] = Field(description="Every file of the bundle but the manifest, by path.")
    versions: dict[str, str] = Field(description="Of the tools that wrote the bundle.")
    notes: list[str] = Field(
        default_factory=list, description="What the export decided and a reader should know."
    )
    verification: dict[str, list[VerificationEntry]] = Field(
        default_factory=dict, description="Results by target, one a runtime."
    )
    refused: dict[str, str] = Field(
        default_factory=dict,
        description="Targets that the export was asked for and could not serve: the reason.",
    )

    def files_in(self, folder: str) -> list[str]:
        """Return the names of the files under ``folder``, a path in the bundle."""
        return [name for name in self.files if name.startswith(f"{folder}/")]

    def batch_of(self, target: str) -> int | None:
        """Return the only batch size that a target's artifacts take; None when it is free."""
        own = self.targets[target].batch
        return self.batch if own is None else own

    def content_hash(self) -> str:
        """Return what identifies the export: SHA-256 of the lines ``<sha256>  <path>`` of all files, sorted by path.

        What verification adds to the manifest later does not change it.
        """
        lines = (f"{self.files[name].sha256}  {name}\n" for name in sorted(self.files))
        return hashlib.sha256("".join(lines).encode()).hexdigest()


def manifest_json_schema() -> dict[str, Any]:
    """Return the JSON Schema of ``manifest.json``."""
    return Manifest.model_json_schema()
