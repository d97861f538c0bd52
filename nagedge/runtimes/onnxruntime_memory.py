"""What a training step will hold on ONNX Runtime above its loaded session, planned from its file.

ONNX Runtime's own optimised graph gives operators, order and shapes; nothing is run. Tensors are made and freed as
its planner does (core/framework/allocation_planner.cc): views and results in place share a buffer, the others come from
its arena (:mod:`nagedge.runtimes.arena`). The second set of state, into which a step writes, is touched by the first
step and counts; so do the pages of code that the first step reads, and the small objects of an execution.
"""

from __future__ import annotations

import math
import tempfile
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nagedge.runtimes.arena import Arena
from nagedge.runtimes.onnxruntime import import_onnxruntime
from nagedge.specs import BATCH

if TYPE_CHECKING:
    import onnx

__all__ = ["planned_step_bytes"]

_CODE_BYTES = 1_450_000
"""Pages of the runtime's library that a first step reads: 0.9 to 1.6 MiB on the benchmark's workloads (Linux, x86)."""

_NODE_BYTES = 120
"""Heap for a node of the graph while it is executed: names, counts, frames."""

_ALIASES = frozenset(["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"])
_IN_PLACE = frozenset({
    "Cast", "Clip", "Dropout", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus",
    "Softsign", "Tanh", "ThresholdedRelu",
})  # fmt: skip
_SCRATCH_FIRST = frozenset({"Where"})
"""Operators whose kernels take their own buffers before their results."""

_OPSET = 18
"""Whose rules of inference serve for the operators of any that a step is written in."""

_BYTES = {1: 4, 2: 1, 3: 1, 6: 4, 7: 8, 9: 1, 10: 2, 11: 8}


@dataclass(frozen=True)
class _Plan:
    """A graph to execute.

    Attributes:
        nodes: in order.
        sizes: bytes by tensor, those in the bodies of loops too.
        scratch: bytes that a kernel needs beside its results while it runs, by the name of its first result.
        known: the shapes that ONNX Runtime knows, with the element type in front.
        outside: tensors that were there before, and stay.
        outputs: of the graph; they have memory of their own.
    """

    nodes: Sequence[onnx.NodeProto]
    sizes: Mapping[str, int]
    scratch: Mapping[str, Sequence[int]]
    known: Mapping[str, tuple[int | str, ...]]
    outside: frozenset[str]
    outputs: frozenset[str]


def planned_step_bytes(model: bytes, rows: int) -> int:
    """Return the memory of a step above the loaded session, in bytes.

    Args:
        model: a ``train_step.onnx``.
        rows: the size of a free batch.
    """
    plan = _plan(model, rows)
    state = sum(plan.sizes.get(name, 0) for name in plan.outputs)
    arena = Arena()
    _execute(plan, arena)
    return arena.touched_bytes + state + _CODE_BYTES + _NODE_BYTES * len(plan.nodes)


def _execute(plan: _Plan, arena: Arena, written: Callable[[str], None] = lambda name: None) -> None:
    """Take and give back what a graph's nodes do, one after the other.

    Args:
        plan: the graph.
        arena: changed.
        written: is told the name of each output of the graph before it is written.
    """
    in_use = _readers(plan)
    buffers: dict[str, str] = {}
    left: dict[str, int] = {}
    addresses: dict[str, int] = {}

    def made(node: onnx.NodeProto, name: str) -> None:
        buffer = _shared(node, name, plan, buffers, left)
        if buffer is None:
            buffer = name
            left[buffer] = 0
            if name in plan.outputs:
                written(name)
            else:
                addresses[name] = arena.take(plan.sizes.get(name, 0))
        buffers[name] = buffer
        left[buffer] = left.get(buffer, 0) + in_use.get(name, 0)

    for node in plan.nodes:
        results = [name for name in node.output if name]
        body, scratch = _body(node), plan.scratch.get(node.output[0], ())
        before = [arena.take(size) for size in scratch if node.op_type in _SCRATCH_FIRST]
        if body is None:
            for name in results:
                made(node, name)
        else:
            _iterate(node, body, plan, arena, partial(made, node))
        after = [arena.take(size) for size in scratch if node.op_type not in _SCRATCH_FIRST]
        for address in (*before, *after):
            arena.give(address)
        for name in _reads(node):
            buffer = buffers.get(name, "")
            if not buffer:
                continue
            left[buffer] -= 1
            if left[buffer] <= 0 and buffer in addresses:  # what nobody reads stays to the end
                arena.give(addresses.pop(buffer))


def _iterate(
    node: onnx.NodeProto, body: onnx.GraphProto, plan: _Plan, arena: Arena, made: Callable[[str], None]
) -> None:
    """Run a loop's first iteration, which makes the results; the others find memory where it had some."""
    outer = dict(zip((info.name for info in body.output), node.output, strict=True))
    states = [info.name for info in body.output][: _states(node)]
    held = [arena.take(plan.sizes.get(name, 0)) for name in states]
    inside = frozenset({info.name for info in body.input} | {tensor.name for tensor in body.initializer})
    inner = replace(plan, nodes=list(body.node), outside=plan.outside | inside, outputs=frozenset(outer))
    _execute(inner, arena, lambda name: made(outer[name]))
    for address in held:
        arena.give(address)


def _states(node: onnx.NodeProto) -> int:
    """Return how many of a ``Scan``'s results go from one iteration to the next."""
    scanned: int = next(attribute.i for attribute in node.attribute if attribute.name == "num_scan_inputs")
    return len(node.input) - scanned


def _body(node: onnx.NodeProto) -> onnx.GraphProto | None:
    return next((attribute.g for attribute in node.attribute if attribute.name == "body"), None)


def _readers(plan: _Plan) -> dict[str, int]:
    counts: dict[str, int] = {}
    for node in plan.nodes:
        for name in _reads(node):
            counts[name] = counts.get(name, 0) + 1
    return counts


def _reads(node: onnx.NodeProto) -> list[str]:
    """Return what a node reads, once a mention; the body of a loop reads tensors of the graph around it."""
    inner = [name for attribute in node.attribute for body in attribute.g.node for name in body.input]
    return [*node.input, *inner]


def _shared(
    node: onnx.NodeProto, name: str, plan: _Plan, buffers: Mapping[str, str], left: Mapping[str, int]
) -> str | None:
    """Return the buffer that a result shares, or None for one of its own."""
    if name != node.output[0] or name in plan.outputs:
        return None
    if node.op_type in _ALIASES:
        return buffers.get(node.input[0], str(node.input[0]))
    if node.op_type in _IN_PLACE:
        for given in node.input[:1]:
            buffer = buffers.get(given, "")
            free = buffer and buffer not in plan.outside and buffer not in plan.outputs and left[buffer] == 1
            shape = plan.known.get(given)
            if free and shape is not None and shape == plan.known.get(name):
                return buffer
    return None


def _plan(model: bytes, rows: int) -> _Plan:
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
        for node in (outer, *getattr(_body(outer), "node", ())):
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
    return _Plan(list(graph.node), sizes, scratch, _known(model), outside, outputs)


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
    bodies = [body for node in graph.node if (body := _body(node)) is not None]
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
