"""Gradients of convolutions and transposed convolutions."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from harness import check, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from nagedge.backends import coreml, litert
from nagedge.graphs.decompositions import ONNX, beside_branches, convolution_rows

TABLES = {"portable": (), "onnx": ONNX, "litert": litert.DECOMPOSITIONS, "coreml": coreml.DECOMPOSITIONS}


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(4, 6, 3, padding=1), (4, 6, 7)),
        (nn.Conv2d(4, 6, 1, bias=False), (4, 5, 4)),
        (nn.Conv2d(4, 6, 1, stride=2), (4, 5, 4)),
        (nn.Conv2d(4, 6, 3, padding=5), (4, 5, 4)),
        (nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 2), dilation=(2, 1), groups=2), (4, 9, 8)),
        (nn.Conv2d(4, 4, 5, padding=2, groups=4), (4, 6, 6)),
        (nn.Conv2d(4, 4, 3, stride=2, padding=1, groups=4), (4, 8, 7)),
        (nn.Conv2d(4, 8, 3, groups=4), (4, 6, 5)),
        (nn.Conv2d(3, 6, 4, stride=4), (3, 9, 8)),
        (nn.Conv2d(8, 5, 3, padding=1), (8, 5, 4)),
        (nn.Conv2d(16, 4, (1, 3), stride=2, groups=2), (16, 5, 6)),
        (nn.Conv2d(2, 2, 3, padding=1, groups=2), (2, 10, 11)),
        (nn.Conv2d(4, 4, 4, padding="same", dilation=(1, 2)), (4, 6, 6)),
        (nn.Conv1d(4, 4, 4, padding="same"), (4, 7)),
        # depthwise: one tile, tiles with and without a remainder, too many cells for the forward, tall, wide
        (nn.Conv2d(3, 3, 5, padding=2, groups=3), (3, 6, 6)),
        (nn.Conv2d(3, 3, 5, stride=2, padding=2, groups=3), (3, 12, 12)),
        (nn.Conv2d(2, 2, 3, stride=2, padding=1, groups=2), (2, 25, 23)),
        (nn.Conv2d(2, 2, 3, padding=1, groups=2), (2, 25, 5)),
        (nn.Conv2d(2, 2, 3, padding=(2, 0), dilation=(2, 1), groups=2), (2, 13, 9)),
        (nn.Conv2d(2, 2, (2, 3), stride=(3, 2), padding=(0, 1), groups=2, bias=False), (2, 19, 7)),
        (nn.Conv2d(2, 2, 3, padding=4, groups=2), (2, 9, 8)),
        (nn.Conv2d(2, 2, (1, 3), groups=2), (2, 3, 70)),
        (nn.Conv1d(3, 3, 5, padding=2, groups=3), (3, 50)),
        (nn.Conv1d(3, 3, 4, stride=3, padding=1, dilation=2, groups=3), (3, 41)),
        # few outputs: windows of the gradient
        (nn.Conv2d(8, 2, 3, padding=1), (8, 6, 7)),
        (nn.Conv2d(16, 2, 3, stride=2, padding=1, bias=False), (16, 8, 9)),
        (nn.Conv2d(16, 2, (3, 2), stride=(2, 1), padding=(0, 3), dilation=(1, 2)), (16, 8, 5)),
        (nn.Conv1d(8, 2, 3, stride=2, padding=1), (8, 12)),
        # few outputs, one stride: by the phases of the input
        (nn.Conv2d(16, 2, 3, stride=2, padding=1), (16, 8, 8)),
        (nn.Conv2d(17, 2, (5, 2), stride=2, padding=(2, 3), bias=False), (17, 7, 4)),
        (nn.Conv2d(36, 2, 2, stride=3, padding=4), (36, 5, 6)),
        (nn.Conv2d(36, 1, (7, 1), stride=3), (36, 9, 7)),
        (nn.Conv2d(8, 1, 3, stride=2, padding="valid"), (8, 4, 3)),
        # 1x1: many channels on both sides, few inputs, few outputs, few on both
        (nn.Conv2d(24, 25, 1), (24, 8, 8)),
        (nn.Conv2d(26, 24, 1, bias=False), (26, 5, 13)),
        (nn.Conv2d(3, 20, 1), (3, 6, 6)),
        (nn.Conv2d(20, 3, 1), (20, 6, 6)),
        (nn.Conv1d(30, 4, 1), (30, 9)),
        # 1x1 with far more channels on one side: products of rows
        (nn.Conv2d(24, 3, 1), (24, 4, 5)),
        (nn.Conv2d(2, 16, 1, bias=False), (2, 3, 4)),
        (nn.Conv1d(2, 18, 1), (2, 7)),
        (nn.Conv2d(4, 6, 1), (4, 1, 1)),
        (nn.Conv2d(4, 6, 1, bias=False), (4, 3, 3)),
        (nn.Conv2d(4, 6, 1, padding=1), (4, 1, 1)),
        (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (4, 9)),
        (nn.Conv3d(2, 3, 2, stride=(1, 2, 1), padding=(0, 1, 1)), (2, 4, 4, 3)),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), (4, 6, 6)),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), (4, 6, 6)),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="replicate"), (4, 6, 6)),
    ],
    ids=str,
)
def test_convolution(layer: nn.Module, shape: tuple[int, ...], table: str) -> None:
    check(layer, normal(*shape), overrides=TABLES[table])


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2), (4, 4, 5)),
        (nn.ConvTranspose2d(4, 4, 3, padding=1, groups=4), (4, 4, 5)),
        (nn.ConvTranspose1d(4, 6, 3, stride=3, dilation=2, padding=1, output_padding=2), (4, 5)),
        (nn.ConvTranspose1d(4, 2, 2, dilation=3, output_padding=2), (4, 5)),
        (nn.ConvTranspose2d(3, 2, 1), (3, 4, 4)),
        (nn.ConvTranspose2d(16, 2, 1), (16, 4, 3)),
    ],
    ids=str,
)
def test_transposed_convolution(layer: nn.Module, shape: tuple[int, ...], table: str) -> None:
    check(layer, normal(*shape), overrides=TABLES[table])


FROZEN = [
    (nn.Conv2d(4, 6, 3, padding=1), (4, 6, 7)),
    (nn.Conv2d(4, 6, 1, stride=2), (4, 5, 4)),
    (nn.Conv2d(4, 4, 5, stride=2, padding=2, groups=4), (4, 9, 8)),
    (nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 6, 6)),
    (nn.Conv2d(4, 6, (3, 2), stride=(2, 3), padding=(1, 2), dilation=(2, 1), groups=2), (4, 9, 8)),
    (nn.Conv2d(3, 6, 3, stride=2), (3, 8, 8)),
    # phase by phase: kernels, strides and paddings that leave phases of different sizes, or with few taps
    (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (4, 7, 8)),
    (nn.Conv2d(3, 2, (5, 3), stride=(3, 2), padding=(0, 2)), (3, 11, 6)),
    (nn.Conv2d(3, 2, (1, 4), stride=(1, 3), padding=(0, 3)), (3, 4, 9)),
    (nn.Conv2d(2, 3, 4, stride=4), (2, 11, 8)),
    (nn.Conv2d(2, 4, 2, stride=2, padding=1, groups=2), (2, 5, 5)),
    (nn.Conv2d(2, 3, 3, stride=2, padding=5), (2, 4, 6)),
    (nn.Conv2d(3, 3, 5, stride=2, padding=2, groups=3), (3, 12, 11)),
    (nn.Conv2d(3, 6, 3, stride=2, padding=1, groups=3), (3, 20, 6)),
]


@pytest.mark.parametrize("rules", [ONNX, beside_branches(ONNX)], ids=["plain", "beside branches"])
@pytest.mark.parametrize(("layer", "shape"), FROZEN, ids=str)
def test_input_gradient_alone(layer: nn.Module, shape: tuple[int, ...], rules: Mapping[Any, Any]) -> None:
    frozen = copy.deepcopy(layer).double()
    for parameter in frozen.parameters():
        parameter.requires_grad_(False)
    check(
        lambda x: functional_call(frozen, dict(frozen.named_parameters()), (x,)),
        normal(*shape),
        overrides=rules,
    )


def test_convolution_without_batch_axis_inside() -> None:
    kernel = torch.randn(2, 3, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    check(lambda x: functional.conv2d(x.sum(0), kernel).unsqueeze(0), normal(3, 5, 5))


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    axes = draw(st.integers(1, 2))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    per_axis = [
        (draw(st.integers(1, 4)), draw(st.integers(1, 3)), draw(st.integers(0, 3)), draw(st.integers(1, 2)))
        for _ in range(axes)
    ]
    kernel, stride, padding, dilation = (list(v) for v in zip(*per_axis, strict=True))
    size = [max(1, d * (k - 1) + 1 - 2 * p) + draw(st.integers(0, 4)) for k, _, p, d in per_axis]
    rest = [draw(st.integers(0, max(s, d) - 1)) for _, s, _, d in per_axis]
    return {
        "axes": axes, "groups": groups, "inputs": groups * draw(st.integers(1, 2)), "size": size, "rest": rest,
        "outputs": groups * draw(st.integers(1, 2)), "kernel": kernel, "stride": stride, "padding": padding,
        "dilation": dilation, "bias": draw(st.booleans()), "table": draw(st.sampled_from(sorted(TABLES))),
    }  # fmt: skip


@given(convolutions())
def test_any_convolution(c: dict[str, Any]) -> None:
    layer = (nn.Conv1d, nn.Conv2d)[c["axes"] - 1](
        c["inputs"],
        c["outputs"],
        c["kernel"],
        c["stride"],
        c["padding"],
        c["dilation"],
        c["groups"],
        c["bias"],
    )
    check(layer, normal(c["inputs"], *c["size"]), overrides=TABLES[c["table"]], batches=(2, 1))


@given(convolutions())
def test_any_transposed_convolution(c: dict[str, Any]) -> None:
    outputs = [
        (n - 1) * s - 2 * p + d * (k - 1) + r + 1
        for n, k, s, p, d, r in zip(
            c["size"], c["kernel"], c["stride"], c["padding"], c["dilation"], c["rest"], strict=True
        )
    ]
    size = [n + max(0, 1 - o) for n, o in zip(c["size"], outputs, strict=True)]
    layer = (nn.ConvTranspose1d, nn.ConvTranspose2d)[c["axes"] - 1](
        c["inputs"], c["outputs"], c["kernel"], c["stride"], c["padding"], c["rest"], c["groups"], c["bias"],
        c["dilation"],
    )  # fmt: skip
    check(layer, normal(c["inputs"], *size), overrides=TABLES[c["table"]], batches=(2, 1))


@given(
    kernel=st.lists(st.integers(1, 4), min_size=1, max_size=2),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    channels=st.sampled_from(
        [(1, 1, 1), (3, 5, 1), (7, 4, 1), (18, 3, 1), (33, 2, 1), (3, 3, 3), (4, 4, 4), (34, 6, 2), (4, 8, 4)]
    ),
    batch=st.integers(1, 3),
)
def test_gradients_of_weights_with_channels_last_and_a_fixed_batch(
    kernel: list[int], stride: int, padding: int, dilation: int, channels: tuple[int, int, int], batch: int
) -> None:
    """A known batch lets depthwise ones be one convolution over all images."""
    inputs, outputs, groups = channels
    generator = torch.Generator().manual_seed(batch)
    size = [11, 9][: len(kernel)]
    x = torch.randn(batch, inputs, *size, dtype=torch.float64, generator=generator)
    w = torch.randn(
        outputs, inputs // groups, *kernel, dtype=torch.float64, requires_grad=True, generator=generator
    )
    convolve = functional.conv2d if len(kernel) == 2 else functional.conv1d
    y = convolve(x, w, None, stride, padding, dilation, groups)
    grad = torch.randn(y.shape, dtype=torch.float64, generator=generator)
    (expected,) = torch.autograd.grad(y, w, grad)
    axes = len(kernel)
    got = convolution_rows.weight_gradient(
        x, grad, kernel, [stride] * axes, [padding] * axes, [dilation] * axes, groups
    )
    torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
