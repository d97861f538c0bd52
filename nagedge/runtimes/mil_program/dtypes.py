"""The element types of MIL, and the torch dtypes that carry their values here.

torch has no arithmetic for uint16, uint32 and the types of less than a byte: a wider integer carries those, and
:func:`fit` brings results back into range. Numbers are those of ``DataType`` in coremltools' ``MIL.proto`` and of
``BlobDataType`` in ``MILBlob/Blob/BlobDataType.hpp``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BLOB_TYPES", "BY_NAME", "LARGEST", "PROTO_TYPES", "DataType", "checked_sizes", "fit"]


@dataclass(frozen=True)
class DataType:
    """One element type.

    Attributes:
        name: as MIL's text and the op ``cast`` write it.
        carrier: the torch dtype of values of this type; None for strings.
        bits: of one element in a file.
    """

    name: str
    carrier: torch.dtype | None
    bits: int

    @property
    def is_float(self) -> bool:
        """Whether it holds real numbers."""
        return self.carrier is not None and self.carrier.is_floating_point

    @property
    def is_signed(self) -> bool:
        """Whether it holds negative integers."""
        return self.name.startswith("int")

    @property
    def is_carried_wider(self) -> bool:
        """Whether its carrier holds numbers that it does not."""
        return self.carrier is not None and self.carrier.itemsize * 8 > self.bits and self.name != "bool"


BOOL = DataType("bool", torch.bool, 8)
FP16 = DataType("fp16", torch.float16, 16)
FP32 = DataType("fp32", torch.float32, 32)
INT32 = DataType("int32", torch.int32, 32)

_TYPES = (
    BOOL,
    DataType("string", None, 0),
    FP16,
    FP32,
    DataType("fp64", torch.float64, 64),
    DataType("bf16", torch.bfloat16, 16),
    DataType("fp8e4m3fn", torch.float8_e4m3fn, 8),
    DataType("fp8e5m2", torch.float8_e5m2, 8),
    DataType("int4", torch.int8, 4),
    DataType("int8", torch.int8, 8),
    DataType("int16", torch.int16, 16),
    INT32,
    DataType("int64", torch.int64, 64),
    DataType("uint1", torch.uint8, 1),
    DataType("uint2", torch.uint8, 2),
    DataType("uint3", torch.uint8, 3),
    DataType("uint4", torch.uint8, 4),
    DataType("uint6", torch.uint8, 6),
    DataType("uint8", torch.uint8, 8),
    DataType("uint16", torch.int32, 16),
    DataType("uint32", torch.int64, 32),
    DataType("uint64", torch.int64, 64),
)

BY_NAME = {dtype.name: dtype for dtype in _TYPES}
"""Name -> type."""

PROTO_TYPES = {
    number: BY_NAME[name]
    for number, name in {
        1: "bool", 2: "string", 10: "fp16", 11: "fp32", 12: "fp64", 13: "bf16", 40: "fp8e4m3fn", 41: "fp8e5m2",
        21: "int8", 22: "int16", 23: "int32", 24: "int64", 25: "int4", 31: "uint8", 32: "uint16", 33: "uint32",
        34: "uint64", 35: "uint4", 36: "uint2", 37: "uint1", 38: "uint6", 39: "uint3",
    }.items()
}  # fmt: skip
"""Number in a program -> type."""

BLOB_TYPES = {
    number: BY_NAME[name]
    for number, name in {
        1: "fp16", 2: "fp32", 3: "uint8", 4: "int8", 5: "bf16", 6: "int16", 7: "uint16", 8: "int4", 9: "uint1",
        10: "uint2", 11: "uint4", 12: "uint3", 13: "uint6", 14: "int32", 15: "uint32", 16: "fp8e4m3fn", 17: "fp8e5m2",
    }.items()
}  # fmt: skip
"""Number in a weight file -> type."""


LARGEST = 2**30
"""Elements of the largest tensor that is made: a program for a phone has none near it, a hostile one may ask for it."""


def checked_sizes(sizes: Iterable[int]) -> list[int]:
    """Return the sizes of a tensor to make.

    Raises:
        ValueError: one is negative, or they are too many elements.
    """
    result = list(sizes)
    if any(size < 0 for size in result) or math.prod(result) > LARGEST:
        raise ValueError(f"a tensor of the shape {result}, expected at most {LARGEST} elements")
    return result


def fit(x: Tensor, dtype: DataType) -> Tensor:
    """Return ``x`` as a value of ``dtype``: floats rounded once to nearest, integers wrapped into its range.

    A float that no integer of the type is near gives whatever torch gives: MIL leaves it undefined.
    """
    assert dtype.carrier is not None  # strings are no tensors
    if x.dtype == dtype.carrier and not dtype.is_carried_wider:
        return x
    if not dtype.is_carried_wider:
        return x.to(dtype.carrier)
    wide = x.to(torch.int64)
    low = -(1 << (dtype.bits - 1)) if dtype.is_signed else 0
    return ((wide - low) % (1 << dtype.bits) + low).to(dtype.carrier)
