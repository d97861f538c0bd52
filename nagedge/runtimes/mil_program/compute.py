"""One op: its function called, its results brought into their declared types."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nagedge.errors import BundleError
from nagedge.runtimes.mil_program.dtypes import fit
from nagedge.runtimes.mil_program.structure import Op
from nagedge.runtimes.mil_program.values import TensorType, Value, ValueType

__all__ = ["call", "declared"]


def call(op: Op, arguments: dict[str, Any], opset: int, where: str) -> tuple[Value, ...]:
    """Return the results of an op that has a rule.

    Raises:
        BundleError: they are not what the program declares.
    """
    assert op.rule is not None
    context: dict[str, Any] = {}
    if "opset" in op.rule.context:
        context["opset"] = opset
    if "dtypes" in op.rule.context:
        context["dtypes"] = tuple(kind.dtype for _, kind in op.outputs if isinstance(kind, TensorType))
    result = op.rule.function(**arguments, **context)
    values = result if isinstance(result, tuple) else (result,)
    if len(values) != len(op.outputs):
        raise BundleError(
            f"{where} gives {len(values)} results, the program declares {len(op.outputs)}. Export again."
        )
    return tuple(declared(value, kind, where) for value, (_, kind) in zip(values, op.outputs, strict=True))


def declared(value: Value, kind: ValueType, where: str) -> Value:
    """Return a value in its declared type: floats rounded once, integers wrapped.

    Raises:
        BundleError: it has another shape, or is of another kind.
    """
    if not isinstance(kind, TensorType) or kind.dtype.carrier is None:
        return value
    if not isinstance(value, Tensor) or _class(value) != _declared_class(kind):
        got = _class(value) if isinstance(value, Tensor) else type(value).__name__
        raise BundleError(
            f"{where} gives {got} values, the program declares {kind.dtype.name}. Export again."
        )
    shape = kind.shape
    if shape is not None and not _fits(tuple(value.shape), shape):
        raise BundleError(
            f"{where} gives the shape {list(value.shape)}, the program declares "
            f"[{', '.join('?' if size is None else str(size) for size in shape)}]. Export again."
        )
    return fit(value, kind.dtype)


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        size is None or size == got for got, size in zip(shape, expected, strict=True)
    )


def _class(value: Tensor) -> str:
    if value.is_floating_point():
        return "floating"
    return "boolean" if value.element_size() == 1 and str(value.dtype) == "torch.bool" else "whole"


def _declared_class(kind: TensorType) -> str:
    if kind.dtype.is_float:
        return "floating"
    return "boolean" if kind.dtype.name == "bool" else "whole"
