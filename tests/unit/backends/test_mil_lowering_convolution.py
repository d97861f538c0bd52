"""Convolutions in ML Programs, with constant and with computed weights, and the rule of their gradients."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lowering_harness import case, normal
from mil_lowering_harness import check

from nagedge.backends import coreml

aten = torch.ops.aten


def convolution(x: torch.Tensor, w: torch.Tensor, *rest: object) -> torch.Tensor:
    result: torch.Tensor = aten.convolution.default(x, w, *rest)
    return result


GEOMETRIES = {
    "plain": ((2, 9, 8), (4, 2, 3, 3), [1, 1], [1, 1], [1, 1], False, [0, 0], 1),
    "stride, uneven padding": ((2, 9, 8), (4, 2, 3, 2), [2, 3], [2, 0], [1, 1], False, [0, 0], 1),
    "dilation": ((2, 11, 9), (4, 2, 3, 2), [1, 2], [2, 1], [2, 3], False, [0, 0], 1),
    "groups": ((6, 7, 7), (4, 3, 3, 3), [1, 1], [0, 1], [1, 1], False, [0, 0], 2),
    "depthwise, dilation": ((3, 9, 9), (6, 1, 3, 3), [2, 1], [1, 1], [2, 2], False, [0, 0], 3),
    "one axis": ((4, 13), (6, 2, 3), [2], [1], [3], False, [0], 2),
    "three axes": ((2, 5, 6, 7), (4, 2, 3, 2, 1), [1, 2, 1], [1, 0, 0], [2, 1, 1], False, [0, 0, 0], 1),
    "transposed": ((4, 5, 6), (4, 3, 3, 2), [2, 1], [1, 0], [1, 1], True, [1, 0], 1),
    "transposed, groups, dilation": ((4, 5, 6), (4, 3, 3, 2), [3, 2], [1, 2], [2, 1], True, [2, 1], 2),
    "transposed, output padding beyond reach": (
        (3, 4, 4),
        (3, 2, 1, 1),
        [3, 3],
        [0, 0],
        [1, 1],
        True,
        [2, 2],
        1,
    ),
    "transposed, large padding": ((2, 6, 6), (2, 3, 2, 2), [1, 1], [3, 1], [1, 1], True, [0, 0], 1),
    "transposed, depthwise, one axis": ((3, 7), (3, 2, 4), [2], [1], [1], True, [1], 3),
}


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
@pytest.mark.parametrize("computed", [False, True], ids=["constant", "computed"])
def test_convolutions(geometry: tuple[object, ...], computed: bool, tmp_path: Path) -> None:
    shape, weight_shape, *rest = geometry
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(weight_shape, generator=generator)  # type: ignore[call-overload]
    outputs = weight_shape[1] * rest[-1] if rest[3] else weight_shape[0]  # type: ignore[index,operator]
    bias = torch.randn(outputs, generator=generator)
    stride, padding, dilation, transposed, output_padding, groups = rest

    def run(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        if computed:
            w, b = w * (1.0 + x.sum() * 0.0), b * (1.0 + x.sum() * 0.0)
        return convolution(x, w, b, stride, padding, dilation, transposed, output_padding, groups)

    item = case(
        "convolution",
        "",
        run,
        normal(*shape),
        constants=(weight, bias),
        rtol=1e-5,
        atol=1e-5,  # type: ignore[misc]
    )
    check(item, tmp_path)


@pytest.mark.parametrize("geometry", GEOMETRIES.values(), ids=GEOMETRIES)
def test_gradients_of_convolutions(geometry: tuple[object, ...]) -> None:
    shape, weight_shape, *rest = geometry
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(3, *shape, generator=generator)  # type: ignore[misc]
    weight = torch.randn(weight_shape, generator=generator)  # type: ignore[call-overload]
    outputs = weight_shape[1] * rest[-1] if rest[3] else weight_shape[0]  # type: ignore[index,operator]
    y = convolution(x, weight, None, *rest)
    grad = torch.randn(y.shape, generator=generator)
    rule = coreml.DECOMPOSITIONS[aten.convolution_backward.default]
    arguments = (grad, x, weight, [outputs], *rest, [True, True, True])
    for got, expected in zip(rule(*arguments), aten.convolution_backward.default(*arguments), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
