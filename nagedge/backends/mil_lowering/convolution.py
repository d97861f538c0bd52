"""Convolutions, plain and transposed, with constant or computed weights.

Core ML's convolutions with computed weights have no dilation, and before iOS 17 no transposed form; the NN layers that
older systems run them on refuse both. So a dilated kernel is spread out with zeros, and a transposed convolution with
computed weights becomes a plain one over an input spread out by the stride, with the kernel turned round.

Notation: ``x`` ``[batch, C, *spatial]``; ``w`` ``[O, C / groups, *kernel]``, transposed ``[C, O / groups, *kernel]``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import fx

from nagedge.backends.mil_lowering.builder import ProgramBuilder, Var
from nagedge.backends.mil_lowering.compute import is_constant
from nagedge.backends.mil_lowering.structure import pad_constant, reshape, slice_axis
from nagedge.backends.traced import dtype_of, fake_of

__all__ = ["RULES", "dilated_kernel", "interleaved"]

Rule = Callable[[ProgramBuilder, fx.Node], Any]
Ints = Sequence[int]


def _convolution(builder: ProgramBuilder, node: fx.Node) -> Var:
    x, weight, bias = node.args[:3]
    dtype = dtype_of(node)
    axes = fake_of(x).dim() - 2
    stride, padding, dilation = (_spread(v, axes) for v in node.args[3:6])
    transposed, groups = bool(node.args[6]), int(node.args[8])  # type: ignore[arg-type]
    data, kernel = builder.tensor(x, dtype), builder.tensor(weight, dtype)
    offset = None if bias is None else builder.tensor(bias, dtype)
    if transposed:
        sizes = [int(str(s)) for s in builder.shape_of(node)[2:]]
        if not is_constant(kernel):
            return _biased(
                builder, _transposed(builder, data, kernel, sizes, stride, padding, dilation, groups), offset
            )
        return _constant_transposed(builder, data, kernel, offset, sizes, stride, padding, dilation, groups)
    if not is_constant(kernel):
        kernel, dilation = dilated_kernel(builder, kernel, dilation), [1] * axes
    pads = [p for p in padding for _ in range(2)]
    return _conv(builder, data, kernel, offset, stride, pads, dilation, groups)


def _spread(values: Any, axes: int) -> list[int]:
    listed = [int(v) for v in values]
    return listed * axes if len(listed) == 1 else listed


def _conv(
    builder: ProgramBuilder,
    x: Var,
    weight: Var,
    bias: Var | None,
    stride: Ints,
    pads: Ints,
    dilation: Ints,
    groups: int,
) -> Var:
    inside = bias is not None and is_constant(bias) and is_constant(weight)
    result = builder.add(
        "conv", x=x, weight=weight, strides=list(stride), pad_type="custom", pad=list(pads), dilations=list(dilation),
        groups=groups, **({"bias": bias} if inside else {}),
    )  # fmt: skip
    return result if inside else _biased(builder, result, bias)


def _biased(builder: ProgramBuilder, result: Var, bias: Var | None) -> Var:
    if bias is None:
        return result
    return builder.add("add", x=result, y=reshape(builder, bias, [bias.shape[0], *[1] * (result.rank - 2)]))


def _constant_transposed(
    builder: ProgramBuilder,
    x: Var,
    weight: Var,
    bias: Var | None,
    sizes: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
) -> Var:
    """MIL's transposed convolution without padding, then cropped (or filled up with what no window reaches)."""
    axes = len(sizes)
    kernel, spatial = weight.shape[2:], x.shape[2:]
    inside = bias is not None and is_constant(bias)
    whole = [(spatial[i] - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1 for i in range(axes)]
    surplus = [whole[i] - padding[i] - sizes[i] for i in range(axes)]
    croppable = min(surplus) >= 0
    pads = [p for pair in zip(padding, surplus, strict=True) for p in pair] if croppable else [0] * (2 * axes)
    result = builder.add(
        "conv_transpose", x=x, weight=weight, strides=list(stride), pad_type="custom", pad=pads,
        dilations=list(dilation), groups=groups, **({"bias": bias} if inside and croppable else {}),
    )  # fmt: skip
    if croppable:
        return result if inside else _biased(builder, result, bias)
    return _biased(builder, _placed(builder, result, padding, sizes), bias)


def _placed(builder: ProgramBuilder, x: Var, before: Ints, sizes: Ints) -> Var:
    """Crop ``before`` from the front of each spatial axis, then crop or fill up to ``sizes``."""
    behind = [0] * x.rank
    for i, (front, size) in enumerate(zip(before, sizes, strict=True), start=2):
        stop = min(x.shape[i], front + size)
        behind[i] = front + size - stop
        if front or stop < x.shape[i]:
            x = slice_axis(builder, x, i, front, stop)
    return pad_constant(builder, x, [0] * x.rank, behind, 0.0)


def _transposed(
    builder: ProgramBuilder,
    x: Var,
    weight: Var,
    sizes: Ints,
    stride: Ints,
    padding: Ints,
    dilation: Ints,
    groups: int,
) -> Var:
    axes = len(sizes)
    kernel = list(weight.shape[2:])
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    flipped = [i for i in range(2, 2 + axes) if weight.shape[i] > 1]
    turned = builder.add("reverse", x=weight, axes=flipped) if flipped else weight
    if groups == 1:
        turned = _swapped(builder, turned)
    elif inputs > 1 or outputs > 1:
        flat = _flat_kernel(builder, turned)  # rank 4 at most, whatever the kernel
        area = flat.shape[2]
        flat = reshape(builder, flat, [groups, inputs, outputs, area])
        flat = builder.add("transpose", x=flat, perm=[0, 2, 1, 3])
        turned = reshape(builder, flat, [groups * outputs, inputs, *kernel])
    turned = dilated_kernel(builder, turned, dilation)
    spread = x
    for i in range(axes):
        spread = interleaved(builder, spread, 2 + i, stride[i])
    # Spreading leaves stride - 1 zeros behind the last cell; they count as padding already in place.
    before = [dilation[i] * (kernel[i] - 1) - padding[i] for i in range(axes)]
    after = [sizes[i] + dilation[i] * (kernel[i] - 1) - spread.shape[2 + i] - before[i] for i in range(axes)]
    for i in range(axes):
        if before[i] < 0 or after[i] < 0:
            stop = spread.shape[2 + i] + min(after[i], 0)
            spread = slice_axis(builder, spread, 2 + i, max(-before[i], 0), stop)
    pads = [max(p, 0) for pair in zip(before, after, strict=True) for p in pair]
    return _conv(builder, spread, turned, None, [1] * axes, pads, [1] * axes, groups)


def _swapped(builder: ProgramBuilder, weight: Var) -> Var:
    return builder.add("transpose", x=weight, perm=[1, 0, *range(2, weight.rank)])


def _flat_kernel(builder: ProgramBuilder, weight: Var) -> Var:
    area = 1
    for size in weight.shape[2:]:
        area *= size
    return reshape(builder, weight, [weight.shape[0], weight.shape[1], area])


def dilated_kernel(builder: ProgramBuilder, weight: Var, dilation: Ints) -> Var:
    """Return the kernel with ``dilation - 1`` zeros between its entries."""
    for i, step in enumerate(dilation, start=2):
        size = weight.shape[i]
        if step > 1 and size > 1:
            weight = slice_axis(builder, interleaved(builder, weight, i, step), i, 0, (size - 1) * step + 1)
    return weight


def interleaved(builder: ProgramBuilder, x: Var, axis: int, step: int) -> Var:
    """Put ``step - 1`` zeros behind every entry of a spatial axis (>= 2), within rank 4."""
    if step == 1:
        return x
    before, behind = 1, 1
    for size in x.shape[1:axis]:
        before *= size
    for size in x.shape[axis + 1 :]:
        behind *= size
    shape = list(x.shape)
    # [rows, n, behind] -> [rows, n, step * behind] -> the axis n times as long; the first axis may be symbolic
    rows = reshape(builder, x, [shape[0] * before, shape[axis], behind])
    rows = pad_constant(builder, rows, [0, 0, 0], [0, 0, (step - 1) * behind], 0.0)
    return reshape(builder, rows, [shape[0], *shape[1:axis], shape[axis] * step, *shape[axis + 1 :]])


RULES: dict[str, Rule] = {"convolution": _convolution}
