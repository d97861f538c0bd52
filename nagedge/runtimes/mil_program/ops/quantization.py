"""Compressed constants (``constexpr_*``) and quantised tensors.

Sources: ``iOS16/constexpr_ops.py``, ``iOS17/quantization_ops.py``, ``iOS18/compression.py`` of coremltools. Scale and
shift are computed in fp32 and rounded once to the type of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nagedge.runtimes.mil_program.dtypes import BY_NAME, DataType, fit

__all__ = ["OPS"]


def constexpr_affine_dequantize(
    quantized_data: Tensor, zero_point: Tensor, scale: Tensor, axis: int
) -> Tensor:
    """Return ``scale * (quantized_data - zero_point)``; vectors lie along ``axis``."""
    return dequantize(quantized_data, scale, zero_point, axis)


def constexpr_blockwise_shift_scale(data: Tensor, scale: Tensor, offset: Tensor | None = None) -> Tensor:
    """Return ``scale * (data - offset)``, one scale and offset a block: as many values as the sizes divide into."""
    wide = data.to(torch.float32)
    shifted = wide if offset is None else wide - _repeated(offset, data.shape).to(torch.float32)
    return _repeated(scale, data.shape) * shifted


def constexpr_cast(source_val: Tensor, output_dtype: str) -> Tensor:
    """Return a constant in another type."""
    return fit(source_val, BY_NAME[output_dtype])


def constexpr_lut_to_dense(
    indices: Tensor, lut: Tensor, shape: tuple[int, ...] | None = None, vector_axis: int | None = None
) -> Tensor:
    """Return the entries of a table, or of a table a block, at ``indices``.

    Up to iOS 17 the indices are packed in bytes and come with a ``shape``. Afterwards ``lut`` has two dimensions more
    than they: entries, and the elements of an entry, which lie along ``vector_axis`` of the result.
    """
    if shape is not None:
        bits = int(math.log2(lut.numel()))
        return lut[_unpacked(indices, bits, math.prod(shape))].reshape(shape)
    if lut.dim() != indices.dim() + 2:
        raise ValueError(f"lut has rank {lut.dim()}, expected {indices.dim() + 2}")
    entries, elements = lut.shape[-2:]
    blocks = torch.arange(math.prod(lut.shape[:-2])).reshape(lut.shape[:-2])
    rows = _repeated(blocks, indices.shape) * entries + indices.to(torch.int64)
    if int(indices.max() if indices.numel() else 0) >= entries:
        raise IndexError(f"indices reach {int(indices.max())}, the table has {entries} entries")
    values = lut.reshape(-1, elements)[rows]
    if elements == 1:
        return values.squeeze(-1)
    if vector_axis is None:
        raise ValueError(f"vector_axis is missing, expected for entries of {elements} elements")
    at = vector_axis % indices.dim()
    return values.movedim(-1, at + 1).flatten(at, at + 1)


def constexpr_sparse_to_dense(
    nonzero_data: Tensor, mask: Tensor, shape: tuple[int, ...] | None = None
) -> Tensor:
    """Return zeros with values where the mask is set; up to iOS 17 the mask is packed in bytes."""
    whole = mask if shape is None else _unpacked(mask, 1, math.prod(shape)).reshape(shape)
    return _spread(nonzero_data, whole)


def constexpr_lut_to_sparse(
    indices_mask: Tensor, indices_nonzero_data: Tensor, lut: Tensor, vector_axis: int | None = None
) -> tuple[Tensor, Tensor]:
    """Return the mask and the values of a sparse tensor whose values are entries of a table."""
    dense = constexpr_lut_to_dense(_spread(indices_nonzero_data, indices_mask), lut, None, vector_axis)
    elements = lut.shape[-1]
    mask = indices_mask if vector_axis is None else indices_mask.repeat_interleave(elements, vector_axis)
    return mask, dense[mask != 0]


def constexpr_sparse_blockwise_shift_scale(
    data_mask: Tensor, nonzero_data: Tensor, scale: Tensor, offset: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the mask and the scaled values of a sparse tensor."""
    dense = constexpr_blockwise_shift_scale(_spread(nonzero_data, data_mask), scale, offset)
    return data_mask, dense[data_mask != 0]


def quantize(
    input: Tensor,  # noqa: A002 # MIL's name
    scale: Tensor,
    output_dtype: str,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """Return ``clip(round(input / scale) + zero_point)``, halves rounded to even."""
    dtype = BY_NAME[output_dtype]
    rounded = torch.round(input / _along(scale, input, axis))
    shifted = rounded if zero_point is None else rounded + _along(zero_point, input, axis)
    low, high = _range(dtype)
    return fit(shifted.clamp(low, high), dtype)


def dequantize(
    input: Tensor,  # noqa: A002 # MIL's name
    scale: Tensor,
    zero_point: Tensor | None = None,
    axis: int | None = None,
) -> Tensor:
    """Return ``scale * (input - zero_point)``."""
    wide = input.to(torch.float32)
    shifted = wide if zero_point is None else wide - _along(zero_point, input, axis).to(torch.float32)
    return _along(scale, input, axis) * shifted


def _range(dtype: DataType) -> tuple[int, int]:
    if dtype.is_signed:
        return -(1 << (dtype.bits - 1)), (1 << (dtype.bits - 1)) - 1
    return 0, (1 << dtype.bits) - 1


def _along(values: Tensor, x: Tensor, axis: int | None) -> Tensor:
    """Return a vector as a tensor that is broadcast along all other axes of ``x``; a scalar as it is."""
    if values.dim() == 0:
        return values
    if axis is None:
        raise ValueError("axis is missing, expected for a vector of scales")
    at = axis % x.dim()
    if values.numel() not in {1, x.shape[at]}:
        raise ValueError(f"{values.numel()} scales along an axis of {x.shape[at]} values")
    return values.reshape([-1 if i == at else 1 for i in range(x.dim())])


def _repeated(values: Tensor, sizes: torch.Size) -> Tensor:
    """Return one value a block as one an element."""
    if values.dim() != len(sizes) or any(
        size % blocks for size, blocks in zip(sizes, values.shape, strict=True)
    ):
        raise ValueError(f"blocks of {list(values.shape)} do not divide {list(sizes)}")
    for axis, (size, blocks) in enumerate(zip(sizes, values.shape, strict=True)):
        if size != blocks:
            values = values.repeat_interleave(size // blocks, axis)
    return values


def _spread(values: Tensor, mask: Tensor) -> Tensor:
    count = int((mask != 0).sum())
    if values.dim() != 1 or values.numel() != count:
        raise ValueError(f"nonzero_data has shape {list(values.shape)}, the mask {count} bits set")
    dense = torch.zeros(mask.shape, dtype=values.dtype)
    dense[mask != 0] = values
    return dense


def _unpacked(data: Tensor, bits: int, count: int) -> Tensor:
    """Return ``count`` unsigned numbers of ``bits`` bits, packed from the least significant bit on, as int64."""
    if data.numel() != -(-count * bits // 8):
        raise ValueError(
            f"{data.numel()} bytes hold {count} numbers of {bits} bits, expected {-(-count * bits // 8)}"
        )
    flat = np.unpackbits(data.to(torch.uint8).numpy(), bitorder="little")[: count * bits].reshape(count, bits)
    return torch.from_numpy((flat.astype(np.int64) << np.arange(bits)).sum(1))


OPS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        constexpr_affine_dequantize, constexpr_blockwise_shift_scale, constexpr_cast, constexpr_lut_to_dense,
        constexpr_lut_to_sparse, constexpr_sparse_blockwise_shift_scale, constexpr_sparse_to_dense, dequantize,
        quantize,
    )
}  # fmt: skip
"""Op type -> its function."""
