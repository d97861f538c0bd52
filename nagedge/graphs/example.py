"""The example input of an export: its tensors, their names, and a model's run on it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.specs import BATCH, TensorSpec

__all__ = ["call_arguments", "input_specs", "named_inputs", "run_example"]

RESERVED_NAMES = frozenset({"lr", "momentum", "weight_decay", "sample_weight", "loss"})


def named_inputs(model: nn.Module, example_input: object) -> list[tuple[str, Tensor]]:
    """Return the example's tensors by the name of the parameter of ``model.forward`` that takes each.

    Numpy arrays become tensors, and float64 becomes float32.

    Args:
        model: the module that will be called.
        example_input: a tensor, a tuple or list of tensors, or a dict of them by parameter name; axis 0 is the batch.

    Raises:
        ConfigurationError: for anything that is not a tensor with a batch axis.
    """
    parameters = [
        p.name
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.POSITIONAL_ONLY, p.KEYWORD_ONLY)
    ]
    pairs: list[tuple[str, object]]
    if isinstance(example_input, Mapping):
        unknown = [name for name in example_input if name not in parameters]
        if unknown:
            raise ConfigurationError(
                f"example_input has the key {unknown[0]!r}, but {type(model).__name__}.forward takes "
                f"{', '.join(parameters) or 'no argument'}: use those names."
            )
        pairs = [(name, example_input[name]) for name in parameters if name in example_input]
    else:
        values = list(example_input) if isinstance(example_input, (tuple, list)) else [example_input]
        names = parameters + [f"input_{i}" for i in range(len(parameters), len(values))]
        pairs = list(zip(names, values, strict=False))
    if not pairs:
        raise ConfigurationError("example_input holds no tensor: give what the model is called with.")
    return [(name, _tensor(name, value)) for name, value in pairs]


def _tensor(name: str, value: object) -> Tensor:
    try:
        tensor = value.detach() if isinstance(value, Tensor) else torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        raise ConfigurationError(
            f"example_input {name!r} is {type(value).__name__}, expected a tensor or an array of numbers."
        ) from None
    if tensor.dim() == 0 or tensor.shape[0] == 0:
        raise ConfigurationError(
            f"example_input {name!r} has shape {tuple(tensor.shape)}: expected a batch of at least one example "
            "along axis 0."
        )
    return tensor.float() if tensor.dtype == torch.float64 else tensor


def input_specs(model: nn.Module, example_input: object) -> tuple[tuple[TensorSpec, ...], tuple[Tensor, ...]]:
    """Return spec and tensor of each input, named as the parameters of ``model.forward``; see :func:`named_inputs`."""
    specs, tensors = [], []
    for name, tensor in named_inputs(model, example_input):
        safe = f"{name}_input" if name in RESERVED_NAMES else name
        specs.append(TensorSpec(safe, str(tensor.dtype).removeprefix("torch."), (BATCH, *tensor.shape[1:])))
        tensors.append(tensor)
    return tuple(specs), tuple(tensors)


def call_arguments(model: nn.Module, example_input: object) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the positional and the keyword arguments with which ``model`` is called."""
    pairs = named_inputs(model, example_input)
    if isinstance(example_input, Mapping):
        return [], dict(pairs)
    return [tensor for _, tensor in pairs], {}


def run_example(model: nn.Module, example_input: object) -> object:
    """Return what ``model`` makes of its example, without gradients.

    Raises:
        ConfigurationError: the model fails on it; the text is the model's own.
    """
    arguments, keywords = call_arguments(model, example_input)
    try:
        with torch.no_grad():
            return model(*arguments, **keywords)
    except Exception as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise ConfigurationError(
            f"{type(model).__name__} fails on its example_input: {text}. Give an example_input that the model's "
            "forward accepts."
        ) from error
