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
from nagedge.graphs.example import run_example

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
        if not _agree(
            run_example(copy.deepcopy(model).eval(), example_input), run_example(prepared, example_input)
        ):
            return copy.deepcopy(
                model
            ).eval()  # whatever a fold did to this model, it is the same without one
    if policy == "train":
        for name, module in prepared.named_modules():
            if isinstance(module, _BatchNorm) and module.track_running_stats and module.momentum is None:
                raise ConfigurationError(
                    f"BatchNorm {name!r} averages its statistics cumulatively (momentum=None), which an exported "
                    "step cannot: give it a momentum, or export with batch_norm='fold' or 'freeze'."
                )
    return prepared


def _agree(expected: object, got: object) -> bool:
    """Whether two results of a model are the same up to what float32 loses in a deep one."""
    pairs = zip(tree_leaves(expected), tree_leaves(got), strict=True)
    return all(
        bool((a - b).abs().max() <= 1e-2 * a.abs().max().clamp_min(1e-3))
        for a, b in pairs
        if isinstance(a, Tensor) and a.is_floating_point() and a.numel()
    )


@dataclass
class _Pair:
    layer: Any  # one of _FOLDABLE
    norm_name: str
    norm: _BatchNorm
    layer_input: Tensor
    layer_output: Tensor
    normalised: Tensor


class _CountReads(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch leaves it untyped
    """Count how many operators read each tensor of interest, by identity."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
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

    A pair is found by running the model: the BatchNorm's input is the layer's output itself, nothing else reads that
    output or the layer's weight, and the model does not return it. Each fold is checked on the recorded activations,
    so that a layer whose forward does more than its class says (weight standardisation, say) is left alone.

        W' = W * g / sqrt(var + eps)        b' = (b - mean) * g / sqrt(var + eps) + beta

    (Jacob et al. 2018, section 3.2.)
    """
    folded = []
    for pair in _pairs(model, example_input):
        if _fold(pair):
            plain = type(pair.norm) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
            rest = nn.Identity() if plain else _WithoutNormalisation(pair.norm)
            for parent in list(model.modules()):
                for child, module in list(parent._modules.items()):
                    if module is pair.norm and parent is not rest:  # a module may have several names
                        setattr(parent, child, rest)
            folded.append(pair.norm_name)
    return folded


def _pairs(model: nn.Module, example_input: object) -> list[_Pair]:
    outputs: dict[int, tuple[nn.Module, Tensor, Tensor]] = {}
    calls: dict[int, int] = {}
    pairs: list[_Pair] = []
    counter = _CountReads()

    def remember(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        calls[id(module)] = calls.get(id(module), 0) + 1
        if isinstance(output, Tensor) and args and isinstance(args[0], Tensor):
            outputs[id(output)] = (module, args[0].clone(), output)
            counter.reads[id(output)] = 0

    def match(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            calls[id(module)] = calls.get(id(module), 0) + 1
            found = outputs.get(id(args[0])) if args else None
            if found is not None and isinstance(module, _BatchNorm) and module.running_var is not None:
                layer, layer_input, raw = found
                normalised = nn.functional.batch_norm(
                    raw.clone(),
                    module.running_mean,
                    module.running_var,
                    module.weight,
                    module.bias,
                    eps=module.eps,
                )
                counter.reads[id(raw)] -= 1  # the clone above
                pairs.append(_Pair(layer, name, module, layer_input, raw, normalised))

        return hook

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, _FOLDABLE):
            handles.append(module.register_forward_hook(remember))
            if isinstance(
                module.weight, nn.Parameter
            ):  # a parametrised weight is another tensor at every access
                counter.reads[id(module.weight)] = 0
        elif isinstance(module, _BatchNorm) and module.track_running_stats:
            handles.append(module.register_forward_hook(match(name)))
    try:
        with counter:
            result = run_example(model, example_input)
    finally:
        for handle in handles:
            handle.remove()
    returned = {id(leaf) for leaf in tree_leaves(result)}
    shared = _shared_parameters(model)
    return [
        pair
        for pair in pairs
        if calls[id(pair.layer)] == calls[id(pair.norm)] == 1
        and counter.reads[id(pair.layer_output)] == counter.reads.get(id(pair.layer.weight)) == 1
        and id(pair.layer_output) not in returned
        and not any(id(p) in shared for p in pair.layer.parameters(recurse=False))
    ]


def _shared_parameters(model: nn.Module) -> set[int]:
    """Return the identities of parameters that more than one module holds."""
    holders: dict[int, int] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            holders[id(parameter)] = holders.get(id(parameter), 0) + 1
    return {identity for identity, count in holders.items() if count > 1}


def _fold(pair: _Pair) -> bool:
    """Fold one pair; undo it and return False when the layer does not then give the normalised activations."""
    layer: Any = pair.layer
    norm: Any = pair.norm
    weight = layer.weight
    if not isinstance(weight, nn.Parameter):
        return False
    if norm.num_features != (layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels):
        return False  # it normalises another axis than the layer's channels
    bias: nn.Parameter | None = layer.bias
    gamma = norm.weight if norm.affine else torch.ones_like(norm.running_var)
    beta = norm.bias if norm.affine else torch.zeros_like(norm.running_mean)
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
        mean: Any = bound.get("running_mean")
        var: Any = bound.get("running_var")
        if id(mean) not in self.names or id(var) not in self.names:
            return func(*args, **(kwargs or {}))
        mean_name, var_name = self.names[id(mean)], self.names[id(var)]
        # A module that is called again goes on from what its first call left.
        mean, var = self.collected.get(mean_name, mean), self.collected.get(var_name, var)
        y, new_mean, new_var = batch_norm_with_statistics(
            bound["input"], mean, var, bound.get("weight"), bound.get("bias"), bound.get("momentum", 0.1),
            bound.get("eps", 1e-5),
        )  # fmt: skip
        self.collected[mean_name] = new_mean
        self.collected[var_name] = new_var
        return y


_BATCH_NORM_ARGUMENTS = (
    "input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps",
)  # fmt: skip
