"""Types and constants of a program: from protobuf messages to tensors, checked on the way."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nagedge.errors import BundleError
from nagedge.runtimes.mil_program.blobs import BlobFile, unpacked
from nagedge.runtimes.mil_program.dtypes import LARGEST, PROTO_TYPES, DataType
from nagedge.runtimes.mil_program.package import Package

__all__ = ["Constants", "OtherType", "StateType", "TensorType", "Value", "ValueType", "value_type"]

_MOST_DIMENSIONS = 64

Value = Any
"""A tensor, a string, a list or a dictionary: what a name of a program stands for."""


@dataclass(frozen=True)
class TensorType:
    """Element type and sizes; None for a size that only a run knows, or for all of them."""

    dtype: DataType
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True)
class StateType:
    """A state that lives from run to run (iOS 18)."""

    wrapped: TensorType


@dataclass(frozen=True)
class OtherType:
    """A list, a tuple or a dictionary: nothing of it is checked."""

    kind: str


ValueType = TensorType | StateType | OtherType


def value_type(message: Any, where: str) -> ValueType:
    """Return the type that a ``ValueType`` message describes.

    Args:
        message: the message.
        where: names the value in error texts.

    Raises:
        BundleError: an unknown element type, or sizes that contradict each other.
    """
    kind = message.WhichOneof("type")
    if kind == "tensorType":
        return _tensor_type(message.tensorType, where)
    if kind == "stateType":
        wrapped = value_type(message.stateType.wrappedType, where)
        if not isinstance(wrapped, TensorType):
            raise BundleError(f"{where} is a state of no tensor: expected stateType of tensorType.")
        return StateType(wrapped)
    if kind is None:
        raise BundleError(f"{where} has no type: the program is damaged. Export again.")
    return OtherType(kind)


def _tensor_type(message: Any, where: str) -> TensorType:
    dtype = PROTO_TYPES.get(message.dataType)
    if dtype is None:
        raise BundleError(
            f"{where} has the unknown element type {message.dataType}. Update coremltools and NagEdge."
        )
    sizes: list[int | None] = []
    for dimension in message.dimensions:
        kind = dimension.WhichOneof("dimension")
        if kind == "unknown" and dimension.unknown.variadic:
            return TensorType(dtype, None)
        sizes.append(dimension.constant.size if kind == "constant" else None)
    if message.rank < 0:
        return TensorType(dtype, None)
    if message.rank != len(sizes) or len(sizes) > _MOST_DIMENSIONS:
        raise BundleError(
            f"{where} has rank {message.rank} but {len(sizes)} sizes: the program is damaged. Export again."
        )
    if math.prod(size for size in sizes if size is not None) > LARGEST:
        raise BundleError(
            f"{where} has the shape {sizes}: more than the {LARGEST} elements that are taken. Do not use it."
        )
    return TensorType(dtype, tuple(sizes))


class Constants:
    """Reads the constants of one program; each weight file is mapped once."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._files: dict[str, BlobFile] = {}

    def read(self, message: Any, where: str) -> Value:
        """Return what a ``Value`` message holds.

        Raises:
            BundleError: type and content contradict each other, or the weight file is damaged.
        """
        kind = message.WhichOneof("value")
        expected = value_type(message.type, where)
        if kind == "blobFileValue":
            if not isinstance(expected, TensorType) or expected.dtype.carrier is None:
                raise BundleError(f"{where} reads something other than numbers from a weight file.")
            name = message.blobFileValue.fileName
            return self._file(name).read(
                message.blobFileValue.offset, expected.dtype, _static(expected, where)
            )
        if kind != "immediateValue":
            raise BundleError(f"{where} has no value: the program is damaged. Export again.")
        return self._immediate(message.immediateValue, expected, where)

    def _file(self, name: str) -> BlobFile:
        if name not in self._files:
            self._files[name] = BlobFile(self._package.weight_file(name))
        return self._files[name]

    def _immediate(self, message: Any, expected: ValueType, where: str) -> Value:
        kind = message.WhichOneof("value")
        if kind == "tensor":
            if not isinstance(expected, TensorType):
                raise BundleError(f"{where} holds a tensor, its type is another: the program is damaged.")
            return _immediate_tensor(message.tensor, expected, where)
        if kind in {"list", "tuple"}:
            return [self.read(value, where) for value in getattr(message, kind).values]
        if kind == "dictionary":
            pairs = [(self.read(p.key, where), self.read(p.value, where)) for p in message.dictionary.values]
            return {key if isinstance(key, str) else int(key): value for key, value in pairs}
        raise BundleError(f"{where} has no value: the program is damaged. Export again.")


def _static(expected: TensorType, where: str) -> tuple[int, ...]:
    if expected.shape is None or None in expected.shape:
        raise BundleError(
            f"{where} is a constant whose shape is not known: the program is damaged. Export again."
        )
    return tuple(size for size in expected.shape if size is not None)


def _immediate_tensor(message: Any, expected: TensorType, where: str) -> Value:
    kind = message.WhichOneof("value")
    shape = _static(expected, where)
    count = math.prod(shape)
    values = getattr(message, kind).values if kind is not None else ()
    if expected.dtype.carrier is None:
        return _strings(values, kind, shape, where)
    if kind == "bytes":
        size = -(-count * expected.dtype.bits // 8)
        _check_count(len(values), size, "bytes", expected, where)
        if count == 0:
            return torch.empty(shape, dtype=expected.dtype.carrier)
        return unpacked(bytearray(values), expected.dtype, shape)
    fits: dict[str | None, Callable[[], bool]] = {
        "floats": lambda: expected.dtype.is_float,
        "doubles": lambda: expected.dtype.is_float,
        "ints": lambda: not expected.dtype.is_float and expected.dtype.name != "bool",
        "longInts": lambda: not expected.dtype.is_float and expected.dtype.name != "bool",
        "bools": lambda: expected.dtype.name == "bool",
        None: lambda: count == 0,
    }
    if kind not in fits or not fits[kind]():
        raise BundleError(
            f"{where} is declared as {expected.dtype.name}, but holds {kind}: the program is damaged."
        )
    _check_count(len(values), count, "values", expected, where)
    return _tensor(list(values), expected.dtype, shape)


def _tensor(values: list[Any], dtype: DataType, shape: tuple[int, ...]) -> Tensor:
    return torch.tensor(values, dtype=dtype.carrier).reshape(shape)


def _strings(values: Any, kind: str | None, shape: tuple[int, ...], where: str) -> str | list[str]:
    if kind != "strings" or len(values) != math.prod(shape):
        raise BundleError(
            f"{where} is declared as text, but holds {kind}: the program is damaged. Export again."
        )
    return str(values[0]) if not shape else [str(value) for value in values]


def _check_count(got: int, expected_count: int, what: str, expected: TensorType, where: str) -> None:
    if got != expected_count:
        raise BundleError(
            f"{where} is {expected.dtype.name} {list(expected.shape or ())} and holds {got} {what}, expected "
            f"{expected_count}: the program is damaged. Export again, or take it from a backup."
        )
