"""Gradients of interpolation and of padding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import check, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from nagedge.graphs.decompositions import whole_interpolations

MODES: dict[str, dict[str, Any]] = {
    "nearest": {"mode": "nearest"},
    "nearest-exact": {"mode": "nearest-exact"},
    "bilinear": {"mode": "bilinear", "align_corners": False},
    "bilinear corners": {"mode": "bilinear", "align_corners": True},
    "bicubic": {"mode": "bicubic", "align_corners": False},
    "bicubic corners": {"mode": "bicubic", "align_corners": True},
    "bilinear antialias": {"mode": "bilinear", "align_corners": False, "antialias": True},
    "area": {"mode": "area"},
}
SIZES: dict[str, dict[str, Any]] = {
    "size": {"size": (7, 9)},
    "double": {"scale_factor": 2},
    "uneven": {"scale_factor": (0.6, 1.7)},
    "recomputed": {"scale_factor": 1.7, "recompute_scale_factor": True},
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", SIZES)
def test_interpolate(mode: str, size: str) -> None:
    check(lambda x: functional.interpolate(x, **MODES[mode], **SIZES[size]), normal(2, 5, 6))


def test_interpolate_sequences() -> None:
    check(lambda x: functional.interpolate(x, mode="linear", scale_factor=2), normal(2, 5))
    check(lambda x: functional.interpolate(x, size=9), normal(2, 5))
    check(nn.Upsample(scale_factor=3), normal(2, 5))


@given(
    st.sampled_from(sorted(MODES)),
    st.lists(st.integers(1, 7), min_size=4, max_size=4),
    st.sampled_from([None, 0.5, 1.5, 2.0, 3.0]),
)
def test_any_interpolation(mode: str, sizes: list[int], factor: float | None) -> None:
    if factor is not None and min(int(n * factor) for n in sizes[:2]) < 1:
        factor = 2.0
    target: dict[str, Any] = {"size": sizes[2:]} if factor is None else {"scale_factor": factor}
    check(lambda x: functional.interpolate(x, **MODES[mode], **target), normal(2, *sizes[:2]), batches=(2, 1))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular"])
def test_pad(mode: str) -> None:
    check(lambda x: functional.pad(x, (1, 2, 3, 1), mode=mode), normal(2, 5, 6))
    check(lambda x: functional.pad(x, (0, 2), mode=mode), normal(2, 5))


def test_crop_by_negative_padding() -> None:
    check(lambda x: functional.pad(x, (-1, 2, 1, -2)), normal(2, 5, 6))


def test_torch_gets_its_own_interpolation_back() -> None:
    operators = [torch.ops.aten.upsample_bilinear2d.vec, torch.ops.aten.upsample_nearest2d.default]
    before = [dict(operator.py_kernels) for operator in operators]
    with whole_interpolations():
        assert [dict(operator.py_kernels) for operator in operators] != before
    assert all(before)
    assert [dict(operator.py_kernels) for operator in operators] == before
