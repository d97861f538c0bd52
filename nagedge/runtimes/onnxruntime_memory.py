"""What a training step will hold on ONNX Runtime above its loaded session, planned from its file.

Tensors are made and freed as ONNX Runtime's planner does (core/framework/allocation_planner.cc): views and results in
place share a buffer, the others come from its arena (:mod:`nagedge.runtimes.arena`): one by one in the first step, in
a block from the second on. Nothing is run. The second set of state, into which a step writes, is touched by the first
step and counts; so do the pages of code that the first step reads, and the small objects of an execution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from nagedge.runtimes.arena import Arena, Block, with_first_region
from nagedge.runtimes.onnxruntime_graph import SizedGraph, body_of, sized_graph

if TYPE_CHECKING:
    import onnx

__all__ = ["planned_step_bytes"]

_CODE_BYTES = 1_450_000
"""Pages of the runtime's library that a first step reads: 0.9 to 1.6 MiB on the benchmark's workloads (Linux, x86)."""

_STEPS = 2
"""Steps after which no further memory is touched."""

_NODE_BYTES = 120
"""Heap for a node of the graph while it is executed: names, counts, frames."""

_ALIASES = frozenset(["Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity"])
_IN_PLACE = frozenset({
    "Cast", "Clip", "Dropout", "Elu", "HardSigmoid", "LeakyRelu", "Relu", "Selu", "Sigmoid", "Softplus",
    "Softsign", "Tanh", "ThresholdedRelu",
})  # fmt: skip
_SCRATCH_FIRST = frozenset({"Where"})
"""Operators whose kernels take their own buffers before their results."""


def planned_step_bytes(model: bytes, rows: int) -> int:
    """Return the memory of a step above the loaded session, in bytes.

    Args:
        model: a ``train_step.onnx``.
        rows: the size of a free batch.
    """
    plan = sized_graph(model, rows)
    state = sum(plan.sizes.get(name, 0) for name in plan.outputs)
    arena, blocks = Arena(), dict[str, Block]()
    for size in plan.packed:
        arena.take(size)
    loaded = arena.touched_bytes
    for _ in range(_STEPS):
        _execute(plan, arena, blocks)
    above = arena.touched_bytes - loaded + state + _CODE_BYTES + _NODE_BYTES * len(plan.nodes)
    return above if loaded else with_first_region(above)  # loading has made the region already


def _execute(
    plan: SizedGraph,
    arena: Arena,
    blocks: dict[str, Block],
    *,
    loop: str = "",
    written: Callable[[str], None] = lambda name: None,
) -> None:
    """Take and give back what a graph's nodes do, one after the other.

    Args:
        plan: the graph.
        arena: changed.
        blocks: by the loop whose body they are for; the first execution adds the graph's, the others lie in it.
        loop: whose body the graph is: its first result.
        written: is told the name of each output of the graph before it is written.
    """
    in_use = _readers(plan)
    buffers: dict[str, str] = {}
    left: dict[str, int] = {}
    addresses: dict[str, int] = {}
    known, traced = blocks.get(loop), Block()
    if known is not None and known.size_bytes:
        addresses["its block"] = arena.take(known.size_bytes)

    def made(node: onnx.NodeProto, name: str) -> None:
        buffer = _shared(node, name, plan, buffers, left)
        if buffer is None:
            buffer = name
            left[buffer] = 0
            if name in plan.outputs:
                written(name)
            elif known is None:
                addresses[name] = arena.take(plan.sizes.get(name, 0))
                traced.take(name, plan.sizes.get(name, 0))
        buffers[name] = buffer
        left[buffer] = left.get(buffer, 0) + in_use.get(name, 0)

    for node in plan.nodes:
        results = [name for name in node.output if name]
        body, scratch = body_of(node), plan.scratch.get(node.output[0], ())
        before = [arena.take(size) for size in scratch if node.op_type in _SCRATCH_FIRST]
        if body is None:
            for name in results:
                made(node, name)
        else:
            _iterate(node, body, plan, arena, blocks, partial(made, node))
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
                traced.give(buffer)
    for address in addresses.values():
        arena.give(address)
    blocks.setdefault(loop, traced)


def _iterate(
    node: onnx.NodeProto,
    body: onnx.GraphProto,
    plan: SizedGraph,
    arena: Arena,
    blocks: dict[str, Block],
    made: Callable[[str], None],
) -> None:
    """Run a loop's first iteration, which makes the results, and its second; the others are like that."""
    outer = dict(zip((info.name for info in body.output), node.output, strict=True))
    states = [info.name for info in body.output][: _states(node)]
    held = [arena.take(plan.sizes.get(name, 0)) for name in states]
    inside = frozenset({info.name for info in body.input} | {tensor.name for tensor in body.initializer})
    inner = replace(plan, nodes=list(body.node), outside=plan.outside | inside, outputs=frozenset(outer))
    loop = node.output[0]
    _execute(inner, arena, blocks, loop=loop, written=lambda name: made(outer[name]))
    _execute(inner, arena, blocks, loop=loop)
    for address in held:
        arena.give(address)


def _states(node: onnx.NodeProto) -> int:
    """Return how many of a ``Scan``'s results go from one iteration to the next."""
    scanned: int = next(attribute.i for attribute in node.attribute if attribute.name == "num_scan_inputs")
    return len(node.input) - scanned


def _readers(plan: SizedGraph) -> dict[str, int]:
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
    node: onnx.NodeProto, name: str, plan: SizedGraph, buffers: Mapping[str, str], left: Mapping[str, int]
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
