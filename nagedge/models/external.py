"""Trunks that come from elsewhere: timm's backbones and the user's own modules."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import JsonValue
from torch import nn

from nagedge.errors import ConfigurationError, nearest_name

__all__ = ["load_factory", "timm_stages", "timm_trunk"]


def timm_trunk(
    name: str, in_channels: int, *, pretrained: bool, options: Mapping[str, JsonValue]
) -> nn.Module:
    """Return a timm backbone without its classifier.

    It goes from float32 ``[batch, in_channels, height, width]`` to ``[batch, features]``.

    Raises:
        ConfigurationError: timm is not installed, has no such model, or refuses the options.
    """
    return _timm_model(name, in_channels, pretrained=pretrained, options={"num_classes": 0, **options})


def timm_stages(
    name: str, in_channels: int, *, pretrained: bool, options: Mapping[str, JsonValue]
) -> nn.Module:
    """Return a timm backbone that gives the maps of its stages, ``[batch, channels, height, width]`` each.

    The stages are those of timm's ``features_only``: each halves the map, mostly. What comes after the last one (in
    MobileNets a wide pointwise convolution) is left out.

    Raises:
        ConfigurationError: as :func:`timm_trunk`, or the model has no stages.
    """
    return _timm_model(name, in_channels, pretrained=pretrained, options={"features_only": True, **options})


def _timm_model(
    name: str, in_channels: int, *, pretrained: bool, options: Mapping[str, JsonValue]
) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise ConfigurationError(
            f"model trunk 'timm:{name}' needs timm, which is not installed: pip install 'nagedge[timm]'."
        ) from None
    if not timm.is_model(name.partition(".")[0]):
        raise ConfigurationError(
            f"model trunk 'timm:{name}': timm {timm.__version__} has no such model."
            + (nearest_name(name, timm.list_models()) or " See timm.list_models().")
        )
    try:
        # create_model's own parameters are typed, the model's are not: options may hold either
        keywords: dict[str, Any] = {"in_chans": in_channels, **options}
        made = timm.create_model(name, pretrained=pretrained, **keywords)
    except Exception as error:  # timm and its models raise whatever they like for options and downloads
        raise ConfigurationError(
            f"model trunk 'timm:{name}' cannot be made: {error}. Check model.options."
        ) from error
    if not isinstance(made, nn.Module):
        raise ConfigurationError(f"model trunk 'timm:{name}' is a {type(made).__name__}, expected a module.")
    return made


def load_factory(reference: str, options: Mapping[str, JsonValue] | None = None) -> nn.Module:
    """Import ``package.module``, call its ``factory`` with the options and return the module it makes.

    Modules in the working directory are found too.

    Raises:
        ConfigurationError: the reference cannot be imported, the call fails, or gives no ``torch.nn.Module``.
    """
    module_name, _, attribute = reference.partition(":")
    if not module_name or not attribute:
        raise ConfigurationError(f"model {reference!r} is not of the form 'package.module:factory'.")
    folder = str(Path.cwd())
    sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the user's module raises while it is imported
        raise ConfigurationError(
            f"model {reference!r}: cannot import {module_name!r}: {type(error).__name__}: {error}."
            " Install the package, or run in the folder that holds the module."
        ) from error
    finally:
        sys.path.remove(folder)
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ConfigurationError(
            f"model {reference!r}: {module_name!r} has no callable {attribute!r}."
            + nearest_name(attribute, dir(module))
        )
    try:
        made = factory(**(options or {}))
    except Exception as error:  # the user's code
        raise ConfigurationError(
            f"model {reference!r}: {attribute!r} raised {type(error).__name__}: {error}. Check model.options."
        ) from error
    if not isinstance(made, nn.Module):
        raise ConfigurationError(
            f"model {reference!r}: {attribute!r} gave a {type(made).__name__}, expected a torch.nn.Module."
        )
    return made
