"""Which operations static quantisation computes in int8.

Feature maps do well in int8: convolutions, and what moves, adds, scales and pools ``[batch, height, width, channels]``.
Matrix products do as well. Variances, roots, quotients, polynomials and the states of recurrent nets do not: one of 256
steps over their range is more than they can bear. Those stay float32. A head's product gives float32 as well, of int8
weights and of activations that are quantised as they come: what the model returns is not cut off at the largest value
that calibration has seen.
"""

from __future__ import annotations

from dataclasses import replace

from nagedge.backends.tflite_lowering.model import ABSENT, Operation, Subgraph
from nagedge.backends.tflite_quantization import DYNAMIC_MARK, MARK

__all__ = ["marked"]

_PRODUCTS = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
_OF_MAPS = {
    "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "MAX_POOL_2D", "MEAN", "MUL",
    "PAD", "PADV2", "RELU", "RELU6", "RESHAPE", "SLICE", "STRIDED_SLICE", "TRANSPOSE",
}  # fmt: skip
_WIDE_RANGE = {"SQUARE", "EXP", "POW", "DIV", "SQUARED_DIFFERENCE", "SQRT", "RSQRT", "LOG"}
_MAP_RANK = 4


def marked(subgraph: Subgraph) -> Subgraph:
    """Return the subgraph marks before the names of the results that int8 serves."""
    made_by = {output: operation for operation in subgraph.operations for output in operation.outputs}
    read_by: dict[int, set[str]] = {}
    for operation in subgraph.operations:
        for index in operation.inputs:
            read_by.setdefault(index, set()).add(operation.kind)
    chosen = {
        output
        for operation in subgraph.operations
        if _is_robust(operation, subgraph, made_by, read_by)
        for output in operation.outputs
    }
    returned = set(subgraph.outputs.values())
    heads = {index for index in chosen & returned if made_by[index].kind == "FULLY_CONNECTED"}
    marks = dict.fromkeys(chosen - returned, MARK) | dict.fromkeys(heads, DYNAMIC_MARK)
    tensors = [
        replace(tensor, name=marks[index] + tensor.name) if index in marks else tensor
        for index, tensor in enumerate(subgraph.tensors)
    ]
    return replace(subgraph, tensors=tensors)


def _is_robust(
    operation: Operation, subgraph: Subgraph, made_by: dict[int, Operation], read_by: dict[int, set[str]]
) -> bool:
    result = subgraph.tensors[operation.outputs[0]]
    if result.exact or operation.kind not in _PRODUCTS | _OF_MAPS:
        return False
    if operation.kind in _PRODUCTS:
        return subgraph.tensors[operation.inputs[1]].data is not None
    sources = [i for i in operation.inputs if i != ABSENT and subgraph.tensors[i].data is None]
    ranks = [len(subgraph.tensors[i].sizes) for i in sources] + [len(result.sizes)]
    if max(ranks) != _MAP_RANK:
        return False
    after_wide = any(i in made_by and made_by[i].kind in _WIDE_RANGE for i in sources)
    return not after_wide and not read_by.get(operation.outputs[0], set()) & {"SQRT", "RSQRT", "DIV", "POW"}
