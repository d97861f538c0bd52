"""A TensorFlow Lite model as plain data: what the lowering makes and the serializer writes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import sympy  # type: ignore[import-untyped]  # ships no types

__all__ = ["ABSENT", "Operation", "Origin", "Size", "Subgraph", "Tensor", "product_of", "size_at"]

Size: TypeAlias = int | sympy.Expr
"""A size: a number, or an expression in the batch size."""

ABSENT = -1
"""The index of an optional input that is not given."""


@dataclass(frozen=True)
class Origin:
    """From which tensor of the model a constant comes: ``model_tensor.transpose(order).reshape(constant.shape)``.

    Attributes:
        name: of the model's tensor.
        shape: of the model's tensor.
        order: the axis of the model's tensor that is stored at each place, before the reshape.
    """

    name: str
    shape: tuple[int, ...]
    order: tuple[int, ...]


@dataclass
class Tensor:
    """One tensor of a subgraph.

    Attributes:
        name: unique in its subgraph.
        dtype: of its elements.
        sizes: of its axes.
        data: the values of a constant, else None.
        origin: of a constant that is a tensor of the model with its axes in another order.
        exact: part of a formula that int8 would ruin.
    """

    name: str
    dtype: np.dtype[Any]
    sizes: tuple[Size, ...]
    data: npt.NDArray[Any] | None = None
    origin: Origin | None = None
    exact: bool = False


@dataclass
class Operation:
    """One builtin operator.

    Attributes:
        kind: name in the schema's ``BuiltinOperator``.
        inputs, outputs: indices of tensors; :data:`ABSENT` for an input that is not given.
        options: fields of the operator's options table, in the schema's spelling.
    """

    kind: str
    inputs: list[int]
    outputs: list[int]
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Subgraph:
    """One subgraph, reached through the signature of the same name.

    Attributes:
        name: of the subgraph and its signature.
        tensors, operations: in an order in which they can run.
        inputs, outputs: by their name in the signature, the index of the tensor.
    """

    name: str
    tensors: list[Tensor]
    operations: list[Operation]
    inputs: dict[str, int]
    outputs: dict[str, int]


def product_of(sizes: Iterable[Size]) -> Size:
    """Return the product of sizes; 1 of none."""
    result: Size = 1
    for size in sizes:
        result = result * size
    return result


def size_at(size: Size, batch: int) -> int:
    """Return the value of a size when every symbol in it is ``batch``."""
    if isinstance(size, int):
        return size
    return int(size.subs(dict.fromkeys(size.free_symbols, batch)))
