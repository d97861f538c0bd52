"""float16: weights and arithmetic in half precision, inputs and outputs as they were.

ONNX Runtime's own converter does it. It keeps operators whose half-precision form few runtimes have in float32
(``Range``, ``CumSum``, ``Min``, ``Max``, ``TopK`` and others), between casts, and limits constants to what half can
hold: 65504 for anything larger, 6e-8 for anything that would become zero.
"""

from __future__ import annotations

from typing import Any

from nagedge.backends.onnx_precision.session import check_runs, folded, prepare_onnxruntime

__all__ = ["convert"]


def convert(payload: dict[str, Any]) -> dict[str, bytes]:
    """Return ``model`` (a serialised ONNX model) in float16."""
    prepare_onnxruntime()
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model = folded(payload["model"])
    converted = convert_float_to_float16(
        model, keep_io_types=True, node_block_list=_kept_in_float32(model.graph)
    )
    del converted.graph.value_info[:]  # the converter's notes on intermediate tensors: runtimes infer them
    converted.producer_name, converted.producer_version = "nagedge", ""
    _cast_once(converted.graph)
    _sort_nodes(converted.graph)
    onnx.checker.check_model(converted)
    content: bytes = converted.SerializeToString()
    check_runs(content)
    return {"model": content}


def _kept_in_float32(graph: Any) -> list[str]:
    """Return the names of nodes that ONNX Runtime (1.31) computes wrongly in half precision, or not at all.

    - Grouped convolutions, but depthwise ones: the half-precision kernel of arm64 gives wrong results, several times as
      large as the right ones (cortex-a76; every optimisation level).
    - Transpositions before a matrix product: fused with it after the kernels were chosen, they leave a product in half
      precision that has no kernel, and x86 crashes. The product is computed in float32 anyway.
    """
    multiplied = {name for node in graph.node if node.op_type == "MatMul" for name in node.input}
    sizes = {tensor.name: tuple(tensor.dims[:2]) for tensor in graph.initializer}
    names = []
    for node in graph.node:
        if node.op_type == "Transpose" and node.output[0] in multiplied:
            names.append(node.name)
        elif node.op_type == "Conv":
            groups = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
            if groups > 1 and sizes.get(node.input[1]) != (groups, 1):
                names.append(node.name)
    return names


def _cast_once(graph: Any) -> None:
    """Drop what the converter adds a second time: a cast for every float32 operator that reads the same tensor."""
    kept = {(node.op_type, *node.output): node for node in graph.node}
    del graph.node[:]
    graph.node.extend(kept.values())


def _sort_nodes(graph: Any) -> None:
    """Put every node after those that it reads from: the converter appends its casts at the end."""
    known = {"", *(i.name for i in graph.input), *(i.name for i in graph.initializer)}
    ordered: list[Any] = []
    waiting = list(graph.node)
    while waiting:
        later = []
        for node in waiting:
            if known.issuperset(node.input):
                known.update(node.output)
                ordered.append(node)
            else:
                later.append(node)
        assert len(later) < len(waiting)  # a graph has no cycle
        waiting = later
    del graph.node[:]
    graph.node.extend(ordered)
