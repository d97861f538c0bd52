"""From an op's function to the arguments that a program gives it.

The functions in :mod:`nagedge.runtimes.mil_program.ops` have MIL's parameter names and defaults; their annotations
say what a parameter is converted to. Constant arguments are converted once, when a program is loaded.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any

import torch
from torch import Tensor

__all__ = ["Parameter", "Rule", "rule"]

CONTEXT = ("opset", "dtypes")
"""Parameters that no program gives: the iOS version of the operator set, and the declared types of the outputs."""

_REDUCED = (torch.float16, torch.bfloat16)


def _tensor(value: Any) -> Tensor:
    """Return a tensor in which to compute: reduced floats in fp32, whose result is rounded once."""
    if not isinstance(value, Tensor):
        raise TypeError(f"expected a tensor, got {_shown(value)}")
    return value.float() if value.dtype in _REDUCED else value


def _int(value: Any) -> int:
    if not isinstance(value, Tensor) or value.numel() != 1 or value.is_floating_point():
        raise TypeError(f"expected one whole number, got {_shown(value)}")
    return int(value)


def _float(value: Any) -> float:
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise TypeError(f"expected one number, got {_shown(value)}")
    return float(value)


def _bool(value: Any) -> bool:
    if not isinstance(value, Tensor) or value.numel() != 1 or value.dtype != torch.bool:
        raise TypeError(f"expected true or false, got {_shown(value)}")
    return bool(value)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, got {_shown(value)}")
    return value


def _ints(value: Any) -> tuple[int, ...]:
    if not isinstance(value, Tensor) or value.dim() > 1 or value.is_floating_point():
        raise TypeError(f"expected a vector of whole numbers, got {_shown(value)}")
    return tuple(int(v) for v in value.reshape(-1).tolist())


def _bools(value: Any) -> tuple[bool, ...]:
    if not isinstance(value, Tensor) or value.dim() > 1 or value.dtype != torch.bool:
        raise TypeError(f"expected a vector of booleans, got {_shown(value)}")
    return tuple(value.reshape(-1).tolist())


def _any(value: Any) -> Any:
    return value


def _shown(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    return f"a {type(value).__name__}"


_CONVERSIONS: dict[Any, Callable[[Any], Any]] = {
    Tensor: _tensor, int: _int, float: _float, bool: _bool, str: _text,
    tuple[int, ...]: _ints, tuple[bool, ...]: _bools, Any: _any, list[Any]: _any,
}  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """One parameter of an op.

    Attributes:
        convert: from a value of the program to what the function takes.
        is_required: whether it has no default.
        is_many: whether it takes several values.
    """

    convert: Callable[[Any], Any]
    is_required: bool
    is_many: bool


@dataclass(frozen=True)
class Rule:
    """An op's function, its parameters by name, and which of :data:`CONTEXT` it takes."""

    function: Callable[..., Any]
    parameters: dict[str, Parameter]
    context: tuple[str, ...]


def rule(function: Callable[..., Any]) -> Rule:
    """Return the rule of a function by its signature."""
    hints = typing.get_type_hints(function)
    parameters: dict[str, Parameter] = {}
    context = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in CONTEXT:
            context.append(name)
            continue
        hint = _without_none(hints[name])
        many = typing.get_origin(hint) is Sequence
        element = typing.get_args(hint)[0] if many else hint
        parameters[name] = Parameter(_CONVERSIONS[element], parameter.default is parameter.empty, many)
    return Rule(function, parameters, tuple(context))


def _without_none(hint: Any) -> Any:
    if isinstance(hint, UnionType):
        (hint,) = [part for part in typing.get_args(hint) if part is not NoneType]
    return hint
