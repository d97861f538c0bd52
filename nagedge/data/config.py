"""The ``[data]`` table of a run file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

__all__ = ["DataConfig", "NormaliseConfig", "PreprocessingConfig", "SplitConfig"]

_DEFAULT_INPUT = {
    "mnist": "image", "arrays": "input", "table": "features", "images": "image", "text": "tokens", "audio": "sound",
    "shards": "features",
}  # fmt: skip

# Which optional keys mean something for which source. Set elsewhere a key would be silently ignored: refused.
_KEYS_BY_SOURCE = {
    "path": {"arrays", "table", "images", "text", "audio", "shards"},
    "cache": {"shards"},
    "dtype": {"arrays"},
    "columns": {"table", "text", "shards"},
    "targets": {"arrays", "table", "images", "text", "audio", "shards"},
    "classes": {"table", "images", "text", "audio", "shards"},
    "sample_weight": {"arrays", "table", "text"},
    "labels": {"images", "audio"},
    "colour": {"images", "shards"},
}


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SplitConfig(_Table):
    """How the rows are divided; the same seed gives the same rows on every machine."""

    train: float = Field(default=0.7, gt=0, lt=1, description="Fraction of the rows that is trained on.")
    validation: float = Field(
        default=0.15, gt=0, lt=1, description="Fraction that the checkpoint is chosen on."
    )
    test: float = Field(default=0.15, gt=0, lt=1, description="Fraction that is only measured on.")
    seed: int = Field(default=0, ge=0, description="Seed of the permutation of the rows.")

    @model_validator(mode="after")
    def _sums_to_one(self) -> SplitConfig:
        total = self.train + self.validation + self.test
        if abs(total - 1.0) > 1e-6:
            raise ValueError(f"train + validation + test is {total:g}, expected 1")
        return self


class NormaliseConfig(_Table):
    """``(x - mean) / std`` for each channel or feature (axis 1), after resizing and scaling."""

    mean: list[float] = Field(min_length=1, description="One for all, or one for each channel or feature.")
    std: list[float] = Field(min_length=1, description="One for all, or one for each, > 0.")

    @model_validator(mode="after")
    def _usable(self) -> NormaliseConfig:
        if not all(math.isfinite(value) for value in self.mean):
            raise ValueError("mean holds a value that is not finite")
        if not all(math.isfinite(value) and value > 0 for value in self.std):
            raise ValueError("std holds a value that is not finite and > 0")
        if len(self.mean) != len(self.std):
            raise ValueError(f"mean has {len(self.mean)} values and std {len(self.std)}, expected as many")
        return self


class LogMelConfig(_Table):
    """How sounds become log-mel features."""

    sample_rate: int = Field(default=16000, ge=1000, description="In Hz; files at other rates are converted.")
    seconds: float = Field(
        default=1.0, gt=0, description="Length of every example, from where its sound begins."
    )
    window_ms: float = Field(default=40.0, gt=0, description="Length of a frame.")
    hop_ms: float = Field(default=20.0, gt=0, description="From a frame to the next.")
    mels: int = Field(default=40, ge=1, description="Bands.")
    lowest_hz: float = Field(default=20.0, ge=0, description="Where the lowest band begins.")
    highest_hz: float | None = Field(
        default=None, gt=0, description="Where the highest band ends; left out: half the sample rate."
    )

    @model_validator(mode="after")
    def _fits(self) -> LogMelConfig:
        highest = self.highest_hz or self.sample_rate / 2
        if not self.lowest_hz < highest <= self.sample_rate / 2:
            raise ValueError(
                f"bands from {self.lowest_hz:g} to {highest:g} Hz do not fit a sample rate of {self.sample_rate} Hz"
            )
        if self.window_ms > 1000 * self.seconds:
            raise ValueError(
                f"window_ms is {self.window_ms:g}, longer than the {self.seconds:g} seconds of an example"
            )
        return self


class PreprocessingConfig(_Table):
    """What is done to the inputs: text to ids; else sound to features, missing values, resize, scale, normalise."""

    tokens: int | None = Field(
        default=None, ge=1, description="'text': so many tokens of each text are read."
    )
    vocabulary: int = Field(
        default=4000,
        ge=1,
        description="'text': at most so many words, the most frequent of the training rows.",
    )
    log_mel: LogMelConfig | None = Field(default=None, description="'audio': the features.")
    duplicates: Literal["keep", "drop"] = Field(
        default="keep",
        description="A row with the input and the targets of one before: keep it, or drop it (counted).",
    )

    missing: Literal["error", "drop", "mean"] | float = Field(
        default="error",
        description="A row with a missing input value (empty or NaN): refuse the file, drop the row (counted "
        "in the report), fill with the training mean of the channel or feature, or fill with this number.",
    )
    bad_rows: Literal["error", "drop"] = Field(
        default="error",
        description="A row that cannot be used (missing target, label out of range, infinite value, text for "
        "a number belongs, unreadable image): refuse the file, or drop the row (counted in the report).",
    )
    outliers: float | None = Field(
        default=None,
        gt=0,
        description="Drop training rows with an input column or a regression target so many interquartile ranges "
        "beyond the quartiles of the training rows (counted in the report); 3 is usual. Left out: keep them.",
    )
    resize: tuple[int, int] | None = Field(
        default=None, description="Height and width in pixels: bilinear, half-pixel centres, no antialiasing."
    )
    scale: float | None = Field(
        default=None, description="Factor of every value, for example 0.00392156862745098."
    )
    normalise: NormaliseConfig | Literal["train"] | None = Field(
        default=None,
        description="Mean and std, or 'train': those of each channel or feature in the training rows.",
    )

    @field_validator("missing")
    @classmethod
    def _finite_fill(cls, value: str | float) -> str | float:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"missing is {value}, expected 'error', 'drop', 'mean' or a finite number")
        return value

    @field_validator("resize")
    @classmethod
    def _positive_size(cls, value: tuple[int, int] | None) -> tuple[int, int] | None:
        if value is not None and min(value) < 1:
            raise ValueError(f"resize is {list(value)}, expected a height and a width of at least 1 pixel")
        return value

    @field_validator("scale")
    @classmethod
    def _usable_scale(cls, value: float | None) -> float | None:
        if value is not None and (not math.isfinite(value) or value == 0):
            raise ValueError(f"scale is {value}, expected a finite number other than 0")
        return value


class DataConfig(_Table):
    """Where the examples come from, how they are divided and what is done to them."""

    source: Literal["mnist", "arrays", "table", "images", "text", "audio", "shards"] = Field(
        description="'mnist' (built in), 'arrays' (.npz), 'table' (CSV or Parquet), 'images' (a folder), 'text' (a "
        "column of a CSV or Parquet file), 'audio' (a folder of sounds with a labels file) or 'shards' (a folder of "
        "Parquet or tar files of any size)."
    )
    path: Path | None = Field(default=None, description="The file or folder; not for 'mnist'.")
    cache: Path | None = Field(
        default=None,
        description=(
            "'shards': where every process keeps its prepared rows while it runs, as large as the data; left out: "
            "where temporary files go."
        ),
    )
    input: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z_][A-Za-z0-9_]*$",
        description="Name of the model's input; for 'arrays' also the name of the array. "
        "Default: image (mnist, images), input (arrays), features (table, shards), tokens (text), sound (audio).",
    )
    dtype: Literal["float32", "int64"] = Field(
        default="float32", description="'arrays': type of the model's input; int64 for token ids."
    )
    unit: str = Field(default="", description="Physical unit of the input values, for the record.")
    columns: list[str] = Field(
        default_factory=list,
        description="'table': the input columns, in order; 'text': the one column of text.",
    )
    targets: dict[str, str | list[str]] = Field(
        default_factory=dict,
        description="Task name -> the column (or array) of its targets, or several columns, one each label. "
        "A task that is not named here reads the column of its own name.",
    )
    classes: dict[str, list[str]] = Field(
        default_factory=dict,
        description="Task name -> its class names, in label order, where a column holds names, not numbers; "
        "for a folder of images, the sub-folder names.",
    )
    sample_weight: str | None = Field(
        default=None, description="Column or array of per-sample weights, >= 0."
    )
    labels: str | None = Field(
        default=None, description="'images', 'audio': CSV file in the folder: a 'file' column, a column a task; "
        "without it, every sub-folder of images is a class.",
    )  # fmt: skip
    colour: Literal["greyscale", "rgb"] = Field(default="rgb", description="'images': one channel or three.")
    split: SplitConfig = Field(default=SplitConfig())
    preprocessing: PreprocessingConfig = Field(default=PreprocessingConfig())
    standardise: bool = Field(
        default=True, description="Train regression tasks on (target - mean) / std of the training rows."
    )

    @property
    def input_name(self) -> str:
        """The name of the model's input, given or by default."""
        return self.input or _DEFAULT_INPUT[self.source]

    def in_folder(self, folder: Path) -> DataConfig:
        """Return this configuration with a relative ``path`` taken from ``folder`` (that of the run file)."""
        paths = {"path": self.path, "cache": self.cache}
        relative = {
            key: folder / path for key, path in paths.items() if path is not None and not path.is_absolute()
        }
        return self.model_copy(update=relative) if relative else self

    @model_validator(mode="after")
    def _fits_source(self) -> DataConfig:
        for key, sources in _KEYS_BY_SOURCE.items():
            if key in self.model_fields_set and self.source not in sources:
                raise ValueError(
                    f"{key} is for source {' or '.join(repr(name) for name in sorted(sources))}, "
                    f"not for {self.source!r}: remove it"
                )
        if self.source != "mnist" and self.path is None:
            raise ValueError(f"source {self.source!r} needs a path")
        self._fits_kind()
        if self.source == "table" and not self.columns:
            raise ValueError("source 'table' needs columns, the list of the input columns")
        lists = {"columns": self.columns} | {f"classes.{task}": names for task, names in self.classes.items()}
        steps = self.preprocessing
        if self.dtype == "int64" and (steps.resize or steps.scale or steps.normalise):
            raise ValueError("dtype 'int64' takes no resize, scale or normalise: remove them")
        if self.dtype == "int64" and steps.missing not in ("error", "drop"):
            raise ValueError("dtype 'int64' has no missing values: remove missing")
        for key, names in lists.items():
            repeated = sorted({name for name in names if names.count(name) > 1})
            if repeated:
                raise ValueError(f"{key} names {repeated[0]!r} more than once")
        return self

    def _fits_kind(self) -> None:
        """Check what text, sound and shards need, and what only they have."""
        if self.source == "shards" and self.preprocessing.duplicates == "drop":
            raise ValueError(
                "source 'shards' keeps duplicates: rows are looked at piece by piece. Remove duplicates"
            )
        steps = self.preprocessing
        if self.source == "text" and (len(self.columns) != 1 or steps.tokens is None):
            raise ValueError("source 'text' needs columns with one name, and tokens in [data.preprocessing]")
        if self.source == "audio" and (self.labels is None or steps.log_mel is None):
            raise ValueError("source 'audio' needs labels, and a table [data.preprocessing.log_mel]")
        if self.source != "text" and steps.model_fields_set & {"tokens", "vocabulary"}:
            raise ValueError(
                f"tokens and vocabulary are for source 'text', not for {self.source!r}: remove them"
            )
        if self.source != "audio" and steps.log_mel is not None:
            raise ValueError(f"log_mel is for source 'audio', not for {self.source!r}: remove it")
        if self.source == "text" and (
            steps.resize or steps.scale or steps.normalise or steps.missing == "mean"
        ):
            raise ValueError(
                "source 'text' takes no resize, scale, normalise or missing = 'mean': remove them"
            )
        if self.source == "audio" and steps.resize:
            raise ValueError("source 'audio' takes no resize: set mels and hop_ms instead")
