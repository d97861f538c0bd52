"""Bilinear resize in numpy, specified exactly, so that a device can repeat it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import DataError

__all__ = ["resize_bilinear"]


def resize_bilinear(x: npt.NDArray[Any], height: int, width: int) -> npt.NDArray[np.float32]:
    """Return ``x [n, channels, h, w]`` resized to ``[n, channels, height, width]``, bilinear, float32.

    Half-pixel centres, edges clamped, no antialiasing, rows first and then columns. For output row ``i``::

        s  = max(0, (i + 0.5) * h / height - 0.5)      float64
        i0 = floor(s),  i1 = min(i0 + 1, h - 1)
        y[i] = x[i0] + (x[i1] - x[i0]) * float32(s - i0)

    Same as ONNX ``Resize`` (mode linear, ``half_pixel``) and ``torch.nn.functional.interpolate``
    (``bilinear``, ``align_corners=False``, ``antialias=False``) up to float32 rounding.

    Raises:
        DataError: if ``x`` is not of rank 4.
    """
    if x.ndim != 4:
        raise DataError(
            f"cannot resize an input of shape {list(x.shape)}: expected [n, channels, height, width]. "
            "Remove resize, or give images."
        )
    y = x.astype(np.float32, copy=False)
    for axis, size in ((2, height), (3, width)):
        length = y.shape[axis]
        if length == size:
            continue
        position = np.maximum((np.arange(size) + 0.5) * length / size - 0.5, 0.0)
        low = np.floor(position).astype(np.int64)
        high = np.minimum(low + 1, length - 1)
        shape = [1] * 4
        shape[axis] = size
        weight = (position - low).astype(np.float32).reshape(shape)
        below = np.take(y, low, axis=axis)
        y = below + (np.take(y, high, axis=axis) - below) * weight
    return y
