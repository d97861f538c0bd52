"""What goes into an ML Program and what comes out, by the names that the bundle has for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import DataError

__all__ = ["NAMES_KEY", "features", "named_results"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

NAMES_KEY = "nagedge.names"
"""Key of the metadata that holds, as JSON, the name in the bundle of every feature and constant of the program."""

_INT32 = np.iinfo(np.int32)


def features(fed: Arrays, names: Mapping[str, str]) -> dict[str, Array]:
    """Return what a program takes: float32 and int32 only, no tensor without axes, by the program's names.

    Args:
        fed: by name in the bundle.
        names: the bundle's name of every feature, by the program's.

    Raises:
        DataError: a whole number does not fit int32.
    """
    inside = {name: feature for feature, name in names.items()}
    return {
        inside.get(name, name): _fitted(name, array.reshape(1) if array.ndim == 0 else array)
        for name, array in fed.items()
    }


def _fitted(name: str, array: Array) -> Array:
    if array.dtype.kind == "f":
        return np.ascontiguousarray(array, np.float32)
    if array.dtype.kind != "b" and array.size:
        low, high = int(array.min()), int(array.max())
        if low < _INT32.min or high > _INT32.max:
            raise DataError(
                f"{name!r} holds numbers from {low} to {high}; Core ML has int32 only, {_INT32.min} to {_INT32.max}."
            )
    return np.ascontiguousarray(array, np.int32)


def named_results(results: Arrays, names: Mapping[str, str]) -> dict[str, Array]:
    """Return results by their names in the bundle."""
    return {names.get(feature, feature): np.asarray(value) for feature, value in results.items()}
