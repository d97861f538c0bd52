"""The ``[model]`` table of a run file."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from nagedge.errors import nearest_name
from nagedge.models.norms import Norm

__all__ = ["KEYS_OF", "ModelConfig", "family_of"]

_OWN_TRUNKS = ("cnn", "ds_cnn", "bc_resnet", "mlp", "tokens")

KEYS_OF = {
    "channels": ("cnn", "ds_cnn", "tokens"), "hidden": ("mlp",),
    "dropout": ("cnn", "ds_cnn", "bc_resnet", "mlp", "tokens"), "width": ("bc_resnet",),
    "norm": ("cnn", "ds_cnn", "bc_resnet"), "vocabulary": ("tokens",), "pretrained": ("timm",),
    "options": ("timm", "factory"),
}  # fmt: skip
"""Key of the table -> the families of trunks that it means something for; other keys hold for all."""


def family_of(trunk: str) -> str:
    """Return ``"timm"``, ``"factory"`` or the trunk's own name."""
    return "timm" if trunk.startswith("timm:") else "factory" if ":" in trunk else trunk


class ModelConfig(BaseModel):
    """Which trunk; every task gets its head on top of the trunk's features."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trunk: str = Field(
        default="cnn",
        description="'cnn' (small convolutional net), 'ds_cnn' and 'bc_resnet' (of sound), 'mlp', 'tokens' (of text), "
        "'timm:NAME' (a timm backbone) or 'package.module:factory' (your own: called with the options, it returns a "
        "module that gives [batch, features], or a list of the features of its stages, or a dict of all task outputs).",
    )
    channels: list[int] = Field(
        default=[16, 32, 64],
        min_length=1,
        description="'cnn': output channels of each 3x3 convolution; between two of them the size is halved. "
        "'ds_cnn': of its first convolution, then of each depthwise-separable block. 'tokens': width of the embedding, "
        "then of each convolution over three steps.",
    )
    vocabulary: int = Field(
        default=0,
        ge=0,
        description="'tokens': ids are 0 (padding) .. vocabulary - 1; left out for source 'text'.",
    )
    hidden: list[int] = Field(
        default=[128, 64], min_length=1, description="'mlp': the width of each hidden layer."
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="'cnn', 'ds_cnn', 'mlp', 'tokens': dropout before the heads, in training only; 'bc_resnet': of "
        "whole channels at the end of each block (0.1 in the paper).",
    )
    width: float = Field(
        default=1.0,
        gt=0,
        description="'bc_resnet': factor of its channels, the paper's tau: 1, 1.5, 2, 3, 6, 8 there; multiples of 1/8.",
    )
    norm: Norm = Field(
        default="batch",
        description="'cnn', 'ds_cnn', 'bc_resnet': 'batch' (BatchNorm) or 'group' (GroupNorm, which is the same in "
        "training and on the device, whatever the batch).",
    )
    pretrained: bool = Field(
        default=False, description="'timm:NAME': start from timm's weights (downloaded)."
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="Keyword arguments of the timm model, or of your factory."
    )
    stages: dict[str, int] = Field(
        default_factory=dict,
        description="Task name -> the stage of the trunk, from 1, whose features its head reads; the last one where a "
        "task is not named. Of 'hard' sharing.",
    )
    sharing: Literal["hard", "cross_stitch", "mmoe"] = Field(
        default="hard",
        description="'hard': one trunk; 'cross_stitch': one trunk a task, with linear combinations after each stage "
        "(trunks of ours); 'mmoe': several trunks, mixed by a gate a task.",
    )
    experts: int = Field(default=4, ge=2, description="'mmoe': how many trunks.")

    @field_validator("channels", "hidden")
    @classmethod
    def _widths(cls, value: list[int]) -> list[int]:
        if min(value) < 1:
            raise ValueError(f"widths are {value}, expected whole numbers >= 1")
        return value

    @model_validator(mode="after")
    def _fits_trunk(self) -> ModelConfig:
        family = family_of(self.trunk)
        if family not in ("timm", "factory", *_OWN_TRUNKS):
            raise ValueError(
                f"unknown trunk {self.trunk!r}, expected cnn, ds_cnn, bc_resnet, mlp, tokens, timm:NAME or"
                " package.module:factory." + nearest_name(self.trunk, _OWN_TRUNKS)
            )
        for key, families in KEYS_OF.items():
            if key in self.model_fields_set and family not in families:
                raise ValueError(f"{key} does nothing for trunk {self.trunk!r}: remove it")
        if "experts" in self.model_fields_set and self.sharing != "mmoe":
            raise ValueError(f"experts does nothing for sharing {self.sharing!r}: remove it")
        if self.stages and self.sharing != "hard":
            raise ValueError(f"stages are of sharing 'hard', not of {self.sharing!r}: remove them")
        if self.sharing == "cross_stitch" and family in ("timm", "factory"):
            raise ValueError(
                f"sharing 'cross_stitch' needs the stages of a trunk of ours ({', '.join(_OWN_TRUNKS)}), not of "
                f"{self.trunk!r}. Choose one, or sharing 'mmoe'"
            )
        for task, stage in self.stages.items():
            if stage < 1:
                raise ValueError(f"stages.{task} is {stage}, expected a stage >= 1")
        return self
