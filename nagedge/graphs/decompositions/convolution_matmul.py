"""Gradients of convolutions for backends whose convolutions with computed weights are plain ones only (Core ML).

The gradient of the weights is a matrix product a kernel tap, that of the input a plain convolution of the gradient,
spread out by the stride, with the kernel turned round.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from nagedge.graphs.decompositions.convolution import (
    convolution_backward as _with_input_gradient,
)
from nagedge.graphs.decompositions.convolution import (
    flip_by_axis,
    input_gradient_by_convolution,
)

__all__ = ["convolution_backward"]

Ints = Sequence[int]


def _input_gradient(
    grad: Tensor, spatial: Ints, w: Tensor, stride: Ints, padding: Ints, dilation: Ints, groups: int
) -> Tensor:
    return input_gradient_by_convolution(
        grad, spatial, w, stride, padding, dilation, groups, flip=flip_by_axis
    )


convolution_backward = _with_input_gradient(_input_gradient)
"""The rule of ``aten.convolution_backward``."""
