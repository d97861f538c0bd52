"""What ONNX Runtime makes of a training step's file: operators in their order, and the sizes of what they make.

The order and the operators are those of its own optimised graph; nothing is run. Sizes are inferred: by the rules of
ONNX for what the file or the optimiser holds in standard operators, by ours for blocked convolutions.
"""

from __future__ import annotations

import math
import tempfile
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from nagedge.runtimes.onnxruntime import import_onnxruntime
from nagedge.specs import BATCH

if TYPE_CHECKING:
    import onnx

__all__ = ["SizedGraph", "body_of", "sized_graph"]

_OPSET = 18
"""Whose rules of inference serve for the operators of any that a step is written in."""

_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8}
"""Of an element, by ONNX's number of its type."""


@dataclass(frozen=True)
class SizedGraph:
    """A graph to execute, and the bytes of its tensors.

    Attributes:
        nodes: in order.
        sizes: bytes by tensor, those in the bodies of loops too.
        scratch: bytes that a kernel needs beside its results while it runs, by the name of its first result.
        packed: bytes that kernels take from the arena when they are loaded, and keep.
        known: the shapes that ONNX Runtime knows, with the element type in front.
        outside: tensors that were there before, and stay.
        outputs: of the graph; they have memory of their own.
    """

    nodes: Sequence[onnx.NodeProto]
    sizes: Mapping[str, int]
    scratch: Mapping[str, Sequence[int]]
    packed: Sequence[int]
    known: Mapping[str, tuple[int | str, ...]]
    outside: frozenset[str]
    outputs: frozenset[str]


def sized_graph(model: bytes, rows: int) -> SizedGraph:
    """Return the graph that ONNX Runtime executes, with the sizes of its tensors.

    Args:
        model: a ``train_step.onnx``.
        rows: the size of a free batch.
    """
    import onnx

    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory(prefix="nagedge-plan-") as folder:
        path = Path(folder) / "optimised.onnx"
        options.optimized_model_filepath = str(path)
        ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        graph = onnx.load(str(path)).graph
    shapes, types = _shapes(model, rows)
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    outside = frozenset({info.name for info in graph.input} | set(weights))
    sizes: dict[str, int] = {}
    scratch: dict[str, list[int]] = {}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for outer in graph.node:
        for node in (outer, *getattr(body_of(outer), "node", ())):
            if any(name and name not in shapes for name in node.output):  # the optimiser's own
                shapes |= _inferred(node, ChainMap(shapes, weights), types, constants)
            for name in filter(None, node.output):
                if name not in shapes:
                    shapes[name] = _own_shape(node, shapes, weights)
                sizes[name] = math.prod(shapes[name]) * _BYTES.get(types.get(name, 1), 4)
            scratch[node.output[0]] = _scratch(node, ChainMap(shapes, weights), sizes)
    for name in outside:
        sizes[name] = math.prod(weights.get(name, shapes.get(name, ()))) * _BYTES.get(types.get(name, 1), 4)
    outputs = frozenset(info.name for info in graph.output)
    packed = [
        sizes[node.input[1]]
        for node in graph.node
        if node.op_type == "ConvTranspose" and node.input[1] in weights
    ]
    return SizedGraph(list(graph.node), sizes, scratch, packed, _known(model), outside, outputs)


def _shapes(model: bytes, rows: int) -> tuple[dict[str, tuple[int, ...]], dict[str, int]]:
    """Return the shapes and element types of a model's tensors by name, as far as they can be inferred."""
    import onnx

    copy = onnx.load_from_string(model)
    for info in (*copy.graph.input, *copy.graph.output):
        for dimension in info.type.tensor_type.shape.dim:
            if dimension.dim_param == BATCH:
                dimension.dim_value = rows
    sizes = {node.output[0] for node in copy.graph.node if node.op_type in ("Size", "Max")}
    kept = {node.output[0] for node in copy.graph.node if node.op_type == "Mul" and node.input[0] in sizes}
    for node in copy.graph.node:  # shapes that only say what comes first
        if node.op_type == "Reshape" and node.input[1] in kept:
            node.op_type = "Identity"
            del node.input[1]
    inferred = onnx.shape_inference.infer_shapes(copy, data_prop=True).graph
    shapes, types = {}, {}
    for info in _infos(inferred):
        tensor = info.type.tensor_type
        types[info.name] = tensor.elem_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[info.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return shapes, types


def _known(model: bytes) -> dict[str, tuple[int | str, ...]]:
    """Return the shapes that ONNX Runtime knows when it plans: of numbers and the model's own names."""
    import onnx

    graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(model)).graph
    known: dict[str, tuple[int | str, ...]] = {}
    for info in _infos(graph):
        tensor = info.type.tensor_type
        dims = [d.dim_value if d.HasField("dim_value") else d.dim_param for d in tensor.shape.dim]
        if tensor.HasField("shape") and all(d != "" and not str(d).startswith("unk__") for d in dims):
            known[info.name] = (tensor.elem_type, *dims)
    return known


def _infos(graph: onnx.GraphProto) -> Iterator[onnx.ValueInfoProto]:
    """Yield what a graph says of its tensors, and of those in the bodies of its loops, whose names are others."""
    bodies = [body for node in graph.node if (body := body_of(node)) is not None]
    for inner in (graph, *bodies):
        yield from (*inner.input, *inner.output, *inner.value_info)


def _scratch(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]
) -> list[int]:
    """Return the bytes of a kernel's own buffers, where they are large (core/providers/cpu of ONNX Runtime 1.31)."""
    if node.op_type == "Where":  # each choice spread over the result
        return [sizes[node.output[0]]] * 2
    if node.op_type == "ConvTranspose":  # the columns of one example's gradient
        (_, channels, *cells), weights = shapes[node.input[0]], shapes[node.input[1]]
        return [math.prod(weights) // channels * math.prod(cells) * 4]
    return []


def _inferred(
    node: onnx.NodeProto,
    shapes: Mapping[str, tuple[int, ...]],
    types: Mapping[str, int],
    constants: Mapping[str, onnx.TensorProto],
) -> dict[str, tuple[int, ...]]:
    """Return the shapes of a standard operator's results by name, as far as they can be inferred."""
    import onnx

    if node.domain not in ("", "ai.onnx"):
        return {}
    given = {
        name: onnx.helper.make_tensor_type_proto(
            constants[name].data_type if name in constants else types.get(name, onnx.TensorProto.FLOAT),
            shapes[name],
        )
        for name in node.input
        if name in shapes
    }
    values = {name: constants[name] for name in node.input if name in constants}
    try:
        found = onnx.shape_inference.infer_node_outputs(
            onnx.defs.get_schema(node.op_type, _OPSET), node, given, values
        )
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return {}
    return {
        name: tuple(size.dim_value for size in kind.tensor_type.shape.dim)
        for name, kind in found.items()
        if kind.tensor_type.HasField("shape")
        and all(size.HasField("dim_value") for size in kind.tensor_type.shape.dim)
    }


def _own_shape(
    node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]], weights: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    """Return the shape of a result of one of the optimiser's own nodes: blocked convolutions, reordered tensors."""
    given = shapes.get(node.input[0], weights.get(node.input[0], ()))
    numbers = {item.name: int(item.i) for item in node.attribute}
    if node.op_type == "ReorderInput" and numbers.get("channels_last"):
        return (given[0], given[-1], *given[1:-1])
    if node.op_type == "Split":  # parts of a branch, which are alike
        axis = numbers.get("axis", 0) % len(given)
        return (*given[:axis], given[axis] // len(node.output), *given[axis + 1 :])
    if node.op_type == "GlobalAveragePool":
        return (*given[:2], 1, 1)
    found = {item.name: list(item.ints) for item in node.attribute if item.ints}
    kernel = found.get("kernel_shape") or list(
        weights.get(node.input[1], ())[2:] if len(node.input) > 1 else ()
    )
    if ("Conv" not in node.op_type and "Pool" not in node.op_type) or not kernel:
        return given
    count = len(kernel)
    pads, strides = found.get("pads", [0] * 2 * count), found.get("strides", [1] * count)
    dilations = found.get("dilations", [1] * count)
    channels = weights[node.input[1]][0] if "Conv" in node.op_type else given[1]
    spatial = [
        (given[2 + i] + pads[i] + pads[count + i] - dilations[i] * (kernel[i] - 1) - 1) // strides[i] + 1
        for i in range(count)
    ]
    return (given[0], channels, *spatial)


def body_of(node: onnx.NodeProto) -> onnx.GraphProto | None:
    """Return the graph that a loop runs; None for other operators."""
    return next((attribute.g for attribute in node.attribute if attribute.name == "body"), None)
