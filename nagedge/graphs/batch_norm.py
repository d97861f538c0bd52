"""The BatchNorm policies of an exported model: ``fold``, ``freeze`` and ``train``.

``fold`` (the default) multiplies each BatchNorm that directly follows a convolution or a linear layer into that
layer's weight and bias; one that follows something else is frozen. ``freeze`` normalises with the running statistics,
which stay constant while its scale and offset can be trained. ``train`` normalises with the batch's statistics and
makes the running ones part of the training state.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nagedge.errors import ConfigurationError, nearest_name
from nagedge.graphs.decompositions.normalization import batch_norm_with_statistics

__all__ = ["BATCH_NORM_POLICIES", "apply_policy", "fold_batch_norms", "track_statistics"]

BATCH_NORM_POLICIES = ("fold", "freeze", "train")

_FOLDABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.Linear)


def apply_policy(model: nn.Module, policy: str, example_input: object) -> nn.Module:
    """Return a copy of ``model`` in evaluation mode, prepared for ``policy``.

    Under ``train`` the BatchNorm modules of the copy keep normalising with running statistics until the forward pass
    is run inside :func:`track_statistics`.

    Raises:
        ConfigurationError: for an unknown policy, or a BatchNorm that ``train`` cannot keep.
    """
    if policy not in BATCH_NORM_POLICIES:
        raise ConfigurationError(
            f"unknown BatchNorm policy {policy!r}; expected one of {', '.join(BATCH_NORM_POLICIES)}."
            + nearest_name(policy, BATCH_NORM_POLICIES)
        )
    prepared = copy.deepcopy(model).eval()
    if policy == "fold":
        fold_batch_norms(prepared, example_input)
    if policy == "train":
        for name, module in prepared.named_modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats and module.momentum is None:
                raise ConfigurationError(
                    f"BatchNorm {name!r} averages its statistics cumulatively (momentum=None), which an exported "
                    "step cannot: give it a momentum, or export with batch_norm='fold' or 'freeze'."
                )
    return prepared


@dataclass
class _Pair:
    layer: nn.Module
    layer_name: str
    norm_name: str
    norm: _BatchNorm
    layer_input: Tensor
    normalised: Tensor


class _CountReads(TorchDispatchMode):
    """Count how many operators read each tensor of interest, by identity."""

    def __init__(self) -> None:
        super().__init__()
        self.reads: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for leaf in {id(x) for x in tree_leaves((args, kwargs or {})) if isinstance(x, Tensor)}:
            if leaf in self.reads:
                self.reads[leaf] += 1
        return func(*args, **(kwargs or {}))


class _BatchNormIsIdentity(TorchFunctionMode):
    """Let :func:`torch.nn.functional.batch_norm` return its input."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is nn.functional.batch_norm:
            return args[0] if args else (kwargs or {})["input"]
        return func(*args, **(kwargs or {}))


class _WithoutNormalisation(nn.Module):
    """What a BatchNorm subclass does besides normalising (timm's BatchNormAct2d drops and activates)."""

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        norm.weight = None  # type: ignore[assignment]
        norm.bias = None  # type: ignore[assignment]
        norm.running_mean = norm.running_var = norm.num_batches_tracked = None
        self.rest = norm

    def forward(self, x: Tensor) -> Tensor:
        with _BatchNormIsIdentity():
            result: Tensor = self.rest(x)
        return result


def fold_batch_norms(model: nn.Module, example_input: object) -> list[str]:
    """Fold every BatchNorm that can be folded into the layer before it, in place; return the names of those folded.

    A pair is found by running the model: the BatchNorm's input is the layer's output itself, and nothing else reads
    that output. Each fold is checked on the recorded activations, so that a layer whose forward does more than its
    class says (weight standardisation, say) is left alone.

        W' = W * g / sqrt(var + eps)        b' = (b - mean) * g / sqrt(var + eps) + beta

    (Jacob et al. 2018, section 3.2.)
    """
    folded = []
    for pair in _pairs(model, example_input):
        if _fold(pair):
            parent_name, _, child = pair.norm_name.rpartition(".")
            parent = model.get_submodule(parent_name)
            plain = type(pair.norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
            setattr(parent, child, nn.Identity() if plain else _WithoutNormalisation(pair.norm))
            folded.append(pair.norm_name)
    return folded


def _pairs(model: nn.Module, example_input: object) -> list[_Pair]:
    outputs: dict[int, tuple[str, nn.Module, Tensor, Tensor]] = {}
    calls: dict[int, int] = {}
    pairs: list[_Pair] = []
    counter = _CountReads()

    def remember(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            calls[id(module)] = calls.get(id(module), 0) + 1
            if isinstance(output, Tensor) and args and isinstance(args[0], Tensor):
                outputs[id(output)] = (name, module, args[0].clone(), output)
                counter.reads[id(output)] = 0

        return hook

    def match(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            calls[id(module)] = calls.get(id(module), 0) + 1
            found = outputs.get(id(args[0])) if args else None
            if found is not None and isinstance(module, _BatchNorm) and module.running_var is not None:
                layer_name, layer, layer_input, raw = found
                normalised = nn.functional.batch_norm(
                    raw.clone(), module.running_mean, module.running_var, module.weight, module.bias, eps=module.eps
                )
                counter.reads[id(raw)] -= 1  # the clone above
                pairs.append(_Pair(layer, layer_name, name, module, layer_input, normalised))

        return hook

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _FOLDABLE):
            handles.append(module.register_forward_hook(remember(name)))
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            handles.append(module.register_forward_hook(match(name)))
    try:
        with torch.no_grad(), counter:
            if isinstance(example_input, Mapping):
                model(**example_input)
            else:
                model(*(example_input if isinstance(example_input, (tuple, list)) else (example_input,)))
    finally:
        for handle in handles:
            handle.remove()
    shared = _shared_parameters(model)
    by_layer_output = {id(module): reads for reads, (_, module, _, _) in _reads_by_layer(counter, outputs)}
    return [
        pair
        for pair in pairs
        if calls[id(pair.layer)] == calls[id(pair.norm)] == 1
        and by_layer_output[id(pair.layer)] == 1
        and not any(id(p) in shared for p in pair.layer.parameters(recurse=False))
    ]


def _reads_by_layer(
    counter: _CountReads, outputs: Mapping[int, tuple[str, nn.Module, Tensor, Tensor]]
) -> Iterator[tuple[int, tuple[str, nn.Module, Tensor, Tensor]]]:
    for identity, entry in outputs.items():
        yield counter.reads[identity], entry


def _shared_parameters(model: nn.Module) -> set[int]:
    """Return the identities of parameters that more than one module holds."""
    holders: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    return {identity for identity, count in holders.items() if count > 1}


def _fold(pair: _Pair) -> bool:
    """Fold one pair; undo it and return False when the layer does not then give the normalised activations."""
    layer, norm = pair.layer, pair.norm
    weight = layer.weight
    if not isinstance(weight, nn.Parameter) or norm.running_mean is None or norm.running_var is None:
        return False
    bias: nn.Parameter | None = layer.bias  # type: ignore[assignment]
    gamma = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight
    beta = torch.zeros_like(norm.running_mean) if norm.bias is None else norm.bias
    before = weight.detach().clone(), None if bias is None else bias.detach().clone()
    with torch.no_grad():
        # float64: the folded weights are the start of a training trajectory
        scale = gamma.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        transposed = isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d))
        if transposed:
            grouped = weight.double().reshape(layer.groups, -1, *weight.shape[1:])
            per_channel = scale.reshape(layer.groups, 1, -1, *[1] * (weight.dim() - 2))
            new_weight = (grouped * per_channel).reshape(weight.shape)
        else:
            new_weight = weight.double() * scale.reshape(-1, *[1] * (weight.dim() - 1))
        old_bias = torch.zeros_like(scale) if bias is None else bias.double()
        new_bias = (old_bias - norm.running_mean.double()) * scale + beta.double()
        weight.copy_(new_weight.float())
        layer.bias = nn.Parameter(new_bias.float())
        result = layer(pair.layer_input)
        size = pair.normalised.abs().max().clamp_min(1e-6)
        if result.shape == pair.normalised.shape and (result - pair.normalised).abs().max() <= 1e-3 * size:
            return True
        weight.copy_(before[0])
        layer.bias = None if before[1] is None else nn.Parameter(before[1])
    return False


@contextmanager
def track_statistics(state: Mapping[str, Tensor], *, enabled: bool) -> Iterator[dict[str, Tensor]]:
    """Normalise with the batch's statistics inside, collecting the new running ones by buffer name.

    Args:
        state: the tensors in use, by name; a running statistic is recognised by identity among them.
        enabled: do nothing when False.
    """
    collected: dict[str, Tensor] = {}
    if not enabled:
        yield collected
        return
    with _TrackStatistics({id(tensor): name for name, tensor in state.items()}, collected):
        yield collected


class _TrackStatistics(TorchFunctionMode):
    def __init__(self, names: Mapping[int, str], collected: dict[str, Tensor]) -> None:
        super().__init__()
        self.names, self.collected = names, collected

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not nn.functional.batch_norm:
            return func(*args, **(kwargs or {}))
        bound = dict(zip(_BATCH_NORM_ARGUMENTS, args, strict=False)) | (kwargs or {})
        mean, var = bound.get("running_mean"), bound.get("running_var")
        if id(mean) not in self.names or id(var) not in self.names:
            return func(*args, **(kwargs or {}))
        y, new_mean, new_var = batch_norm_with_statistics(
            bound["input"], mean, var, bound.get("weight"), bound.get("bias"), bound.get("momentum", 0.1),
            bound.get("eps", 1e-5),
        )  # fmt: skip
        self.collected[self.names[id(mean)]] = new_mean
        self.collected[self.names[id(var)]] = new_var
        return y


_BATCH_NORM_ARGUMENTS = (
    "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
)  # fmt: skip
