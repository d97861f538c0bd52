"""Activations and elementwise functions whose core decompositions are inexact, in-place or outside the portable set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

__all__ = [
    "all_dim",
    "any_dim",
    "bitwise_and",
    "bitwise_not",
    "bitwise_or",
    "elu",
    "empty",
    "empty_permuted",
    "expm1",
    "hardsigmoid_backward",
    "isnan",
    "mish_backward",
    "rrelu_functional_in_evaluation",
    "rrelu_in_evaluation",
    "safe_softmax",
    "scalar_tensor",
    "silu_backward",
    "whole",
]


def whole(*arguments: object) -> Any:
    """The rule of an operator that a backend computes as it is."""
    return NotImplemented


def expm1(x: Tensor) -> Tensor:
    """``exp(x) - 1 = tanh(x / 2) * (exp(x) + 1)``: keeps its relative accuracy near zero."""
    return torch.tanh(x * 0.5) * (torch.exp(x) + 1.0)


def elu(x: Tensor, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0) -> Tensor:
    """``scale * x`` above zero, ``scale * alpha * (exp(input_scale * x) - 1)`` below."""
    low = torch.exp(torch.clamp(x, max=0.0) * input_scale) - 1.0
    out: Tensor = aten.where.self(aten.gt.Scalar(x, 0.0), x * scale, low * (alpha * scale))
    return out


def silu_backward(grad: Tensor, x: Tensor) -> Tensor:
    """``grad * s * (1 + x * (1 - s))`` with ``s = sigmoid(x)``."""
    s = torch.sigmoid(x)
    return grad * (s * (x * (1.0 - s) + 1.0))


def mish_backward(grad: Tensor, x: Tensor) -> Tensor:
    """``grad * (t + x * s * (1 - t^2))`` with ``t = tanh(softplus(x))`` and ``s = sigmoid(x)``."""
    t = torch.tanh(aten.softplus.default(x))
    return grad * (t + x * torch.sigmoid(x) * (1.0 - t * t))


def hardsigmoid_backward(grad: Tensor, x: Tensor) -> Tensor:
    """``grad / 6`` inside (-3, 3), zero elsewhere."""
    inside = aten.lt.Scalar(torch.abs(x), 3.0)
    out: Tensor = aten.where.self(inside, grad * (1.0 / 6.0), torch.zeros_like(grad))
    return out


def rrelu_in_evaluation(
    x: Tensor,
    noise: Tensor,
    lower: float = 0.125,
    upper: float = 1.0 / 3.0,
    training: bool = False,
    generator: torch.Generator | None = None,
) -> Any:
    """Leaky ReLU with the mean slope; in training torch's own operator, which is random, stays."""
    if training:
        return NotImplemented
    return aten.leaky_relu.default(x, (lower + upper) / 2)


def rrelu_functional_in_evaluation(
    x: Tensor,
    noise: Tensor,
    lower: float = 0.125,
    upper: float = 1.0 / 3.0,
    training: bool = False,
    generator: torch.Generator | None = None,
) -> Any:
    """The functional form of :func:`rrelu_in_evaluation`, which returns its noise as well."""
    if training:
        return NotImplemented
    return aten.leaky_relu.default(x, (lower + upper) / 2), noise


def safe_softmax(x: Tensor, dim: int, dtype: torch.dtype | None = None) -> Tensor:
    """Softmax that is zero, not NaN, where every entry is minus infinity (a fully masked attention row)."""
    x = x if dtype is None else x.to(dtype)
    y = aten._softmax.default(x, dim, False)
    masked = aten.eq.Scalar(aten.amax.default(x, [dim], True), float("-inf"))
    out: Tensor = aten.where.self(masked, torch.zeros_like(y), y)
    return out


def scalar_tensor(
    value: float,
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> Tensor:
    """A zero-dimensional ``aten.full``."""
    out: Tensor = aten.full.default([], value, dtype=dtype, device=device)
    return out


def empty(size: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any) -> Tensor:
    """Zeros: a graph has no uninitialised memory."""
    out: Tensor = aten.full.default(size, 0, dtype=dtype or torch.get_default_dtype())
    return out


def empty_permuted(
    size: Sequence[int], physical_layout: Sequence[int], *, dtype: torch.dtype | None = None, **_: Any
) -> Tensor:
    """Zeros; a graph has no memory layout either."""
    return empty(size, dtype=dtype)


def bitwise_and(x: Tensor, y: Tensor) -> Any:
    """``logical_and`` for booleans; integers stay with torch."""
    return aten.logical_and.default(x, y) if x.dtype == y.dtype == torch.bool else NotImplemented


def bitwise_or(x: Tensor, y: Tensor) -> Any:
    """``logical_or`` for booleans; integers stay with torch."""
    return aten.logical_or.default(x, y) if x.dtype == y.dtype == torch.bool else NotImplemented


def bitwise_not(x: Tensor) -> Any:
    """``logical_not`` for booleans; integers stay with torch."""
    return aten.logical_not.default(x) if x.dtype == torch.bool else NotImplemented


def isnan(x: Tensor) -> Tensor:
    """NaN is the one value that differs from itself."""
    out: Tensor = aten.ne.Tensor(x, x)
    return out


def any_dim(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """Whether any entry along ``dim`` is true (not zero)."""
    flags = aten.ne.Scalar(x, 0) if x.dtype != torch.bool else x
    out: Tensor = aten.gt.Scalar(aten.amax.default(flags.to(torch.float32), [dim], keepdim), 0.0)
    return out


def all_dim(x: Tensor, dim: int, keepdim: bool = False) -> Tensor:
    """Whether every entry along ``dim`` is true (not zero)."""
    flags = aten.ne.Scalar(x, 0) if x.dtype != torch.bool else x
    out: Tensor = aten.gt.Scalar(aten.amin.default(flags.to(torch.float32), [dim], keepdim), 0.0)
    return out
