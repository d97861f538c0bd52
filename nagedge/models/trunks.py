"""The trunk of a ``[model]`` table: whole, or in stages."""

from __future__ import annotations

import math

from torch import nn

from nagedge.errors import ConfigurationError
from nagedge.models.bc_resnet import bc_resnet_stages, bc_resnet_trunk
from nagedge.models.cnn import cnn_stages, cnn_trunk
from nagedge.models.config import ModelConfig
from nagedge.models.ds_cnn import ds_cnn_stages, ds_cnn_trunk
from nagedge.models.external import load_factory, timm_stages, timm_trunk
from nagedge.models.mlp import mlp_stages, mlp_trunk
from nagedge.models.stages import Features, StageList
from nagedge.models.tokens import TokenTrunk
from nagedge.specs import TensorSpec

__all__ = ["described", "staged_trunk", "whole_trunk"]


def whole_trunk(model: ModelConfig, input_spec: TensorSpec, *, pooled: bool) -> nn.Module:
    """Return the trunk from the input to its last features, pooled if it can be told to.

    Raises:
        ConfigurationError: the trunk cannot be made, or does not take such an input.
    """
    sizes = _checked_sizes(model, input_spec)
    if model.trunk == "mlp":
        return mlp_trunk(math.prod(sizes), model.hidden, model.dropout)
    if model.trunk == "tokens":
        return TokenTrunk(model.vocabulary, model.channels, model.dropout, pooled=pooled)
    if model.trunk == "bc_resnet":
        return bc_resnet_trunk(sizes[0], sizes[2], model.width, norm=model.norm, dropout=model.dropout)
    if model.trunk == "ds_cnn":
        return ds_cnn_trunk(sizes[0], model.channels, model.dropout, norm=model.norm)
    if model.trunk == "cnn":
        return cnn_trunk(sizes[0], model.channels, model.dropout, pooled=pooled, norm=model.norm)
    if model.trunk.startswith("timm:"):
        name = model.trunk.removeprefix("timm:")
        return timm_trunk(name, sizes[0], pretrained=model.pretrained, options=model.options)
    return load_factory(model.trunk, model.options)


def staged_trunk(model: ModelConfig, input_spec: TensorSpec) -> StageList | TokenTrunk | Features:
    """Return the trunk with the features of its stages, without pooling and dropout.

    Raises:
        ConfigurationError: the trunk cannot be made, or does not take such an input.
    """
    sizes = _checked_sizes(model, input_spec)
    if model.trunk == "tokens":
        return TokenTrunk(model.vocabulary, model.channels)
    if model.trunk == "bc_resnet":
        return StageList(
            bc_resnet_stages(sizes[0], sizes[2], model.width, norm=model.norm, dropout=model.dropout)
        )
    if model.trunk.startswith("timm:"):
        name = model.trunk.removeprefix("timm:")
        return Features(timm_stages(name, sizes[0], pretrained=model.pretrained, options=model.options))
    if model.trunk == "mlp":
        layers = mlp_stages(math.prod(sizes), model.hidden)
    elif model.trunk == "ds_cnn":
        layers = ds_cnn_stages(sizes[0], model.channels, model.norm)
    elif model.trunk == "cnn":
        layers = cnn_stages(sizes[0], model.channels, model.norm)
    else:
        return Features(load_factory(model.trunk, model.options))
    return StageList([nn.Sequential(*stage) for stage in layers])


def described(spec: TensorSpec) -> str:
    """Return name, dtype and shape of an input for an error's text."""
    return f"{spec.name!r} is {spec.dtype} {list(spec.shape)}"


def _checked_sizes(model: ModelConfig, input_spec: TensorSpec) -> list[int]:
    """Return the sizes of one example."""
    sizes = [size for size in input_spec.shape[1:] if isinstance(size, int)]
    if model.trunk == "tokens" and (len(sizes) != 1 or input_spec.dtype != "int64" or model.vocabulary < 2):
        raise ConfigurationError(
            f"model trunk 'tokens' takes int64 token ids [batch, steps] and model.vocabulary >= 2, but input"
            f" {described(input_spec)} and vocabulary is {model.vocabulary}. Use data.dtype 'int64', or trunk"
            " 'mlp'."
        )
    maps = model.trunk in ("cnn", "ds_cnn", "bc_resnet") or model.trunk.startswith("timm:")
    if maps and (len(sizes) != 3 or input_spec.dtype != "float32"):
        raise ConfigurationError(
            f"model trunk {model.trunk!r} takes float32 images [batch, channels, height, width], input"
            f" {described(input_spec)}. Use trunk 'mlp', or a module of your own."
        )
    return sizes
