"""The ``[model]`` table of a run file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator, model_validator

from nagedge.errors import nearest_name

__all__ = ["ModelConfig"]

_OWN_TRUNKS = ("cnn", "ds_cnn", "mlp", "tokens")


class ModelConfig(BaseModel):
    """Which trunk; every task gets its head on top of the trunk's features."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    trunk: str = Field(
        default="cnn",
        description="'cnn' (small convolutional net with BatchNorm), 'ds_cnn' (of sound), 'mlp', 'tokens' (of text), "
        "'timm:NAME' (a timm backbone) or 'package.module:factory' (your own: called with the options, it returns a "
        "module that gives [batch, features], or a dict of all task outputs).",
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
        description="'cnn', 'ds_cnn', 'mlp', 'tokens': dropout before the heads, in training only.",
    )
    pretrained: bool = Field(
        default=False, description="'timm:NAME': start from timm's weights (downloaded)."
    )
    options: dict[str, JsonValue] = Field(
        default_factory=dict, description="Keyword arguments of the timm model, or of your factory."
    )

    @field_validator("channels", "hidden")
    @classmethod
    def _widths(cls, value: list[int]) -> list[int]:
        if min(value) < 1:
            raise ValueError(f"widths are {value}, expected whole numbers >= 1")
        return value

    @model_validator(mode="after")
    def _fits_trunk(self) -> ModelConfig:
        family = "timm" if self.trunk.startswith("timm:") else "factory" if ":" in self.trunk else self.trunk
        if family not in ("timm", "factory", *_OWN_TRUNKS):
            raise ValueError(
                f"unknown trunk {self.trunk!r}, expected cnn, ds_cnn, mlp, tokens, timm:NAME or package.module:factory."
                + nearest_name(self.trunk, _OWN_TRUNKS)
            )
        meant_for = {
            "channels": ("cnn", "ds_cnn", "tokens"), "hidden": ("mlp",), "dropout": ("cnn", "ds_cnn", "mlp", "tokens"),
            "vocabulary": ("tokens",),
            "pretrained": ("timm",), "options": ("timm", "factory"),
        }  # fmt: skip
        for key, families in meant_for.items():
            if key in self.model_fields_set and family not in families:
                raise ValueError(f"{key} does nothing for trunk {self.trunk!r}: remove it")
        return self
