"""Which nodes of a model static quantisation takes, and whose weights get one scale for all channels."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

__all__ = ["chosen_nodes", "one_scale_weights"]

_PRODUCTS = {"Conv", "ConvTranspose", "Gemm", "MatMul"}
"""Integer kernels are faster for these, and these hold the weights."""

_BETWEEN = {
    "Add", "AveragePool", "Clip", "Concat", "Flatten", "GlobalAveragePool", "MaxPool", "Pad", "Relu", "Reshape",
    "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip
"""Operators with an 8-bit kernel that lie between convolutions: quantised, the feature map stays in 8 bits there."""

_JOINING = {"Add", "Concat"}
"""Of these, all inputs have to come from convolutions: the sum that runs through a transformer stays float."""


def chosen_nodes(graph: Any) -> list[str]:
    """Return the names of the nodes to quantise.

    - Products with constant weights, and lookups in constant tables. Not products of two activations (attention): both
      would be rounded to 256 steps, which costs time and accuracy and saves no byte.
    - Operators between convolutions. Elsewhere (a recurrent layer's gates, a transformer's sums) every rounding of an
      elementwise operator is work of its own: an unrolled GRU came out six times as large and more than twice as slow.
    """
    weights = {tensor.name for tensor in graph.initializer}
    in_8_bits: set[str] = set()
    chosen = []
    for node in graph.node:
        if node.op_type in _PRODUCTS:
            if node.input[1] not in weights or node.input[0] in weights:
                continue
            if node.op_type.startswith("Conv"):
                in_8_bits.update(node.output)
            chosen.append(node.name)
        elif node.op_type == "Gather":
            if node.input[0] in weights:
                chosen.append(node.name)
        elif node.op_type in _BETWEEN:
            joined = set(node.input if node.op_type in _JOINING else node.input[:1]) - weights
            if joined and joined <= in_8_bits:
                in_8_bits.update(node.output)
                chosen.append(node.name)
    return chosen


def one_scale_weights(graph: Any, chosen: list[str]) -> list[str]:
    """Return the weights that get one scale, where the others get one a channel.

    Those that nodes use along different axes (a table that is also the weight of a linear layer); those of matrix
    products with more than two dimensions and of grouped transposed convolutions, for which ONNX Runtime's kernels take
    no scale a channel.
    """
    names = set(chosen)
    rank = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    axes: dict[str, set[int | None]] = defaultdict(set)
    for node in graph.node:
        if node.name not in names:
            continue
        numbers = {attribute.name: attribute.i for attribute in node.attribute}
        if node.op_type == "Gather":
            axes[node.input[0]].add(None)
        elif node.op_type == "Conv":
            axes[node.input[1]].add(0)
        elif node.op_type == "ConvTranspose":
            axes[node.input[1]].add(1 if numbers.get("group", 1) == 1 else None)
        elif node.op_type == "Gemm":
            axes[node.input[1]].add(0 if numbers.get("transB", 0) else 1)
        elif node.op_type == "MatMul":
            axes[node.input[1]].add(1 if rank[node.input[1]] == 2 else None)
    return sorted(name for name, found in axes.items() if len(found) > 1 or None in found)
