"""Interpolation as constant matrices: one matrix product an axis, so the gradient is a transposed product.

Every interpolation of torch is separable. The matrix of an axis is torch's own operator applied to the identity, so
its rounding and its border rules hold by construction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.utils._python_dispatch import _disable_current_modes

from nagedge.graphs.decompositions.python_kernels import python_kernels
from nagedge.graphs.decompositions.tensors import constant, reshape
from nagedge.graphs.decompositions.windows import repeat_cells

aten = torch.ops.aten

__all__ = ["INTERPOLATIONS", "resize_axes", "whole_interpolations"]

Matrix = Sequence[Sequence[float]]
Rule = Callable[..., Any]


def resize_axes(x: Tensor, matrices: Sequence[Matrix | None]) -> Tensor:
    """Multiply the last axes of ``x`` by one constant matrix each (``[outputs, inputs]``; None leaves the axis).

    The last axis is multiplied from the right; any other is moved last for its product, so every product is one
    ``mm`` over all examples and channels at once.
    """
    first = x.dim() - len(matrices)
    for axis in reversed(range(first, x.dim())):
        matrix = matrices[axis - first]
        if matrix is None:
            continue
        turned = constant(list(zip(*matrix, strict=True)), x)
        last = x.dim() - 1
        moved = x if axis == last else x.transpose(axis, last)
        shape = list(moved.shape)
        product = torch.mm(reshape(moved, [-1, shape[-1]]), turned)
        x = reshape(product, [-1, *shape[1:-1], turned.shape[1]])
        x = x if axis == last else x.transpose(axis, last)
    return x


def _matrix(
    operator: OpOverload, axes: int, inputs: int, outputs: int, options: Sequence[Any], x: Tensor
) -> Matrix:
    """``[outputs, inputs]`` matrix of one axis: the operator on the identity.

    The other axes have size 2 and stay as they are: torch's antialiasing kernels are wrong for size 1.
    """
    rest = [2] * (axes - 1)
    with _disable_current_modes(), torch.no_grad():
        cells = torch.eye(inputs, dtype=x.dtype).reshape(inputs, 1, inputs, *[1] * (axes - 1))
        result = operator(cells.expand(inputs, 1, inputs, *rest).contiguous(), [outputs, *rest], *options)
        matrix: list[list[float]] = result.reshape(inputs, outputs, -1)[:, :, 0].t().tolist()
    return matrix


def _matrices(
    operator: OpOverload, axes: int, corners: bool, sizes: Sequence[int], outputs: Sequence[int], rest: Sequence[Any],
    x: Tensor,
) -> list[Matrix | None]:  # fmt: skip
    """One matrix an axis; ``rest`` is ``[align_corners,] *scales``."""
    flags, scales = (list(rest[:1]), list(rest[1:])) if corners else ([], list(rest))
    scales += [None] * (axes - len(scales))
    matrices: list[Matrix | None] = []
    for i in range(axes):
        options = [*flags, scales[i], *[None] * (axes - 1)]
        matrix = _matrix(operator, axes, sizes[i], outputs[i], options, x)
        identity = all(v == float(r == c) for r, row in enumerate(matrix) for c, v in enumerate(row))
        matrices.append(None if identity and sizes[i] == outputs[i] else matrix)
    return matrices


def _whole_factor(
    sizes: Sequence[int], outputs: Sequence[int], scales: Sequence[float | None]
) -> list[int] | None:
    """Whole factors by which a nearest upsampling repeats each cell, if it is one."""
    factors = []
    for size, output, scale in zip(sizes, outputs, scales, strict=True):
        if output % size or (scale is not None and scale != output / size):
            return None
        factors.append(output // size)
    return factors


def _interpolation(operator: OpOverload, axes: int, corners: bool) -> tuple[Rule, Rule]:
    """Forward and backward rule of one interpolation operator."""
    nearest = not corners

    def factors(sizes: Sequence[int], outputs: Sequence[int], rest: Sequence[Any]) -> list[int] | None:
        scales = [*rest, *[None] * (axes - len(rest))]
        return _whole_factor(sizes, outputs, scales) if nearest else None

    def forward(x: Tensor, output_size: Sequence[int], *rest: Any, **named: Any) -> Tensor:
        rest = (*rest, *named.values())
        sizes = list(x.shape[2:])
        times = factors(sizes, output_size, rest)
        if times is not None:
            for i in range(axes):
                x = repeat_cells(x, 2 + i, times[i])
            return x
        return resize_axes(x, _matrices(operator, axes, corners, sizes, output_size, rest, x))

    def backward(
        grad: Tensor, output_size: Sequence[int], input_size: Sequence[int], *rest: Any, **named: Any
    ) -> Tensor:
        rest = (*rest, *named.values())
        sizes = list(input_size[2:])
        times = factors(sizes, output_size, rest)
        if times is not None:
            split = [v for pair in zip(sizes, times, strict=True) for v in pair]
            cells = reshape(grad, [-1, grad.shape[1], *split])
            return cells.sum([3 + 2 * i for i in range(axes)])
        matrices = _matrices(operator, axes, corners, sizes, output_size, rest, grad)
        turned = [None if m is None else list(zip(*m, strict=True)) for m in matrices]
        return resize_axes(grad, turned)

    return forward, backward


def _interpolations() -> dict[OpOverload, Rule]:
    kinds = [
        (aten.upsample_nearest1d, aten.upsample_nearest1d_backward, 1, False),
        (aten.upsample_nearest2d, aten.upsample_nearest2d_backward, 2, False),
        (aten._upsample_nearest_exact1d, aten._upsample_nearest_exact1d_backward, 1, False),
        (aten._upsample_nearest_exact2d, aten._upsample_nearest_exact2d_backward, 2, False),
        (aten.upsample_linear1d, aten.upsample_linear1d_backward, 1, True),
        (aten.upsample_bilinear2d, aten.upsample_bilinear2d_backward, 2, True),
        (aten.upsample_bicubic2d, aten.upsample_bicubic2d_backward, 2, True),
        (aten._upsample_bilinear2d_aa, aten._upsample_bilinear2d_aa_backward, 2, True),
        (aten._upsample_bicubic2d_aa, aten._upsample_bicubic2d_aa_backward, 2, True),
    ]
    rules: dict[OpOverload, Rule] = {}
    for ahead, behind, axes, corners in kinds:
        rules[ahead.default], rules[behind.default] = _interpolation(ahead.default, axes, corners)
    return rules


INTERPOLATIONS = _interpolations()
"""Rules of every separable interpolation and of its gradient."""


@contextmanager
def whole_interpolations() -> Iterator[None]:
    """Keep interpolations whole while tracing.

    torch's Python dispatcher takes them apart into index arithmetic before any decomposition table is asked; inside
    this context it leaves them alone, so that the rules of :data:`INTERPOLATIONS` apply.
    """
    forward = [operator for operator in INTERPOLATIONS if "vec" in operator.overloadpacket.overloads()]
    kernels: dict[OpOverload, dict[Any, Rule]] = {operator: {} for operator in forward}
    for operator in forward:
        vec = operator.overloadpacket.vec
        kernels[vec] = dict.fromkeys(vec.py_kernels, _by_size(operator))
    with python_kernels(kernels):
        yield


def _by_size(operator: OpOverload) -> Rule:
    """The ``vec`` overload, which takes a size or scale factors, in terms of the one that takes a size and scales."""

    def vec(x: Tensor, output_size: Sequence[int] | None, *rest: Any) -> Any:
        scales = rest[-1]
        if output_size is None:
            output_size = [math.floor(n * s) for n, s in zip(x.shape[2:], scales, strict=True)]
        return operator(x, output_size, *rest[:-1], *(scales or [None] * len(output_size)))

    return vec
