"""Matrix products: FULLY_CONNECTED where the right factor is constant, else BATCH_MATMUL.

FULLY_CONNECTED takes ``[.., K]`` and weights ``[N, K]``, as ``torch.nn.Linear`` stores them; constant weights are
packed once. BATCH_MATMUL takes ``[.., M, K]`` and ``[.., K, N]``, or ``[.., N, K]`` with ``adjY``. XNNPACK takes
FULLY_CONNECTED with constant weights only: [3136, 64] @ [64, 64] with computed ones takes 0.85 ms, as BATCH_MATMUL
0.14 ms (LiteRT 2.3, one thread of x86-64).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import fx

from nagedge.backends.tflite_lowering.broadcasting import broadcast
from nagedge.backends.tflite_lowering.builder import FLOAT, GraphBuilder, Value
from nagedge.backends.tflite_lowering.model import Size, product_of
from nagedge.backends.tflite_lowering.views import view

__all__ = ["RULES", "by_rows", "product", "read_as_stored"]

Rule = Callable[[GraphBuilder, fx.Node], Value]


FEW_ROWS = 6
"""With fewer rows in the last axis but one, leading axes are worth a reshape: 8x3x3 rows 288 to 48: 0.038 and 0.022 ms;
8x6x6 rows, 24 to 144: 0.016 and 0.019 ms.
"""


def _fully_connected(builder: GraphBuilder, rows: int, weight: int, bias: int | None = None) -> int:
    """Return ``rows @ weight^T + bias`` for stored tensors ``[.., K]``, ``[N, K]`` and ``[N]``."""
    inputs = [rows, weight] + ([] if bias is None else [bias])
    sizes = [*builder.tensors[rows].sizes[:-1], builder.tensors[weight].sizes[0]]
    return builder.add("FULLY_CONNECTED", inputs, sizes, FLOAT, keepNumDims=len(sizes) != 2)


def by_rows(
    builder: GraphBuilder, rows: int, weight: int, bias: int | None = None, *, turned: bool = True
) -> int:
    """Return ``rows @ weight^T + bias`` in BATCH_MATMUL, for stored tensors ``[.., K]``, ``[N, K]`` and ``[N]``.

    ``turned=False``: ``rows @ weight + bias`` for a weight ``[K, N]``.
    """
    outputs = builder.tensors[weight].sizes[0 if turned else 1]
    sizes: list[Size] = [*builder.tensors[rows].sizes[:-1], outputs]
    last, shape = sizes[-2], sizes
    if len(sizes) > 2 and isinstance(last, int) and last < FEW_ROWS:
        count = product_of(sizes[:-1])
        shape = [count, outputs]
        rows = builder.reshape(rows, [count, builder.tensors[rows].sizes[-1]])
    made = builder.add("BATCH_MATMUL", [rows, weight], shape, FLOAT, adjY=turned)
    if bias is not None:
        made = builder.add("ADD", [made, bias], shape, FLOAT)
    return builder.reshape(made, sizes)


def read_as_stored(builder: GraphBuilder, weight: Value) -> bool:
    """Whether a weight ``[N, K, ..]``, constant and stored as ``[K, N]``, is best read so, in BATCH_MATMUL.

    That is where the file holds it so already: turned round it would have to be computed at every call, as no weight is
    stored twice, and XNNPACK takes convolutions and FULLY_CONNECTED with constant weights only. 8x6x6 cells, 96 to 192
    channels: 0.33 ms, and 0.06 ms read as it is stored.
    """
    origin = builder.tensors[weight.tensor].origin
    large = [axis for axis in weight.order if weight.sizes[axis] != 1]
    return origin is not None and large == [1, 0] and builder.is_stored(origin.name)


def _mm(builder: GraphBuilder, left: Value, right: Value, bias: Value | None = None) -> Value:
    """``[M, K] @ [K, N]``."""
    sizes = (left.sizes[0], right.sizes[1])
    fits = bias is None or (
        bias.rank == 1 and builder.stored(bias) == bias.sizes and bias.sizes[0] == sizes[1]
    )
    transposed = Value(right.tensor, tuple(1 - axis for axis in right.order), right.sizes[::-1])
    if builder.is_constant(right) and fits and not read_as_stored(builder, transposed):
        given = None if bias is None else bias.tensor
        made = _fully_connected(builder, builder.dense(left), builder.dense(right, (1, 0)), given)
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
    if (
        left.order == turned
        and right.order == plain
        and _is_cheaper_transposed(sizes[-2], sizes[-1], left.sizes[-1])
    ):
        # the transposed product: moves the columns of the right factor instead of those of the left
        flipped = Value(right.tensor, turned, (*right.sizes[:-2], right.sizes[-1], right.sizes[-2]))
        inputs = [builder.dense(flipped, plain), builder.dense(left, turned)]
        stored = [*sizes[:-2], sizes[-1], sizes[-2]]
        return Value(builder.add("BATCH_MATMUL", inputs, stored, FLOAT), turned, sizes)
    adjoint = right.order == turned
    inputs = [builder.dense(left, plain), builder.dense(right, turned if adjoint else plain)]
    return Value(builder.add("BATCH_MATMUL", inputs, sizes, FLOAT, adjY=adjoint), plain, sizes)


def _is_cheaper_transposed(rows: Size, columns: Size, inner: Size) -> bool:
    """Whether ``A^T B``, ``[rows, inner] @ [inner, columns]``, is clearly cheaper as the transposed ``B^T A``.

    The left factor is transposed, the right one packed in strips of 32 columns, however few there are, and a product
    computed in tiles of 7 rows; what it gives is transposed once more. Nanoseconds, fitted to both orientations of
    [32, 3136] @ [3136, 144]: 0.45, 0.31 ms; [16, 18432] @ [18432, 27]: 0.61, 0.85; [64, 2000] @ [2000, 40]: 0.15, 0.10;
    [16, 12544] @ [12544, 9]: 0.30, 0.23.
    """
    if not (isinstance(rows, int) and isinstance(columns, int) and isinstance(inner, int)):
        return False

    def cost(m: int, n: int) -> float:
        return inner * (0.3 * m + math.ceil(n / 32) * (15.0 + 1.8 * math.ceil(m / 7)))

    return cost(columns, rows) + 0.3 * rows * columns < 0.85 * cost(rows, columns)


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
