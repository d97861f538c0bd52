"""Gradients of max, average and adaptive pooling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from harness import check, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from nagedge.graphs.decompositions import ONNX

MAX_POOLS = [
    (nn.MaxPool2d(2), (3, 6, 7)),
    (nn.MaxPool2d(3), (3, 8, 7)),
    (nn.MaxPool2d(3, 2, 1), (3, 8, 7)),
    (nn.MaxPool2d(3, 2, 1, ceil_mode=True), (3, 8, 7)),
    (nn.MaxPool2d(2, 3), (3, 8, 9)),
    (nn.MaxPool2d((4, 2), 2, (2, 0), dilation=(1, 3)), (3, 9, 8)),
    (nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True), (3, 9, 8)),
    (nn.MaxPool2d((2, 3), (1, 2)), (3, 5, 6)),
    (nn.MaxPool1d(3, 2, 1), (3, 9)),
    (nn.AdaptiveMaxPool2d((2, 2)), (3, 4, 4)),
]


@pytest.mark.parametrize(("layer", "shape"), MAX_POOLS, ids=str)
def test_max_pooling_for_onnxruntime(layer: nn.Module, shape: tuple[int, ...]) -> None:
    check(layer, normal(*shape), overrides=ONNX)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.MaxPool2d(2), (3, 6, 7)),
        (nn.MaxPool2d(3, 2, 1), (3, 8, 7)),
        (nn.MaxPool2d(3, 2, 1, dilation=2, ceil_mode=True), (3, 9, 8)),
        (nn.MaxPool2d((2, 3), (1, 2)), (3, 5, 6)),
        (nn.MaxPool1d(3, 2, 1), (3, 9)),
        (nn.MaxPool1d(2), (3, 7)),
        (nn.AvgPool2d(2), (3, 6, 7)),
        (nn.AvgPool2d(3, 2, 1), (3, 8, 7)),
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), (3, 9, 8)),
        (nn.AvgPool2d(3, 2, 1, ceil_mode=True), (3, 9, 8)),
        (nn.AvgPool2d(2, 3, divisor_override=5), (3, 8, 8)),
        (nn.AvgPool1d(3, 1, 1), (3, 8)),
        (nn.AdaptiveAvgPool2d(1), (3, 5, 4)),
        (nn.AdaptiveAvgPool2d((2, 4)), (3, 4, 8)),
        (nn.AdaptiveAvgPool2d((3, 5)), (3, 8, 7)),
        (nn.AdaptiveAvgPool2d((None, 2)), (3, 5, 5)),
        (nn.AdaptiveAvgPool2d((5, 7)), (3, 3, 4)),
        (nn.AdaptiveAvgPool1d(3), (3, 7)),
        (nn.AdaptiveMaxPool2d(1), (3, 5, 4)),
        (nn.AdaptiveMaxPool2d((2, 2)), (3, 4, 6)),
        (nn.AdaptiveMaxPool2d((3, 5)), (3, 8, 7)),
        (nn.AdaptiveMaxPool1d(3), (3, 7)),
        (nn.LPPool2d(2, 2), (3, 4, 6)),
    ],
    ids=str,
)
def test_pooling(layer: nn.Module, shape: tuple[int, ...]) -> None:
    check(layer, normal(*shape))


def _few_values(batch: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(batch)
    return [torch.randint(0, 3, (batch, 2, 7, 8), generator=generator).double()]


@pytest.mark.parametrize("table", [(), ONNX], ids=["portable", "onnx"])
@pytest.mark.parametrize(
    "layer", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2), nn.AdaptiveMaxPool2d((3, 5))], ids=str
)
def test_first_maximum_wins_ties(layer: nn.Module, table: Mapping[Any, Any] | tuple[()]) -> None:
    check(layer, _few_values, overrides=table)


def test_returned_indices_of_adaptive_max_pooling() -> None:
    def scaled(x: Tensor) -> Tensor:
        values, indices = functional.adaptive_max_pool2d(x, (3, 4), return_indices=True)
        return values * indices

    check(scaled, normal(2, 7, 6))


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    kernel = [draw(st.integers(1, 4)) for _ in range(2)]
    padding = [draw(st.integers(0, k // 2)) for k in kernel]
    dilation = [draw(st.integers(1, 2)) for _ in range(2)]
    size = [
        max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 5))
        for k, p, d in zip(kernel, padding, dilation, strict=True)
    ]
    return {
        "kernel": kernel, "stride": [draw(st.integers(1, 4)) for _ in range(2)], "padding": padding,
        "dilation": dilation, "size": size, "ceil": draw(st.booleans()), "include": draw(st.booleans()),
        "divisor": draw(st.sampled_from([None, None, 3])),
    }  # fmt: skip


@given(windows())
def test_any_max_pooling(w: dict[str, Any]) -> None:
    layer = nn.MaxPool2d(w["kernel"], w["stride"], w["padding"], w["dilation"], ceil_mode=w["ceil"])
    check(layer, normal(2, *w["size"]), batches=(2, 1))


@given(windows())
def test_any_average_pooling(w: dict[str, Any]) -> None:
    layer = nn.AvgPool2d(w["kernel"], w["stride"], w["padding"], w["ceil"], w["include"], w["divisor"])
    check(layer, normal(2, *w["size"]), batches=(2, 1))


@given(st.lists(st.integers(1, 6), min_size=4, max_size=4), st.booleans())
def test_any_adaptive_pooling(sizes: list[int], largest: bool) -> None:
    layer = (nn.AdaptiveMaxPool2d if largest else nn.AdaptiveAvgPool2d)(sizes[2:])
    check(layer, normal(2, *sizes[:2]), batches=(2, 1))


def test_global_pooling_of_channels_last_maps() -> None:
    check(
        lambda x: functional.adaptive_avg_pool2d((x * 2).permute(0, 3, 1, 2), 1).flatten(1), normal(4, 4, 3)
    )
