"""Resizing, cropping and sampling of the last two dimensions (``image_resizing.py`` of coremltools' opsets).

Where the reference documents which grid is sampled, that grid is computed. It says nothing of nearest neighbours;
these are ``floor(i * in / out)`` (upsample_nearest_neighbor and resize_nearest_neighbor, as PyTorch and TensorFlow
have them) and, in ``resize``, the grid point rounded, with halves down: what coremltools' own tests expect of Core
ML.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 # as everybody calls it
from torch import Tensor

from nagedge.runtimes.mil_program.dtypes import checked_sizes

__all__ = ["OPS"]


def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: float = 1.0, scale_factor_width: float = 1.0
) -> Tensor:
    """Repeat pixels; the sizes are rounded down."""
    return resize_nearest_neighbor(
        x, _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width)
    )


def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """Resize to a size by repeating or leaving out pixels."""
    for axis, size in ((x.dim() - 2, target_size_height), (x.dim() - 1, target_size_width)):
        x = x.index_select(axis, torch.arange(size) * x.shape[axis] // size)
    return x


def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1.0,
    scale_factor_width: float = 1.0,
    align_corners: bool = True,
    half_pixel_centers: bool | None = None,
) -> Tensor:
    """Resize by factors, between pixels linearly; the sizes are rounded down, and the scale follows from them."""
    centred = (not align_corners) if half_pixel_centers is None else half_pixel_centers
    mode = "STRICT_ALIGN_CORNERS" if align_corners else "UNALIGN_CORNERS" if centred else "DEFAULT"
    return resize_bilinear(
        x, _scaled(x.shape[-2], scale_factor_height), _scaled(x.shape[-1], scale_factor_width), mode
    )


def resize_bilinear(
    x: Tensor, target_size_height: int = 1, target_size_width: int = 1, sampling_mode: str = "DEFAULT"
) -> Tensor:
    """Resize to a size, between pixels linearly."""
    for axis, size in ((x.dim() - 2, target_size_height), (x.dim() - 1, target_size_width)):
        x = _interpolated(x, axis, _grid(x.shape[axis], size, sampling_mode))
    return x


def resize(
    x: Tensor,
    shape: tuple[int, ...],
    resized_dims: int,
    interpolation_mode: str = "LINEAR",
    sampling_mode: str = "DEFAULT",
) -> Tensor:
    """Resize the last ``resized_dims`` dimensions to the last values of ``shape``; 0 keeps a size."""
    if interpolation_mode not in {"LINEAR", "NEAREST_NEIGHBOR"}:
        raise ValueError(f"interpolation_mode is {interpolation_mode!r}, expected LINEAR or NEAREST_NEIGHBOR")
    if not 0 <= resized_dims <= min(len(shape), x.dim()):
        raise ValueError(
            f"resized_dims is {resized_dims}, shape has {len(shape)} values and x rank {x.dim()}"
        )
    for i in range(1, resized_dims + 1):
        axis = x.dim() - i
        grid = _grid(x.shape[axis], shape[-i] or x.shape[axis], sampling_mode)
        if interpolation_mode == "LINEAR":
            x = _interpolated(x, axis, grid)
        else:
            x = x.index_select(axis, torch.ceil(grid - 0.5).clamp(0, x.shape[axis] - 1).to(torch.int64))
    return x


def crop(x: Tensor, crop_height: tuple[int, ...], crop_width: tuple[int, ...]) -> Tensor:
    """Cut rows off the top and bottom, columns off the left and right."""
    (top, bottom), (left, right) = crop_height, crop_width
    return x[..., top : x.shape[-2] - bottom, left : x.shape[-1] - right]


def crop_resize(
    x: Tensor,
    roi: Tensor | None = None,
    boxes: Tensor | None = None,
    box_indices: tuple[int, ...] | None = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = "CORNERS_HEIGHT_FIRST",
    sampling_mode: str = "DEFAULT",
    pad_value: float = 0.0,
) -> Tensor:
    """Cut boxes out of images and resize them, between pixels linearly; ``pad_value`` lies outside of an image.

    Boxes come as ``boxes`` ``[N, 4]`` with the image each is cut from (iOS 17; the i-th unless given), or as ``roi``
    ``[N, 1, 4 or 5, 1, 1]``: from every image, or with the number of the image in front (before).
    """
    if boxes is not None:
        images = box_indices if box_indices is not None else tuple(range(boxes.shape[0]))
        parts = [x[image : image + 1] for image in images]
        corners, stack = boxes, False
    elif roi is not None:
        numbers = roi.reshape(roi.shape[0], -1)
        corners, stack = numbers[:, -4:], True
        parts = [x if row.numel() == 4 else x[int(row[0]) : int(row[0]) + 1] for row in numbers]
    else:
        raise ValueError("neither boxes nor roi are given")
    cut = []
    for part, box in zip(parts, corners.double().tolist(), strict=True):
        h0, w0, h1, w1 = _corners(box, box_coordinate_mode)
        scale_h = spatial_scale * (x.shape[2] - 1 if normalized_coordinates else 1)
        scale_w = spatial_scale * (x.shape[3] - 1 if normalized_coordinates else 1)
        rows = _box_grid(h0 * scale_h, h1 * scale_h, target_height, sampling_mode)
        columns = _box_grid(w0 * scale_w, w1 * scale_w, target_width, sampling_mode)
        inside = _inside(rows, x.shape[2]).unsqueeze(1) & _inside(columns, x.shape[3])
        patch = _interpolated(_interpolated(part, 2, rows), 3, columns)
        cut.append(torch.where(inside, patch, torch.full_like(patch, pad_value)))
    return torch.stack(cut) if stack else torch.cat(cut)


def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """Sample ``x`` where ``[a0, a1, a2, b0, b1, b2]`` takes the points of the output, whose corners lie at +-1."""
    modes = (sampling_mode.lower(), padding_mode.lower(), coordinates_mode.lower())
    if modes != ("bilinear", "constant", "normalized_minus_one_to_one") or padding_value or not align_corners:
        raise ValueError(
            f"modes {modes} with padding_value {padding_value}, align_corners {align_corners}: MIL has one"
        )
    theta = transform_matrix.expand(x.shape[0], 6).reshape(-1, 2, 3)
    grid = F.affine_grid(theta, [x.shape[0], x.shape[1], output_height, output_width], align_corners=True)
    return F.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)


def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """Sample ``x`` ``[B, C, H, W]`` at ``coordinates`` ``[B, H2, W2, 2]``, (x, y) each."""
    places = [
        _unnormalized(coordinates[..., i].to(x.dtype), x.shape[3 - i], coordinates_mode, align_corners)
        for i in (0, 1)
    ]
    if sampling_mode == "nearest":
        return _pixels(x, torch.round(places[1]), torch.round(places[0]), padding_mode, padding_value)
    if sampling_mode != "bilinear":
        raise ValueError(f"sampling_mode is {sampling_mode!r}, expected bilinear or nearest")
    across, down = (_padded_place(place, x.shape[3 - i], padding_mode) for i, place in enumerate(places))
    left, top = torch.floor(across), torch.floor(down)
    part_x, part_y = (across - left).unsqueeze(1), (down - top).unsqueeze(1)
    upper, lower = (
        _pixels(x, row, left, padding_mode, padding_value) * (1 - part_x)
        + _pixels(x, row, left + 1, padding_mode, padding_value) * part_x
        for row in (top, top + 1)
    )
    return upper * (1 - part_y) + lower * part_y


def _scaled(size: int, factor: float) -> int:
    """Return a scaled size; rounded to fp32 first, as the factor is."""
    return int(torch.floor(torch.tensor(factor, dtype=torch.float32) * size))


def _grid(size: int, count: int, mode: str) -> Tensor:
    """Return the ``count`` places, in pixels, at which a dimension of ``size`` is sampled."""
    return _box_grid(0.0, size - 1.0, count, mode).clamp(0, size - 1)


def _box_grid(start: float, end: float, count: int, mode: str) -> Tensor:
    """Return the places at which the pixels from ``start`` to ``end`` are sampled."""
    checked_sizes([count])
    i = torch.arange(count, dtype=torch.float64)
    extent = end - start
    if mode == "ALIGN_CORNERS" and count == 1:
        return torch.full((1,), (start + end) / 2, dtype=torch.float32)
    if mode in {"STRICT_ALIGN_CORNERS", "ALIGN_CORNERS"}:
        grid = start + i * (extent / (count - 1) if count > 1 else 0.0)
    elif mode == "DEFAULT":
        grid = torch.clamp(start + i * ((extent + 1) / count), max=end)
    elif mode == "OFFSET_CORNERS":
        grid = torch.clamp(start + (i + 0.5) * (max(1.0, extent) / count), max=end)
    elif mode == "UNALIGN_CORNERS":
        grid = torch.clamp(start + (i + 0.5) * ((extent + 1) / count) - 0.5, min(start, end), max(start, end))
    else:
        raise ValueError(
            f"sampling_mode is {mode!r}, expected STRICT_ALIGN_CORNERS, ALIGN_CORNERS, DEFAULT, OFFSET_CORNERS or "
            "UNALIGN_CORNERS"
        )
    return grid.float()


def _corners(box: list[float], mode: str) -> tuple[float, float, float, float]:
    """Return a box as first row, first column, last row, last column."""
    a, b, c, d = box
    if mode == "CORNERS_HEIGHT_FIRST":
        return a, b, c, d
    if mode == "CORNERS_WIDTH_FIRST":
        return b, a, d, c
    if mode == "CENTER_SIZE_HEIGHT_FIRST":
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    if mode == "CENTER_SIZE_WIDTH_FIRST":
        return b - d / 2, a - c / 2, b + d / 2, a + c / 2
    raise ValueError(f"box_coordinate_mode is {mode!r}, expected CORNERS_... or CENTER_SIZE_..._FIRST")


def _inside(grid: Tensor, size: int) -> Tensor:
    slack = 1e-4  # a corner at 2.9999998 or 3.0000002 is one of the image
    return (grid >= -slack) & (grid <= size - 1 + slack)


def _interpolated(x: Tensor, axis: int, grid: Tensor) -> Tensor:
    """Return ``x`` at places between its pixels along ``axis``, linearly."""
    places = grid.clamp(0, x.shape[axis] - 1)
    low = torch.floor(places).to(torch.int64)
    high = (low + 1).clamp(max=x.shape[axis] - 1)
    part = (places - low).reshape([-1 if i == axis else 1 for i in range(x.dim())])
    below, above = x.index_select(axis, low), x.index_select(axis, high)
    return below * (1 - part) + above * part


def _unnormalized(place: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Return coordinates in pixels."""
    if mode == "unnormalized":
        return place
    if mode == "normalized_minus_one_to_one":
        place = (place + 1) / 2
    elif mode != "normalized_zero_to_one":
        raise ValueError(f"coordinates_mode is {mode!r}, expected unnormalized or normalized_…")
    return place * (size - 1) if align_corners else place * size - 0.5


def _padded_place(place: Tensor, size: int, mode: str) -> Tensor:
    """Return places outside of the image as those inside from which padding is taken; unchanged for ``constant``."""
    if mode == "constant":
        return place
    if mode == "border":
        return place.clamp(0, size - 1)
    if mode == "reflection":
        low, span = 0.0, size - 1.0
    elif mode == "symmetric":
        low, span = -0.5, float(size)
    else:
        raise ValueError(f"padding_mode is {mode!r}, expected constant, border, reflection or symmetric")
    if span == 0:
        return torch.zeros_like(place)
    folded = torch.remainder(place - low, 2 * span)
    return (torch.minimum(folded, 2 * span - folded) + low).clamp(0, size - 1)


def _pixels(x: Tensor, rows: Tensor, columns: Tensor, mode: str, value: float) -> Tensor:
    """Return the pixels at whole rows and columns ``[B, H2, W2]``: ``[B, C, H2, W2]``."""
    b, c, height, width = x.shape
    if mode != "constant":
        rows, columns = _padded_place(rows, height, mode), _padded_place(columns, width, mode)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    flat = rows.clamp(0, height - 1).to(torch.int64) * width + columns.clamp(0, width - 1).to(torch.int64)
    taken = x.flatten(2).gather(2, flat.reshape(b, 1, -1).expand(-1, c, -1)).reshape(b, c, *rows.shape[1:])
    return torch.where(inside.unsqueeze(1), taken, torch.full_like(taken, value))


OPS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        affine, crop, crop_resize, resample, resize, resize_bilinear, resize_nearest_neighbor, upsample_bilinear,
        upsample_nearest_neighbor,
    )
}  # fmt: skip
"""Op type -> its function."""
