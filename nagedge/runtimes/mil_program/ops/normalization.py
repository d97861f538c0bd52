"""Normalisation (``iOS15/normalization.py`` of coremltools); layout ``[N, C, ...]``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 # as everybody calls it
from torch import Tensor

__all__ = ["OPS"]


def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Return ``gamma * (x - mean) / sqrt(variance + epsilon) + beta``, one value of each a channel."""
    scaled = (x - _over_channels(mean, x)) / torch.sqrt(_over_channels(variance, x) + epsilon)
    return _scaled_and_shifted(scaled, gamma, beta)


def instance_norm(
    x: Tensor, gamma: Tensor | None = None, beta: Tensor | None = None, epsilon: float = 1e-5
) -> Tensor:
    """Normalise each channel of each example over its spatial dimensions."""
    axes = tuple(range(2, x.dim()))
    centred = x - x.mean(axes, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + epsilon)
    return _scaled_and_shifted(scaled, gamma, beta)


def layer_norm(
    x: Tensor,
    axes: tuple[int, ...] | None = None,
    gamma: Tensor | None = None,
    beta: Tensor | None = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """Normalise over ``axes`` (all unless given); ``gamma`` and ``beta`` have the sizes of those axes."""
    over = tuple(sorted(axis % x.dim() for axis in (axes if axes is not None else range(x.dim()))))
    centred = x - x.mean(over, keepdim=True)
    scaled = centred / torch.sqrt(centred.square().mean(over, keepdim=True) + epsilon)
    sizes = [x.shape[i] if i in over else 1 for i in range(x.dim())]
    if gamma is not None:
        scaled = scaled * gamma.reshape(sizes)
    return scaled if beta is None else scaled + beta.reshape(sizes)


def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """Return ``x / sqrt(sum(x ** 2) + epsilon)``, the sum over the last three dimensions."""
    return x / torch.sqrt(x.square().sum((-3, -2, -1), keepdim=True) + epsilon)


def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """Return ``x / (k + alpha / size * sum(x ** 2)) ** beta``, the sum over ``size`` neighbouring channels.

    Of an even size one more lies before than after, as in torch: the reference does not say.
    """
    return F.local_response_norm(x, size, alpha, beta, k)


def _scaled_and_shifted(x: Tensor, gamma: Tensor | None, beta: Tensor | None) -> Tensor:
    scaled = x if gamma is None else x * _over_channels(gamma, x)
    return scaled if beta is None else scaled + _over_channels(beta, x)


def _over_channels(values: Tensor, x: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


OPS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (batch_norm, instance_norm, layer_norm, l2_norm, local_response_norm)
}
"""Op type -> its function."""
