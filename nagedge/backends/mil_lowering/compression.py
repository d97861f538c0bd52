"""Compressed weights: int8 with one scale an output channel, or 4-bit indices into a table of 16 values.

Core ML stores them as ``constexpr_*`` operators (iOS 16) and decompresses them when it loads the model or when it
computes. Only weights are compressed: tensors of two axes or more, large enough to be worth it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CHANNELS", "SMALLEST", "Compression", "palette", "palettes", "quantized"]

SMALLEST = 512
"""Tensors with fewer values stay as they are: a table or scales would outweigh what is saved."""

CHANNELS = 16
"""Output channels that share a table, where tables may differ: channels of a layer differ in scale."""

_ROUNDS = 200
_VALUES = 16


@dataclass(frozen=True)
class Compression:
    """How the weights of a program are stored.

    Attributes:
        kind: ``"int8"`` or ``"palette4"``.
    """

    kind: str

    def applies_to(self, array: npt.NDArray[Any]) -> bool:
        """Whether a weight is compressed: floating, at least a matrix, and large enough."""
        large = array.dtype.kind == "f" and array.ndim >= 2 and array.size >= SMALLEST
        return large and bool(np.isfinite(array).all())

    def constant(self, mb: Any, name: str, array: npt.NDArray[Any], axis: int, *, opset: int) -> Any:
        """Return the compressed constant of a weight.

        Args:
            mb: coremltools' builder.
            name: of the constant.
            array: float32 or float16, the type of the decompressed weight too.
            axis: of its output channels.
            opset: the iOS version; from iOS 18 on, a palette has one table for each :data:`CHANNELS` channels.
        """
        wide = array.astype(np.float32)
        if self.kind == "int8":
            data, scale = quantized(wide, axis)
            return mb.constexpr_affine_dequantize(
                quantized_data=data, zero_point=np.int8(0), scale=scale.astype(array.dtype), axis=np.int32(axis),
                name=name,
            )  # fmt: skip
        if opset < 18:
            table, indices = palette(wide)
            packed = indices[0::2] | np.append(indices[1::2], np.zeros(indices.size % 2, np.uint8)) << 4
            return mb.constexpr_lut_to_dense(
                indices=packed.astype(np.uint8), lut=table.astype(array.dtype),
                shape=np.asarray(array.shape, np.uint32), name=name,
            )  # fmt: skip
        tables, places = palettes(wide, axis)
        return mb.constexpr_lut_to_dense(
            indices=_four_bits(places), lut=tables.astype(array.dtype), name=name
        )


def _four_bits(indices: npt.NDArray[np.uint8]) -> npt.NDArray[Any]:
    """Mark numbers below 16 as MIL's type of four bits."""
    from coremltools.converters.mil.mil import types

    return indices.astype(types.np_uint4_dtype)


def palettes(
    array: npt.NDArray[np.float32], axis: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return a table for each :data:`CHANNELS` entries of ``axis``, and the index of every entry of ``array``.

    The tables have shape ``[.., 16, 1]``, with the axes of ``array`` in front: one table, but along ``axis``.
    """
    count = array.shape[axis] // CHANNELS if array.shape[axis] % CHANNELS == 0 else 1
    found = [palette(part) for part in np.split(array, count, axis)]
    shape = [count if i == axis else 1 for i in range(array.ndim)]
    tables = np.stack([table for table, _ in found]).reshape([*shape, _VALUES, 1])
    parts = np.split(array, count, axis)
    indices = [flat.reshape(part.shape) for (_, flat), part in zip(found, parts, strict=True)]
    return tables, np.concatenate(indices, axis)


def quantized(
    array: npt.NDArray[np.float32], axis: int
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Return int8 values and one scale an entry of ``axis``: ``array`` is about ``scale * values``.

    Symmetric: the largest magnitude of a channel becomes 127, and zero stays zero.
    """
    others = tuple(i for i in range(array.ndim) if i != axis)
    largest = np.abs(array).max(axis=others)
    scale = np.where(largest > 0, largest / 127.0, 1.0).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    values = np.clip(np.rint(array / scale.reshape(shape)), -127, 127).astype(np.int8)
    return values, scale


def palette(array: npt.NDArray[np.float32]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return 16 values and, flat, the index of the nearest one for every entry.

    The values minimise the squared error as far as Lloyd's algorithm finds (k-means in one dimension, whose two steps
    sorted values make exact: Lloyd, "Least squares quantization in PCM", 1982). It is started from classes of as many
    entries each, from classes as wide as each other, and from classes as dense as the cube root of the density of the
    entries, which is best for many values (Panter and Dite 1951); the best end is taken.
    """
    ordered = np.sort(array, axis=None).astype(np.float64)
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    reach = np.concatenate([[0.0], np.cumsum(np.diff(ordered) ** (2 / 3))])
    shares = np.linspace(0, 1, _VALUES + 1)[1:-1]
    starts = [
        np.concatenate(
            [[0], np.searchsorted(scale, scale[0] + shares * (scale[-1] - scale[0])), [ordered.size]]
        )
        for scale in (np.arange(ordered.size), ordered, reach)
    ]
    found = [_lloyd(ordered, sums, edges) for edges in starts]
    values = max(found, key=lambda end: end[1])[0]
    table = np.sort(values).astype(np.float32)
    indices = np.searchsorted((table[1:].astype(np.float64) + table[:-1]) / 2, array.reshape(-1)).astype(
        np.uint8
    )
    return table, indices


def _lloyd(
    ordered: npt.NDArray[np.float64], sums: npt.NDArray[np.float64], edges: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.float64], float]:
    """Return the values of the classes, and what they explain: the larger, the smaller the squared error."""
    values = _means(sums, edges, np.linspace(ordered[0], ordered[-1], _VALUES))
    for _ in range(_ROUNDS):
        inner = np.searchsorted(ordered, (values[1:] + values[:-1]) / 2)
        moved = np.concatenate([[0], inner, [ordered.size]])
        if np.array_equal(moved, edges):
            break
        edges = moved
        values = _means(sums, edges, values)
    counts = np.diff(edges)
    return values, float((np.diff(sums[edges]) ** 2 / np.maximum(counts, 1)).sum())


def _means(
    sums: npt.NDArray[np.float64], edges: npt.NDArray[np.int64], empty: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Return the mean of each class of sorted values; an empty class keeps its value."""
    counts = np.diff(edges)
    means = np.diff(sums[edges]) / np.maximum(counts, 1)
    return np.where(counts > 0, means, empty)
