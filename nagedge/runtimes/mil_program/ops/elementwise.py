"""Elementwise ops of one and of two tensors (``elementwise_unary.py``, ``elementwise_binary.py`` of coremltools)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nagedge.runtimes.mil_program.dtypes import BY_NAME, DataType, fit

__all__ = ["OPS"]


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def op(x: Tensor) -> Tensor:
        return function(x)

    return op


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def op(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    return op


def _exp2(x: Tensor) -> Tensor:
    return torch.exp2(x) if x.is_floating_point() else torch.exp2(x.double()).to(x.dtype)


def _real_div(x: Tensor, y: Tensor) -> Tensor:
    """Two integers give an integer, rounded toward zero: what Core ML computes in an ML Program."""
    if x.is_floating_point() or y.is_floating_point():
        return torch.true_divide(x, y)
    return torch.div(x, y, rounding_mode="trunc")


def _default_epsilon(epsilon: float | None, default: float, dtype: DataType) -> float:
    """Return MIL's default in the type of the op: 1e-45 is 0 in fp16."""
    return epsilon if epsilon is not None else float(torch.tensor(default, dtype=dtype.carrier))


def inverse(x: Tensor, epsilon: float | None = None, *, dtypes: tuple[DataType, ...]) -> Tensor:
    """Return ``1 / (x + epsilon)``; epsilon is 1e-4 unless given."""
    return torch.reciprocal(x + _default_epsilon(epsilon, 1e-4, dtypes[0]))


def log(x: Tensor, epsilon: float | None = None, *, dtypes: tuple[DataType, ...]) -> Tensor:
    """Return ``log(x + epsilon)``; epsilon is 1e-45 unless given."""
    return torch.log(x + _default_epsilon(epsilon, 1e-45, dtypes[0]))


def rsqrt(x: Tensor, epsilon: float | None = None, *, dtypes: tuple[DataType, ...]) -> Tensor:
    """Return ``1 / sqrt(x + epsilon)``; epsilon is 1e-12 unless given."""
    return 1.0 / torch.sqrt(x + _default_epsilon(epsilon, 1e-12, dtypes[0]))


def clip(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """Return ``min(max(x, alpha), beta)``."""
    return torch.minimum(torch.maximum(x, alpha.to(x.dtype)), beta.to(x.dtype))


def threshold(x: Tensor, alpha: Tensor) -> Tensor:
    """Return ``max(x, alpha)``."""
    return torch.maximum(x, alpha.to(x.dtype))


def cast(x: Tensor, dtype: str) -> Tensor:
    """Return ``x`` in another type: floats are truncated toward zero to integers, any number but 0 is true."""
    if dtype not in BY_NAME or BY_NAME[dtype].carrier is None:
        raise ValueError(f"dtype is {dtype!r}, expected one of {', '.join(BY_NAME)}")
    return fit(x, BY_NAME[dtype])


OPS: dict[str, Callable[..., Any]] = {
    "abs": _unary(torch.abs),
    "acos": _unary(torch.acos),
    "asin": _unary(torch.asin),
    "atan": _unary(torch.atan),
    "atanh": _unary(torch.atanh),
    "cast": cast,
    "ceil": _unary(torch.ceil),
    "clip": clip,
    "cos": _unary(torch.cos),
    "cosh": _unary(torch.cosh),
    "erf": _unary(torch.erf),
    "exp": _unary(torch.exp),
    "exp2": _unary(_exp2),
    "floor": _unary(torch.floor),
    "inverse": inverse,
    "log": log,
    "logical_not": _unary(torch.logical_not),
    "round": _unary(torch.round),  # halves to even
    "rsqrt": rsqrt,
    "sign": _unary(torch.sign),
    "sin": _unary(torch.sin),
    "sinh": _unary(torch.sinh),
    "sqrt": _unary(torch.sqrt),
    "square": _unary(torch.square),
    "tan": _unary(torch.tan),
    "tanh": _unary(torch.tanh),
    "threshold": threshold,
    "add": _binary(torch.add),
    "equal": _binary(torch.eq),
    "floor_div": _binary(torch.floor_divide),
    "greater": _binary(torch.gt),
    "greater_equal": _binary(torch.ge),
    "less": _binary(torch.lt),
    "less_equal": _binary(torch.le),
    "logical_and": _binary(torch.logical_and),
    "logical_or": _binary(torch.logical_or),
    "logical_xor": _binary(torch.logical_xor),
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "mod": _binary(torch.remainder),  # the sign of the divisor, as Python's %
    "mul": _binary(torch.mul),
    "not_equal": _binary(torch.ne),
    "pow": _binary(torch.pow),
    "real_div": _binary(_real_div),
    "sub": _binary(torch.sub),
}
"""Op type -> its function."""
