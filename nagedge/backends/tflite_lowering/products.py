"""Matrix products: FULLY_CONNECTED where the right factor is stored transposed, else BATCH_MATMUL.

FULLY_CONNECTED takes ``[.., K]`` and weights ``[N, K]``, as ``torch.nn.Linear`` stores them; constant weights are
packed once. BATCH_MATMUL takes ``[.., M, K]`` and ``[.., K, N]``, or ``[.., N, K]`` with ``adjY``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from nagedge.backends.tflite_lowering.broadcasting import broadcast
from nagedge.backends.tflite_lowering.builder import FLOAT, GraphBuilder, Value
from nagedge.backends.tflite_lowering.model import Size
from nagedge.backends.tflite_lowering.views import view

__all__ = ["RULES", "fully_connected", "product"]

Rule = Callable[[GraphBuilder, fx.Node], Value]


def fully_connected(builder: GraphBuilder, rows: int, weight: int, bias: int | None = None) -> int:
    """Return ``rows @ weight^T + bias`` for stored tensors ``[.., K]``, ``[N, K]`` and ``[N]``."""
    inputs = [rows, weight] + ([] if bias is None else [bias])
    sizes = [*builder.tensors[rows].sizes[:-1], builder.tensors[weight].sizes[0]]
    return builder.add("FULLY_CONNECTED", inputs, sizes, FLOAT, keepNumDims=len(sizes) != 2)


def _mm(builder: GraphBuilder, left: Value, right: Value, bias: Value | None = None) -> Value:
    """``[M, K] @ [K, N]``."""
    sizes = (left.sizes[0], right.sizes[1])
    stored = builder.is_constant(right) or right.order == (1, 0)
    fits = bias is None or (
        bias.rank == 1 and builder.stored(bias) == bias.sizes and bias.sizes[0] == sizes[1]
    )
    if stored and fits:
        given = None if bias is None else bias.tensor
        made = fully_connected(builder, builder.dense(left), builder.dense(right, (1, 0)), given)
        return Value(made, (0, 1), sizes)
    result = product(builder, left, right)
    return result if bias is None else broadcast(builder, "ADD", [result, bias], FLOAT, sizes)


def product(builder: GraphBuilder, left: Value, right: Value) -> Value:
    """``[.., M, K] @ [.., K, N]`` of one rank, leading axes equal."""
    rank = left.rank
    sizes: tuple[Size, ...] = (*left.sizes[:-1], right.sizes[-1])
    plain, turned = (*range(rank - 2), rank - 2, rank - 1), (*range(rank - 2), rank - 1, rank - 2)
    if left.order == turned and right.order == turned:  # both transposed: so is the product
        inputs = [builder.dense(right, turned), builder.dense(left, turned)]
        stored = [*sizes[:-2], sizes[-1], sizes[-2]]
        return Value(builder.add("BATCH_MATMUL", inputs, stored, FLOAT), turned, sizes)
    adjoint = right.order == turned
    inputs = [builder.dense(left, plain), builder.dense(right, turned if adjoint else plain)]
    return Value(builder.add("BATCH_MATMUL", inputs, sizes, FLOAT, adjY=adjoint), plain, sizes)


def _mm_rule(builder: GraphBuilder, node: fx.Node) -> Value:
    return _mm(builder, builder.of(node.args[0], FLOAT), builder.of(node.args[1], FLOAT))


def _scaled(builder: GraphBuilder, value: Value, factor: Any) -> Value:
    return value if factor == 1 else broadcast(builder, "MUL", [value, builder.of(factor, FLOAT)])


def _addmm(builder: GraphBuilder, node: fx.Node) -> Value:
    bias, left, right = (builder.of(a, FLOAT) for a in node.args[:3])
    bias = _scaled(builder, bias, node.kwargs.get("beta", 1))
    return _mm(builder, _scaled(builder, left, node.kwargs.get("alpha", 1)), right, bias)


def _matmul(builder: GraphBuilder, node: fx.Node) -> Value:
    return _mm_rule(builder, node) if len(builder.sizes(node)) == 2 else _bmm(builder, node)


def _bmm(builder: GraphBuilder, node: fx.Node) -> Value:
    return product(builder, builder.of(node.args[0], FLOAT), builder.of(node.args[1], FLOAT))


def _baddbmm(builder: GraphBuilder, node: fx.Node) -> Value:
    bias, left, right = (builder.of(a, FLOAT) for a in node.args[:3])
    made = _scaled(builder, product(builder, left, right), node.kwargs.get("alpha", 1))
    bias = _scaled(builder, bias, node.kwargs.get("beta", 1))
    return broadcast(builder, "ADD", [made, bias], FLOAT, builder.sizes(node))


def _mv(builder: GraphBuilder, node: fx.Node) -> Value:
    left, right = (builder.of(a, FLOAT) for a in node.args[:2])
    return view(builder, _mm(builder, left, view(builder, right, [right.sizes[0], 1])), builder.sizes(node))


def _dot(builder: GraphBuilder, node: fx.Node) -> Value:
    left, right = (builder.of(a, FLOAT) for a in node.args[:2])
    size = left.sizes[0]
    made = _mm(builder, view(builder, left, [1, size]), view(builder, right, [size, 1]))
    return view(builder, made, [])


RULES: dict[str, Rule] = {
    "mm": _mm_rule, "matmul": _matmul, "addmm": _addmm, "bmm": _bmm, "baddbmm": _baddbmm, "mv": _mv, "dot": _dot,
}  # fmt: skip
