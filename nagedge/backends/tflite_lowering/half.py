"""Weights in half precision, as TensorFlow Lite stores them: float16 constants, each followed by DEQUANTIZE."""

from __future__ import annotations

import numpy as np

from nagedge.backends.tflite_lowering.model import ABSENT, Operation, Subgraph, Tensor

__all__ = ["halved"]

_SMALLEST = 256  # elements: below that a DEQUANTIZE costs more bytes than it saves


def halved(graph: Subgraph) -> Subgraph:
    """Store large float32 constants as float16 (round to nearest), each followed by DEQUANTIZE."""
    tensors, made, operations = list(graph.tensors), {}, []
    added: list[Operation] = []
    for operation in graph.operations:
        inputs = list(operation.inputs)
        for place, index in enumerate(inputs):
            if index == ABSENT:
                continue
            tensor = tensors[index]
            if tensor.data is None or tensor.dtype != np.float32 or tensor.data.size < _SMALLEST:
                continue
            if index not in made:
                data = np.clip(tensor.data, np.finfo(np.float16).min, np.finfo(np.float16).max).astype(
                    np.float16
                )
                stored = Tensor(f"{tensor.name}_half", data.dtype, tensor.sizes, data, tensor.origin)
                whole = Tensor(f"{tensor.name}_whole", tensor.dtype, tensor.sizes)
                tensors += [stored, whole]
                added.append(Operation("DEQUANTIZE", [len(tensors) - 2], [len(tensors) - 1]))
                made[index] = len(tensors) - 1
            inputs[place] = made[index]
        operations.append(Operation(operation.kind, inputs, operation.outputs, operation.options))
    used = {i for o in [*added, *operations] for i in (*o.inputs, *o.outputs)} | {
        *graph.inputs.values(),
        *graph.outputs.values(),
    }
    for index in made:  # nothing reads the float32 values any more
        if index not in used:
            tensors[index] = Tensor(tensors[index].name, tensors[index].dtype, tensors[index].sizes)
    return Subgraph(graph.name, tensors, added + operations, graph.inputs, graph.outputs)
