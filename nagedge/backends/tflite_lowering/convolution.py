"""The rule of ``aten.convolution``: over one or two axes, plain or transposed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from nagedge.backends.tflite_lowering.builder import FLOAT, GraphBuilder, Value
from nagedge.backends.tflite_lowering.plain_convolution import Geometry, Pair, plain_convolution
from nagedge.backends.tflite_lowering.transposed_convolution import transposed_convolution
from nagedge.backends.tflite_lowering.views import view
from nagedge.errors import UnsupportedOperatorError

__all__ = ["RULES"]

Rule = Callable[[GraphBuilder, fx.Node], Value]


def _pairs(values: Any, axes: int, filler: int) -> Pair:
    listed = [int(v) for v in values]
    listed = listed * axes if len(listed) == 1 else listed
    return (filler, listed[0]) if axes == 1 else (listed[0], listed[1])


def _convolution(builder: GraphBuilder, node: fx.Node) -> Value:
    x, weight = builder.of(node.args[0], FLOAT), builder.of(node.args[1], FLOAT)
    bias = None if node.args[2] is None else builder.of(node.args[2], FLOAT)
    stride, padding, dilation, transposed, output_padding, groups = node.args[3:9]
    axes = x.rank - 2
    if axes > 2:
        raise UnsupportedOperatorError(
            "over three axes it has no lowering to the operators that every TensorFlow Lite runtime has: use "
            "convolutions over two axes."
        )
    if axes == 1:  # the new axis comes first, so that the other one lies beside the channels
        x = view(builder, x, [*x.sizes[:2], 1, x.sizes[2]])
        weight = view(builder, weight, [*weight.sizes[:2], 1, weight.sizes[2]])
    strides, spread = _pairs(stride, axes, 1), _pairs(dilation, axes, 1)
    pads, extra = _pairs(padding, axes, 0), _pairs(output_padding, axes, 0)
    if transposed:
        made = transposed_convolution(builder, x, weight, bias, strides, pads, spread, extra, int(groups))  # type: ignore[arg-type]
    else:
        geometry = Geometry(strides, ((pads[0], pads[0]), (pads[1], pads[1])), spread, int(groups))  # type: ignore[arg-type]
        made = plain_convolution(builder, x, weight, bias, geometry)
    return view(builder, made, builder.sizes(node)) if axes == 1 else made


RULES: dict[str, Rule] = {"convolution": _convolution}
