"""Operators that compute over axes: matrix products, convolutions, pooling, reductions, normalisation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import fx

from nagedge.backends.onnx_lowering.builder import GraphBuilder
from nagedge.backends.traced import argument_of, axes_of, dtype_of, fake_of, order_of, pads_of, short_name

__all__ = ["RULES"]

Rule = Callable[[GraphBuilder, fx.Node], Any]


def _matmul(builder: GraphBuilder, node: fx.Node) -> str:
    return builder.add("MatMul", [builder.tensor(node.args[0]), builder.tensor(node.args[1])])


def _bmm(builder: GraphBuilder, node: fx.Node) -> str:
    """Multiply by one matrix for the whole batch where all matrices of the right operand are the same.

    torch repeats a weight for each of the left operand's matrices (a recurrent layer's for every time step, say). As
    one matrix it is packed once, in one large product; folded into a constant it would be stored many times.
    """
    left, right = node.args[:2]
    return builder.add("MatMul", [builder.tensor(left), builder.tensor(_repeated_matrix(right))])


def _repeated_matrix(node: Any) -> Any:
    """Return the matrix ``[k, n]`` that ``[batch, k, n]`` repeats, or the node itself."""
    rows_columns = fake_of(node).shape[-2:]
    source = node
    while source.op == "call_function" and short_name(source) in _REPEATING and fake_of(source).dim() > 2:
        source = source.args[0]
        if fake_of(source).shape[-2:] != rows_columns:
            return node
    return source if fake_of(source).dim() == 2 else node


_REPEATING = {"expand", "view", "reshape", "_unsafe_view", "unsqueeze", "clone"}
"""Operators that, as long as the last two sizes stay, only repeat a matrix or regroup such repetitions."""


def _addmm(builder: GraphBuilder, node: fx.Node) -> str:
    """Multiply and add; a transposed operand is read as it is.

    ONNX Runtime (1.31) would see to that itself, but not where several operators read the result.
    """
    bias, left, right = node.args[:3]
    (left, turns_left), (right, turns_right) = _turned(left), _turned(right)
    names = [builder.tensor(operand) for operand in (left, right, bias)]
    alpha = float(node.kwargs.get("alpha", 1.0))  # type: ignore[arg-type]
    beta = float(node.kwargs.get("beta", 1.0))  # type: ignore[arg-type]
    return builder.add(
        "Gemm", names, alpha=alpha, beta=beta, transA=turns_left or None, transB=turns_right or None
    )


def _turned(matrix: Any) -> tuple[Any, int]:
    """Return the matrix that another is the transpose of and 1, or the matrix itself and 0."""
    is_transpose = matrix.op == "call_function" and short_name(matrix) in ("t", "transpose", "permute")
    if is_transpose and order_of(matrix) == [1, 0]:
        return matrix.args[0], 1
    return matrix, 0


def _baddbmm(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    bias, left, right = (builder.tensor(a) for a in node.args[:3])
    product = builder.add("MatMul", [left, right])
    for name, factor in (("alpha", node.kwargs.get("alpha", 1)), ("beta", node.kwargs.get("beta", 1))):
        if factor != 1:
            scaled = builder.scalar(factor, dtype)  # type: ignore[arg-type]
            if name == "alpha":
                product = builder.add("Mul", [product, scaled])
            else:
                bias = builder.add("Mul", [bias, scaled])
    return builder.add("Add", [product, bias])


def _convolution(builder: GraphBuilder, node: fx.Node) -> str:
    x, weight, bias, stride, padding, dilation, transposed, output_padding, groups = node.args
    spatial = fake_of(x).dim() - 2
    x, before, after = (x, [0] * spatial, [0] * spatial) if transposed else _padded(x, spatial)
    inputs = [builder.tensor(x), builder.tensor(weight)]
    if bias is not None:
        inputs.append(builder.tensor(bias))

    def spread(values: Any) -> list[int]:
        listed = [int(v) for v in values]
        return listed * spatial if len(listed) == 1 else listed

    pads = [p + more for extra in (before, after) for p, more in zip(spread(padding), extra, strict=True)]
    attributes: dict[str, Any] = {
        "strides": spread(stride), "pads": pads, "dilations": spread(dilation), "group": int(groups),  # type: ignore[arg-type]
    }  # fmt: skip
    if not transposed:
        return builder.add("Conv", inputs, **attributes)
    if any(spread(output_padding)):
        attributes["output_padding"] = spread(output_padding)
    return builder.add("ConvTranspose", inputs, **attributes)


def _padded(x: Any, axes: int) -> tuple[Any, list[int], list[int]]:
    """Return what zeros were put around, and how many before and behind each axis: ``Conv`` does that by itself."""
    none = [0] * axes
    if x.op != "call_function" or short_name(x) != "constant_pad_nd":
        return x, none, none
    if argument_of(x, 2, "value", 0) != 0 or not all(isinstance(p, int) and p >= 0 for p in x.args[1]):
        return x, none, none
    pads = pads_of(x)
    if any(map(any, pads[:-axes])):
        return x, none, none
    return x.args[0], [before for before, _ in pads[-axes:]], [behind for _, behind in pads[-axes:]]


def _pool_geometry(node: fx.Node, *, has_dilation: bool) -> dict[str, Any]:
    spatial = len(node.args[1])  # type: ignore[arg-type]
    kernel = [int(k) for k in node.args[1]]  # type: ignore[union-attr,arg-type]
    stride = [int(s) for s in argument_of(node, 2, "stride", []) or kernel]
    padding = [int(p) for p in argument_of(node, 3, "padding", [0] * spatial)]
    after = 5 if has_dilation else 4
    ceil = bool(argument_of(node, after, "ceil_mode", False))
    dilation = (
        [int(d) for d in argument_of(node, 4, "dilation", [1] * spatial)] if has_dilation else [1] * spatial
    )
    if len(padding) == 1:
        padding = padding * spatial
    if len(dilation) == 1:
        dilation = dilation * spatial
    # torch's ceil_mode as explicit padding at the end: ONNX runtimes disagree on windows that start in the padding
    end = list(padding)
    if ceil:
        source, result = node.args[0].meta["val"].shape[-spatial:], fake_of(node).shape[-spatial:]  # type: ignore[union-attr]
        for i in range(spatial):
            needed = (int(result[i]) - 1) * stride[i] + dilation[i] * (kernel[i] - 1) + 1
            end[i] = max(needed - int(source[i]) - padding[i], padding[i])
    geometry: dict[str, Any] = {"kernel_shape": kernel, "strides": stride, "pads": padding + end}
    if has_dilation:
        geometry["dilations"] = dilation
    return geometry


def _max_pool(builder: GraphBuilder, node: fx.Node) -> tuple[str, ...]:
    geometry = _pool_geometry(node, has_dilation=True)
    used = any(user.args[1] == 1 for user in node.users)
    x, restore = _with_channels(builder, node, geometry)
    if not used:
        return restore(builder.add("MaxPool", [x], **geometry)), ""
    maxima, indices = builder.add_many("MaxPool", [x], 2, **geometry)
    # ONNX counts from the start of the tensor, torch from the start of each image
    area = int(np.prod([int(s) for s in fake_of(node.args[0]).shape[-len(geometry["kernel_shape"]) :]]))
    return restore(maxima), restore(builder.add("Mod", [indices, builder.scalar(area, torch.int64)]))


def _with_channels(
    builder: GraphBuilder, node: fx.Node, geometry: dict[str, Any]
) -> tuple[str, Callable[[str], str]]:
    """Return a pool's input as ``[batch, channels, *spatial]``, and what undoes that on a result.

    torch pools ``[channels, *spatial]`` too.
    """
    x = builder.tensor(node.args[0])
    if fake_of(node.args[0]).dim() > len(geometry["kernel_shape"]) + 1:
        return x, lambda result: result
    axis = builder.ints([0])
    return builder.add("Unsqueeze", [x, axis]), lambda result: builder.add("Squeeze", [result, axis])


def _avg_pool(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    geometry = _pool_geometry(node, has_dilation=False)
    include_pad = bool(argument_of(node, 5, "count_include_pad", True))
    divisor = argument_of(node, 6, "divisor_override", None)
    ceil = bool(argument_of(node, 4, "ceil_mode", False))
    kernel = geometry["kernel_shape"]
    x, restore = _with_channels(builder, node, geometry)
    if divisor is None and (not ceil or not any(geometry["pads"]) or not include_pad):
        return restore(builder.add("AveragePool", [x], count_include_pad=int(include_pad), **geometry))
    # Explicit zero padding, a plain average, then the divisor torch would have used at each position.
    count = len(kernel)
    begin, strides = geometry.pop("pads")[:count], geometry["strides"]
    source = [int(s) for s in fake_of(node.args[0]).shape[-count:]]
    result = [int(s) for s in node.meta["val"].shape[-count:]]
    stop = [max((result[i] - 1) * strides[i] + kernel[i] - source[i] - begin[i], 0) for i in range(count)]
    rank = count + 2
    pads = [0] * (rank - count) + begin + [0] * (rank - count) + stop
    padded = builder.add("Pad", [x, builder.ints(pads), builder.scalar(0, dtype)])
    mean = builder.add("AveragePool", [padded], **geometry)
    area = float(np.prod(kernel))
    if divisor is not None:
        return restore(builder.add("Mul", [mean, builder.scalar(area / float(divisor), dtype)]))
    # torch counts the declared padding but not the extra part that ceil_mode adds
    factors = np.ones([1] * (rank - count) + result)
    for i in range(count):
        starts = np.arange(result[i]) * strides[i] - begin[i]
        stops = np.minimum(starts + kernel[i], source[i] + begin[i])
        shape = [1] * rank
        shape[rank - count + i] = -1
        factors = factors * (kernel[i] / (stops - starts)).reshape(shape)
    return restore(builder.add("Mul", [mean, builder.constant(factors, np.float32)]))


def _reduce(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        axes = axes_of(node)
        keep = bool(argument_of(node, 2, "keepdim", False))
        x = builder.tensor(node.args[0], dtype_of(node))
        if not axes:
            return x
        return builder.add(op, [x, builder.ints(axes)], keepdims=int(keep))

    return rule


def _any_all(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        keep = bool(argument_of(node, 2, "keepdim", False))
        x = builder.cast(builder.tensor(node.args[0], torch.bool), torch.int32)
        reduced = builder.add(op, [x, builder.ints(axes_of(node))], keepdims=int(keep))
        return builder.cast(reduced, torch.bool)

    return rule


def _arg_reduce(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        axis = argument_of(node, 1, "dim", None)
        keep = bool(argument_of(node, 2, "keepdim", False))
        x = builder.tensor(node.args[0])
        if axis is None:
            x = builder.add("Reshape", [x, builder.ints([-1])])
            axis, keep = 0, False
        return builder.add(op, [x], axis=int(axis), keepdims=int(keep))

    return rule


def _cumsum(builder: GraphBuilder, node: fx.Node) -> str:
    x = builder.tensor(node.args[0], dtype_of(node))
    return builder.add("CumSum", [x, builder.constant(np.int64(int(node.args[1])))])  # type: ignore[arg-type]


def _softmax(op: str) -> Rule:
    def rule(builder: GraphBuilder, node: fx.Node) -> str:
        return builder.add(op, [builder.tensor(node.args[0])], axis=int(node.args[1]))  # type: ignore[arg-type]

    return rule


def _batch_norm(builder: GraphBuilder, node: fx.Node) -> tuple[str, str, str]:
    x, weight, bias, mean, var, _, eps = node.args
    channels = int(fake_of(mean).shape[0])
    scale = builder.constant(np.ones(channels, np.float32)) if weight is None else builder.tensor(weight)
    offset = builder.constant(np.zeros(channels, np.float32)) if bias is None else builder.tensor(bias)
    names = [builder.tensor(x), scale, offset, builder.tensor(mean), builder.tensor(var)]
    return builder.add("BatchNormalization", names, epsilon=float(eps)), "", ""  # type: ignore[arg-type]


def _layer_norm(builder: GraphBuilder, node: fx.Node) -> tuple[str, str, str]:
    x, shape, weight, bias, eps = node.args
    sizes = [int(s) for s in shape]  # type: ignore[union-attr,arg-type]
    scale = builder.constant(np.ones(sizes, np.float32)) if weight is None else builder.tensor(weight)
    names = [builder.tensor(x), scale]
    if bias is not None:
        names.append(builder.tensor(bias))
    return builder.add("LayerNormalization", names, axis=-len(sizes), epsilon=float(eps)), "", ""  # type: ignore[arg-type]


RULES: dict[str, Rule] = {
    "mm": _matmul, "bmm": _bmm, "matmul": _matmul, "mv": _matmul, "dot": _matmul, "addmm": _addmm,
    "baddbmm": _baddbmm, "convolution": _convolution, "max_pool2d_with_indices": _max_pool, "avg_pool2d": _avg_pool,
    "sum": _reduce("ReduceSum"), "mean": _reduce("ReduceMean"), "amax": _reduce("ReduceMax"),
    "amin": _reduce("ReduceMin"), "prod": _reduce("ReduceProd"), "any": _any_all("ReduceMax"),
    "all": _any_all("ReduceMin"), "argmax": _arg_reduce("ArgMax"), "argmin": _arg_reduce("ArgMin"),
    "cumsum": _cumsum, "_softmax": _softmax("Softmax"), "_log_softmax": _softmax("LogSoftmax"),
    "_native_batch_norm_legit_no_training": _batch_norm, "native_layer_norm": _layer_norm,
}  # fmt: skip
