"""Activations (``iOS15/activation.py`` of coremltools)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["OPS"]


def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Return ``min(beta, x)`` where ``x >= 0``, ``min(beta, alpha * x)`` elsewhere."""
    return torch.where(x >= 0, x, alpha * x).clamp(max=beta)


def elu(x: Tensor, alpha: float) -> Tensor:
    """Return ``x`` where ``x > 0``, ``alpha * (exp(x) - 1)`` elsewhere."""
    return torch.where(x > 0, x, alpha * torch.expm1(torch.clamp(x, max=0)))


def gelu(x: Tensor, mode: str = "EXACT") -> Tensor:
    """Return the Gaussian error linear unit, exact or by one of two approximations."""
    if mode == "EXACT":
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    if mode == "TANH_APPROXIMATION":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    if mode == "SIGMOID_APPROXIMATION":
        return x * torch.sigmoid(1.702 * x)
    raise ValueError(f"mode is {mode!r}, expected EXACT, TANH_APPROXIMATION or SIGMOID_APPROXIMATION")


def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """Return ``x`` where ``x >= 0``, ``alpha * x`` elsewhere."""
    return torch.where(x >= 0, x, alpha * x)


def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Return ``alpha * x + beta``."""
    return alpha * x + beta


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """Return ``x`` where ``x > 0``, ``alpha[c] * x`` elsewhere; channels lie on dimension 1."""
    return torch.where(x > 0, x, _over_channels(alpha, x) * x)


def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Return ``alpha * tanh(beta * x)``."""
    return alpha * torch.tanh(beta * x)


def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """Return ``min(max(alpha * x + beta, 0), 1)``."""
    return torch.clamp(alpha * x + beta, 0, 1)


def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """Return ``exp(x) / sum(exp(x))`` along ``axis``."""
    return torch.softmax(x, axis)


def softplus(x: Tensor) -> Tensor:
    """Return ``log(1 + exp(x))``."""
    return torch.logaddexp(x, torch.zeros_like(x))


def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return ``alpha[c] * log(1 + exp(beta[c] * x))``; channels lie on dimension 1."""
    return _over_channels(alpha, x) * softplus(_over_channels(beta, x) * x)


def softsign(x: Tensor) -> Tensor:
    """Return ``x / (1 + |x|)``."""
    return x / (1 + torch.abs(x))


def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """Return ``x`` where ``x >= alpha``, 0 elsewhere."""
    return torch.where(x >= alpha, x, torch.zeros_like(x))


def relu(x: Tensor) -> Tensor:
    """Return ``max(x, 0)``."""
    return torch.relu(x)


def relu6(x: Tensor) -> Tensor:
    """Return ``min(max(x, 0), 6)``."""
    return torch.clamp(x, 0, 6)


def sigmoid(x: Tensor) -> Tensor:
    """Return ``1 / (1 + exp(-x))``."""
    return torch.sigmoid(x)


def silu(x: Tensor) -> Tensor:
    """Return ``x * sigmoid(x)``."""
    return x * torch.sigmoid(x)


def _over_channels(values: Tensor, x: Tensor) -> Tensor:
    """Return a vector as ``[1, C, 1, ...]``, one value a channel of ``x``."""
    return values.reshape(1, -1, *[1] * (x.dim() - 2))


OPS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        clamped_relu, elu, gelu, leaky_relu, linear_activation, prelu, relu, relu6, scaled_tanh, sigmoid, sigmoid_hard,
        silu, softmax, softplus, softplus_parametric, softsign, thresholded_relu,
    )
}  # fmt: skip
"""Op type -> its function."""
