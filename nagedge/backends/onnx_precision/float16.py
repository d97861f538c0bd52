"""float16: weights and arithmetic in half precision, inputs and outputs as they were.

ONNX Runtime's own converter does it. It keeps operators whose half-precision form few runtimes have in float32
(``Range``, ``CumSum``, ``Min``, ``Max``, ``TopK`` and others), between casts, and limits constants to what half can
hold: 65504 for anything larger, 6e-8 for anything that would become zero.
"""

from __future__ import annotations

from typing import Any

from nagedge.backends.onnx_precision.session import check_runs, prepare_onnxruntime

__all__ = ["convert"]


def convert(payload: dict[str, Any]) -> dict[str, bytes]:
    """Return ``model`` (a serialised ONNX model) in float16."""
    prepare_onnxruntime()
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = convert_float_to_float16(onnx.load_from_string(payload["model"]), keep_io_types=True)
    del converted.graph.value_info[:]  # the converter's notes on intermediate tensors: runtimes infer them
    _sort_nodes(converted.graph)
    onnx.checker.check_model(converted)
    model: bytes = converted.SerializeToString()
    check_runs(model)
    return {"model": model}


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
