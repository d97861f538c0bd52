"""The inputs and outputs of a model, and the conversion of what is fed to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nagedge.errors import BundleError, DataError
from nagedge.runtimes.mil_program.dtypes import DataType
from nagedge.runtimes.mil_program.values import TensorType

__all__ = ["Feature", "features_of"]

_UNBOUNDED = -1


@dataclass(frozen=True)
class Feature:
    """One input or output.

    Attributes:
        name: in the program.
        kind: its tensor type; None for outputs, which say it themselves.
        shapes: the shapes allowed, where they are listed.
        ranges: lowest and highest size of each dimension, where they are given; None for no upper end.
    """

    name: str
    kind: TensorType | None
    shapes: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int | None], ...] = ()

    def converted(self, array: npt.NDArray[Any]) -> Tensor:
        """Return an array as the tensor that the program takes.

        Raises:
            DataError: it has another shape, or the conversion would change whole numbers.
        """
        assert self.kind is not None
        given = np.asarray(array)
        self._check_shape(given.shape)
        return _converted(given, self.kind.dtype, f"input {self.name!r}")

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        assert self.kind is not None
        declared = self.kind.shape
        fits = declared is None or (
            len(declared) == len(shape)
            and all(size is None or size == got for got, size in zip(shape, declared, strict=True))
        )
        if fits and self.shapes:
            fits = shape in self.shapes
        if fits and self.ranges:
            fits = len(self.ranges) == len(shape) and all(
                low <= got and (high is None or got <= high)
                for got, (low, high) in zip(shape, self.ranges, strict=True)
            )
        if not fits:
            raise DataError(f"input {self.name!r} has shape {list(shape)}, expected {self._expected()}.")

    def _expected(self) -> str:
        if self.shapes:
            return " or ".join(str(list(shape)) for shape in self.shapes)
        if self.ranges:
            sizes = [
                str(low) if low == high else f"{low} to {high}" if high is not None else f"{low} or more"
                for low, high in self.ranges
            ]
            return f"[{', '.join(sizes)}]"
        shape = self.kind.shape if self.kind is not None else None
        return (
            "any" if shape is None else f"[{', '.join('?' if size is None else str(size) for size in shape)}]"
        )


def features_of(
    descriptions: Iterable[Any], types: Mapping[str, TensorType] | None, where: str
) -> dict[str, Feature]:
    """Return the features that a model describes.

    Args:
        descriptions: ``FeatureDescription`` messages.
        types: tensor types of the inputs by name; None for outputs.
        where: names the function in error texts.

    Raises:
        BundleError: a feature is described that the function does not have, or is not described.
    """
    found: dict[str, Feature] = {}
    for description in descriptions:
        array = description.type.multiArrayType
        shapes = tuple(tuple(entry.shape) for entry in array.enumeratedShapes.shapes)
        ranges = tuple(
            (entry.lowerBound, None if entry.upperBound == _UNBOUNDED else entry.upperBound)
            for entry in array.shapeRange.sizeRanges
        )
        kind = None if types is None else types.get(description.name)
        found[description.name] = Feature(description.name, kind, shapes, ranges)
    if types is not None and set(types) != set(found):
        raise BundleError(
            f"{where} takes {', '.join(sorted(types)) or 'nothing'}, the model describes "
            f"{', '.join(sorted(found)) or 'nothing'}. Export again."
        )
    return found


def _converted(array: npt.NDArray[Any], dtype: DataType, what: str) -> Tensor:
    kind = array.dtype.kind
    if dtype.is_float:
        if kind not in "fiub":
            raise DataError(f"{what} has dtype {array.dtype}, expected {dtype.name}: convert it first.")
        return torch.from_numpy(np.array(array, order="C")).to(dtype.carrier)
    if kind not in "iub" and not (kind == "f" and np.array_equal(array, np.trunc(array))):
        raise DataError(f"{what} has dtype {array.dtype}, expected {dtype.name}: convert it first.")
    wide = array.astype(np.int64)
    bits = 1 if dtype.name == "bool" else dtype.bits
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if dtype.is_signed else (0, (1 << bits) - 1)
    if wide.size and (int(wide.min()) < low or int(wide.max()) > high):
        raise DataError(
            f"{what} holds numbers from {int(wide.min())} to {int(wide.max())}, {dtype.name} holds {low} to {high}."
        )
    return torch.from_numpy(wide).to(dtype.carrier)
