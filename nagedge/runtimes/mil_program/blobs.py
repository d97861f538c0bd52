"""The weight file of a package: constants in Apple's blob storage format, version 2.

Format (``MILBlob/Blob/StorageFormat.hpp``), little-endian: a header of 64 bytes (uint32 count, uint32 version = 2,
reserved); then, for each blob and aligned to 64 bytes, a record of 64 bytes (uint32 sentinel 0xDEADBEEF, uint32 type,
uint64 size in bytes, uint64 offset of the data, uint64 unused bits at the end, reserved), and its data. Elements of
less than a byte are packed from the least significant bit on, without gaps at byte borders.
"""

from __future__ import annotations

import math
import mmap
import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nagedge.errors import BundleError
from nagedge.runtimes.mil_program.dtypes import BLOB_TYPES, DataType

__all__ = ["BlobFile", "unpacked"]

_RECORD_BYTES = 64
_ALIGNMENT = 64
_VERSION = 2
_SENTINEL = 0xDEADBEEF


class BlobFile:
    """A memory-mapped weight file: a tensor shares its pages until something writes to it.

    Raises:
        BundleError: it is no weight file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        size = path.stat().st_size
        if size < _RECORD_BYTES:
            raise self._damaged(f"has {size} bytes, its header alone takes {_RECORD_BYTES}")
        with path.open("rb") as file:
            # Copy on write: torch warns of memory that cannot be written to, though nothing here writes.
            self._data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        _, version = struct.unpack_from("<II", self._data, 0)
        if version != _VERSION:
            raise self._damaged(f"has version {version}, expected {_VERSION}")

    def read(self, offset: int, dtype: DataType, shape: tuple[int, ...]) -> Tensor:
        """Return the constant whose record lies at ``offset``.

        Args:
            offset: of the record, in bytes.
            dtype, shape: what the program says it is.

        Raises:
            BundleError: the record or its data lie outside of the file, or are not of that type and shape.
        """
        if offset % _ALIGNMENT or not 0 < offset <= len(self._data) - _RECORD_BYTES:
            raise self._damaged(f"is asked for a record at byte {offset}, but has {len(self._data)} bytes")
        sentinel, number, size, start = struct.unpack_from("<IIQQ", self._data, offset)
        if sentinel != _SENTINEL:
            raise self._damaged(f"has no record at byte {offset} (found {sentinel:#x} as its mark)")
        stored = BLOB_TYPES.get(number)
        if stored is None:
            raise self._damaged(f"has data of the unknown type {number} at byte {offset}")
        if stored is not dtype:
            raise self._damaged(f"holds {stored.name} at byte {offset}, the program expects {dtype.name}")
        if start % _ALIGNMENT or start > len(self._data) or size > len(self._data) - start:
            raise self._damaged(
                f"is truncated: the data of the record at byte {offset} takes {size} bytes from byte {start} on, the "
                f"file has {len(self._data)}"
            )
        count = math.prod(shape)
        if size != -(-count * dtype.bits // 8):
            raise self._damaged(
                f"holds {size} bytes of {dtype.name} at byte {offset}, the program's shape {list(shape)} takes "
                f"{-(-count * dtype.bits // 8)}"
            )
        if count == 0:
            return torch.empty(shape, dtype=dtype.carrier)
        return unpacked(self._data, dtype, shape, start)

    def _damaged(self, what: str) -> BundleError:
        return BundleError(f"weight file {str(self._path)!r} {what}. Export again, or take it from a backup.")


def unpacked(data: bytearray | mmap.mmap, dtype: DataType, shape: tuple[int, ...], start: int = 0) -> Tensor:
    """Return packed little-endian elements as a tensor; those of whole bytes share memory with ``data``.

    Args:
        data: at least as many bytes from ``start`` on as the elements take; the caller has checked that.
        dtype: of the elements.
        shape: of the tensor, none of its sizes 0.
        start: first byte.
    """
    assert dtype.carrier is not None
    count = math.prod(shape)
    if dtype.bits >= 8:
        # Unsigned integers of 16 and 32 bits are widened: torch computes with neither.
        raw = {"uint16": torch.uint16, "uint32": torch.uint32}.get(dtype.name, dtype.carrier)
        flat = torch.frombuffer(data, dtype=raw, count=count, offset=start)
        return flat.to(dtype.carrier).reshape(shape)
    taken = np.frombuffer(data, np.uint8, -(-count * dtype.bits // 8), start)
    bits = np.unpackbits(taken, bitorder="little")[: count * dtype.bits].reshape(count, dtype.bits)
    values = (bits << np.arange(dtype.bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8)
    if dtype.is_signed:  # two's complement of fewer bits
        values = ((values.astype(np.int16) ^ (1 << (dtype.bits - 1))) - (1 << (dtype.bits - 1))).astype(
            np.int8
        )
    return torch.from_numpy(np.ascontiguousarray(values)).reshape(shape)
