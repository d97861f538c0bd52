"""Resizing, cropping and sampling in ML Programs against torch, and against the grids that the reference documents."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from mil_harness import Case, check, check_half, every, normal
from torch import Tensor

IMAGE = normal(2, 3, 5, 7)
SMALL = np.arange(1, 17, dtype=np.float32).reshape(1, 1, 4, 4)


def bilinear(size: tuple[int, int], align: bool) -> Any:
    return lambda x: F.interpolate(x, size, mode="bilinear", align_corners=align)


def at_grids(x: Tensor, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """Interpolate at places in pixels, by numpy, one dimension after the other."""
    array = x.numpy()
    for axis, grid in ((-2, rows), (-1, columns)):
        size = array.shape[axis]
        array = np.apply_along_axis(
            lambda line, grid=grid, size=size: np.interp(grid, np.arange(size), line), axis, array
        )
    return torch.from_numpy(array.astype(np.float32))


def grid(size: int, count: int, mode: str) -> np.ndarray:
    """The formulas of the reference of resize_bilinear."""
    i = np.arange(count)
    if mode == "STRICT_ALIGN_CORNERS":
        points = i * ((size - 1) / (count - 1) if count > 1 else 0)
    elif mode == "ALIGN_CORNERS":
        points = i * (size - 1) / (count - 1) if count > 1 else np.array([(size - 1) / 2])
    elif mode == "DEFAULT":
        points = i * ((size - size / count) / (count - 1) if count > 1 else 0)
    elif mode == "OFFSET_CORNERS":
        points = 0.5 * max(1, size - 1) / count + i * max(1, size - 1) / count
    else:
        points = i * size / count + 0.5 * size / count - 0.5
    return np.clip(points, 0, size - 1)


MODES = ("STRICT_ALIGN_CORNERS", "ALIGN_CORNERS", "DEFAULT", "OFFSET_CORNERS", "UNALIGN_CORNERS")
SIZES = ((8, 3), (1, 7), (10, 14))


def nearest(rows: int, columns: int) -> Any:
    return lambda x: F.interpolate(x, (rows, columns), mode="nearest")


RESIZES = [
    Case("upsample_nearest_neighbor", "", {"x": IMAGE}, nearest(10, 21),
         {"scale_factor_height": np.int32(2), "scale_factor_width": np.int32(3)}),
    Case("upsample_nearest_neighbor", "fraction", {"x": IMAGE}, nearest(7, 4),
         {"scale_factor_height": np.float32(1.5), "scale_factor_width": np.float32(0.6)}, half=False),
    Case("resize_nearest_neighbor", "", {"x": IMAGE}, nearest(8, 3), {"target_size_height": 8, "target_size_width": 3}),
    Case("upsample_bilinear", "default", {"x": IMAGE}, bilinear((10, 21), True),
         {"scale_factor_height": np.int32(2), "scale_factor_width": np.int32(3)}),
    Case("upsample_bilinear", "centres", {"x": IMAGE}, bilinear((10, 10), False),
         {"scale_factor_height": np.float32(2), "scale_factor_width": np.float32(1.5), "align_corners": False},
         half=False, atol=1e-5),
    Case("upsample_bilinear", "no-centres", {"x": IMAGE},
         lambda x: at_grids(x, grid(5, 10, "DEFAULT"), grid(7, 21, "DEFAULT")),
         {"scale_factor_height": np.int32(2), "scale_factor_width": np.int32(3), "align_corners": False,
          "half_pixel_centers": False}, atol=1e-5),
    *[
        Case("resize_bilinear", f"{mode}-{rows}x{columns}", {"x": IMAGE},
             lambda x, rows=rows, columns=columns, mode=mode: at_grids(x, grid(5, rows, mode), grid(7, columns, mode)),
             {"target_size_height": rows, "target_size_width": columns, "sampling_mode": mode}, atol=1e-5)
        for mode in MODES
        for rows, columns in SIZES
    ],
    *[
        Case("resize", f"{mode}-{rows}x{columns}", {"x": IMAGE},
             lambda x, rows=rows, columns=columns, mode=mode: at_grids(x, grid(5, rows, mode), grid(7, columns, mode)),
             {"shape": [rows, columns], "resized_dims": np.uint32(2), "sampling_mode": mode}, opset=17, atol=1e-5)
        for mode in MODES
        for rows, columns in SIZES
    ],
    Case("resize", "one-dimension", {"x": IMAGE}, lambda x: at_grids(x, np.arange(5), grid(7, 9, "DEFAULT")),
         {"shape": [0, 9], "resized_dims": np.uint32(1)}, opset=17, atol=1e-5),
    Case("resize", "computed", {"x": IMAGE, "shape": np.int32([2, 4])},
         lambda x, s: at_grids(x, grid(5, 2, "DEFAULT"), grid(7, 4, "DEFAULT")), {"resized_dims": np.uint32(2)},
         opset=17,
         atol=1e-5),
    # the numbers of coremltools' own test on Core ML: grid points 0, 2/3 and 4/3 of two rows
    Case("resize", "nearest", {"x": np.float32([-6.0, 9.0]).reshape(1, 1, 2, 1)},
         lambda x: torch.tensor([[-6.0, -6.0], [9.0, 9.0], [9.0, 9.0]]).reshape(1, 1, 3, 2),
         {"shape": [3, 2], "resized_dims": np.uint32(2), "interpolation_mode": "NEAREST_NEIGHBOR"}, opset=17),
    Case("resize", "nearest-twice", {"x": IMAGE}, nearest(10, 14),
         {"shape": [10, 14], "resized_dims": np.uint32(2), "interpolation_mode": "NEAREST_NEIGHBOR"}, opset=17),
    Case("crop", "", {"x": IMAGE}, lambda x: x[..., 1:, 2:-1], {"crop_height": [1, 0], "crop_width": [2, 1]}),
]  # fmt: skip


def box(h0: float, h1: float, w0: float, w1: float, count: int = 2) -> np.ndarray:
    """A box of the small image, corners aligned; NaN where it lies outside."""
    rows, columns = np.linspace(h0, h1, count), np.linspace(w0, w1, count)
    values = at_grids(torch.from_numpy(SMALL), rows, columns).numpy()[0, 0]
    outside = ((rows < 0) | (rows > 3))[:, None] | ((columns < 0) | (columns > 3))
    return np.where(outside, 10.0, values).astype(np.float32)


BOXES = np.float32([[0.5, 1.0, 2.5, 3.0], [0.0, -1.0, 3.0, 1.0]])
EXPECTED = [box(0.5, 2.5, 1.0, 3.0), box(0.0, 3.0, -1.0, 1.0)]
CROP: dict[str, Any] = {
    "target_height": 2, "target_width": 2, "sampling_mode": "ALIGN_CORNERS", "pad_value": 10.0,
}  # fmt: skip


def stacked(parts: list[np.ndarray], *shape: int) -> Any:
    return lambda *_: torch.from_numpy(np.stack(parts)).reshape(shape)


CROPS = [
    Case("crop_resize", "roi", {"x": SMALL, "roi": BOXES.reshape(2, 1, 4, 1, 1)}, stacked(EXPECTED, 2, 1, 1, 2, 2),
         CROP,
         atol=1e-5),
    Case("crop_resize", "indexed-roi", {"x": SMALL, "roi": np.float32([[0, 0.5, 1, 2.5, 3]]).reshape(1, 1, 5, 1, 1)},
         stacked(EXPECTED[:1], 1, 1, 1, 2, 2), CROP, atol=1e-5),
    Case("crop_resize", "every-image", {"x": np.concatenate([SMALL, SMALL * 2]), "roi": BOXES[:1].reshape(1, 1, 4,
         1, 1)},
         stacked([EXPECTED[0], 2 * EXPECTED[0]], 1, 2, 1, 2, 2), CROP, atol=1e-5),
    Case("crop_resize", "boxes", {"x": SMALL, "boxes": BOXES, "box_indices": np.int32([0, 0])},
         stacked(EXPECTED, 2, 1, 2, 2), CROP, opset=17, atol=1e-5),
    Case("crop_resize", "width-first", {"x": SMALL, "boxes": BOXES[:1, [1, 0, 3, 2]]}, stacked(EXPECTED[:1], 1, 1,
         2, 2),
         {**CROP, "box_coordinate_mode": "CORNERS_WIDTH_FIRST"}, opset=17, atol=1e-5),
    Case("crop_resize", "centre", {"x": SMALL, "boxes": np.float32([[1.5, 2, 2, 2]])}, stacked(EXPECTED[:1], 1, 1,
         2, 2),
         {**CROP, "box_coordinate_mode": "CENTER_SIZE_HEIGHT_FIRST"}, opset=17, atol=1e-5),
    Case("crop_resize", "centre-width", {"x": SMALL, "boxes": np.float32([[2, 1.5, 2, 2]])},
         stacked(EXPECTED[:1], 1, 1, 2, 2), {**CROP, "box_coordinate_mode": "CENTER_SIZE_WIDTH_FIRST"}, opset=17,
         atol=1e-5),
    Case("crop_resize", "normalised-scaled", {"x": SMALL, "boxes": np.float32([[0.25, 0.5, 1.25, 1.5]])},
         stacked([box(0.375, 1.875, 0.75, 2.25)], 1, 1, 2, 2),
         {**CROP, "normalized_coordinates": True, "spatial_scale": np.float32(0.5)}, opset=17, atol=1e-5, half=False),
]  # fmt: skip

GRID = np.random.default_rng(3).uniform(-1.6, 1.6, (2, 4, 3, 2)).astype(np.float32)
SAMPLE: dict[str, Any] = {
    "sampling_mode": "bilinear", "padding_mode": "constant", "padding_value": 0.0,
    "coordinates_mode": "normalized_minus_one_to_one", "align_corners": True,
}  # fmt: skip


def sampled(mode: str, padding: str, align: bool) -> Any:
    return lambda x, g: F.grid_sample(x, g, mode, padding, align)


def resample(label: str, expected: Any, coordinates: np.ndarray = GRID, **constants: Any) -> Case:
    # fp16 holds the places of these points too coarsely to compare
    return Case("resample", label, {"x": IMAGE, "coordinates": coordinates}, expected, {**SAMPLE, **constants},
    atol=1e-5,
                half=False)  # fmt: skip


def as_pixels(g: np.ndarray) -> np.ndarray:
    return ((g + 1) / 2 * np.float32([6, 4])).astype(np.float32)


SAMPLES = [
    resample("zeros", sampled("bilinear", "zeros", True)),
    resample("zeros-unaligned", sampled("bilinear", "zeros", False), align_corners=False),
    resample("border", sampled("bilinear", "border", True), padding_mode="border"),
    resample("reflection", sampled("bilinear", "reflection", True), padding_mode="reflection"),
    resample("symmetric", sampled("bilinear", "reflection", False), padding_mode="symmetric", align_corners=False),
    resample("nearest", sampled("nearest", "zeros", False), sampling_mode="nearest", align_corners=False),
    resample("nearest-border", sampled("nearest", "border", True), sampling_mode="nearest", padding_mode="border"),
    resample("padding-value", lambda x, g: F.grid_sample(x - 2.5, g, align_corners=True) + 2.5, padding_value=2.5),
    resample("zero-to-one", lambda x, g: F.grid_sample(x, 2 * g - 1, align_corners=True), (GRID + 1) / 2,
             coordinates_mode="normalized_zero_to_one"),
    resample("pixels", lambda x, g: F.grid_sample(x, torch.from_numpy(GRID), align_corners=True), as_pixels(GRID),
             coordinates_mode="unnormalized"),
    Case("affine", "", {"x": IMAGE, "transform_matrix": normal(2, 6)},
         lambda x, m: F.grid_sample(x, F.affine_grid(m.reshape(2, 2, 3), [2, 3, 4, 6], align_corners=True),
                                    align_corners=True),
         {**SAMPLE, "output_height": 4, "output_width": 6}, atol=1e-4, half=False),
    Case("affine", "one-matrix", {"x": IMAGE, "transform_matrix": np.float32([[0.5, 0, 0, 0, 0.5, 0.25]])},
         lambda x, m: F.grid_sample(x, F.affine_grid(m.expand(2, 6).reshape(2, 2, 3), [2, 3, 4, 6], align_corners=True),
                                    align_corners=True),
         {**SAMPLE, "output_height": 4, "output_width": 6}, atol=1e-5, half=False),
]  # fmt: skip

CASES = [*RESIZES, *CROPS, *SAMPLES]


@every(CASES)
def test_as_torch(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@every([case for case in CASES if case.half])
def test_half_is_rounded_once(case: Case, tmp_path: Path) -> None:
    check_half(case, tmp_path)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 2, 5, 6])
def test_the_examples_of_the_reference(mode: str, count: int) -> None:
    from nagedge.runtimes.mil_program.ops.image import _grid

    documented = {
        ("UNALIGN_CORNERS", 5): [0, 0.1, 0.5, 0.9, 1], ("STRICT_ALIGN_CORNERS", 5): [0, 0.25, 0.5, 0.75, 1],
        ("ALIGN_CORNERS", 5): [0, 0.25, 0.5, 0.75, 1], ("DEFAULT", 5): [0, 0.4, 0.8, 1, 1],
        ("OFFSET_CORNERS", 5): [0.1, 0.3, 0.5, 0.7, 0.9], ("UNALIGN_CORNERS", 6): [0, 0, 1 / 3, 2 / 3, 1, 1],
        ("DEFAULT", 6): [0, 1 / 3, 2 / 3, 1, 1, 1], ("ALIGN_CORNERS", 1): [0.5], ("STRICT_ALIGN_CORNERS", 1): [0],
    }  # fmt: skip
    got = _grid(2, count, mode).numpy()
    np.testing.assert_allclose(got, grid(2, count, mode), atol=1e-6)
    if (mode, count) in documented:
        np.testing.assert_allclose(got, documented[mode, count], atol=1e-6)
