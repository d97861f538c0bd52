"""Write subgraphs as one .tflite: the flatbuffer of schema version 3, with one signature a subgraph.

Source: ``schema.fbs`` of TensorFlow Lite; the object API that ai-edge-litert generates from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.backends.tflite_lowering.half import halved
from nagedge.backends.tflite_lowering.model import Operation, Subgraph, Tensor, size_at
from nagedge.backends.tflite_lowering.versions import version

__all__ = ["serialize"]

_LARGEST_DEFAULT_BATCH = 64
_LAST_BYTE_CODE = 127  # of the field that older runtimes read

_DTYPES = {
    "float32": "FLOAT32", "float16": "FLOAT16", "float64": "FLOAT64", "int64": "INT64", "int32": "INT32",
    "int16": "INT16", "int8": "INT8", "uint8": "UINT8", "bool": "BOOL",
}  # fmt: skip

# Operators whose options table is named in another way than they are, or shared.
_OPTIONS = {
    "ATAN2": "ATan2Options", "ARG_MAX": "ArgMaxOptions", "ARG_MIN": "ArgMinOptions", "AVERAGE_POOL_2D": "Pool2DOptions",
    "BATCH_MATMUL": "BatchMatMulOptions", "CONCATENATION": "ConcatenationOptions", "CONV_2D": "Conv2DOptions",
    "CONV_3D": "Conv3DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "MAX_POOL_2D": "Pool2DOptions",
    "MAXIMUM": "MaximumMinimumOptions", "MINIMUM": "MaximumMinimumOptions", "MEAN": "ReducerOptions",
    "PADV2": "PadV2Options", "REDUCE_ALL": "ReducerOptions", "REDUCE_ANY": "ReducerOptions",
    "REDUCE_MAX": "ReducerOptions", "REDUCE_MIN": "ReducerOptions", "REDUCE_PROD": "ReducerOptions",
    "REVERSE_V2": "ReverseV2Options", "SELECT_V2": "SelectV2Options", "SPLIT_V": "SplitVOptions",
    "SUM": "ReducerOptions", "TRANSPOSE_CONV": "TransposeConvOptions",
}  # fmt: skip
_WITHOUT_OPTIONS = {
    "CEIL",
    "ELU",
    "FLOOR",
    "LOG",
    "LOGISTIC",
    "RELU",
    "RELU6",
    "ROUND",
    "RSQRT",
    "SIN",
    "SQRT",
    "TANH",
}
_ENUMS = {
    "fusedActivationFunction": "ActivationFunctionType", "padding": "Padding", "outType": "TensorType",
    "outputType": "TensorType", "inDataType": "TensorType", "outDataType": "TensorType",
}  # fmt: skip


def serialize(subgraphs: Sequence[Subgraph], *, half: bool = False) -> bytes:
    """Return the .tflite that holds ``subgraphs``, each with a signature of its name.

    Equal constants are stored once in the file. Sizes that depend on the batch are -1 in the shape signatures; the
    shapes that a runtime starts with are those of a batch of one, or the smallest that leaves no tensor empty.

    Args:
        subgraphs: the first is the one that a runtime without signatures runs.
        half: store large float32 constants as float16, each followed by DEQUANTIZE.
    """
    import flatbuffers  # type: ignore[import-untyped]  # ships no types
    from ai_edge_litert import schema_py_generated as schema

    writer = _Writer(schema, _default_batch(subgraphs))
    model = schema.ModelT()
    model.version = 3
    model.description = b"nagedge"
    model.subgraphs = [writer.subgraph(halved(s) if half else s) for s in subgraphs]
    model.signatureDefs = [writer.signature(s, i) for i, s in enumerate(subgraphs)]
    model.operatorCodes = writer.codes
    model.buffers = writer.buffers
    builder = flatbuffers.Builder(1024 + sum(len(b.data) for b in writer.buffers if b.data is not None))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _default_batch(subgraphs: Sequence[Subgraph]) -> int:
    sizes = {s for g in subgraphs for t in g.tensors for s in t.sizes if not isinstance(s, int)}
    fitting = (n for n in range(1, _LARGEST_DEFAULT_BATCH) if all(size_at(s, n) > 0 for s in sizes))
    return next(fitting, 1)


class _Writer:
    """Collects what the subgraphs of a file share: operator codes and buffers."""

    def __init__(self, schema: Any, batch: int) -> None:
        self.schema = schema
        self.batch = batch
        self.codes: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]  # by convention the first is empty
        self._code_of: dict[tuple[int, int], int] = {}
        self._buffer_of: dict[bytes, int] = {}

    def buffer(self, data: bytes) -> int:
        if data not in self._buffer_of:
            made = self.schema.BufferT()
            made.data = np.frombuffer(data, np.uint8)
            self._buffer_of[data] = len(self.buffers)
            self.buffers.append(made)
        return self._buffer_of[data]

    def subgraph(self, graph: Subgraph) -> Any:
        made = self.schema.SubGraphT()
        made.name = graph.name.encode()
        made.tensors = [self._tensor(t) for t in graph.tensors]
        made.inputs = list(graph.inputs.values())
        made.outputs = list(graph.outputs.values())
        made.operators = [self._operator(o, graph) for o in graph.operations]
        return made

    def signature(self, graph: Subgraph, index: int) -> Any:
        def maps(named: dict[str, int]) -> list[Any]:
            listed = []
            for name, tensor in named.items():
                item = self.schema.TensorMapT()
                item.name, item.tensorIndex = name.encode(), tensor
                listed.append(item)
            return listed

        made = self.schema.SignatureDefT()
        made.signatureKey, made.subgraphIndex = graph.name.encode(), index
        made.inputs, made.outputs = maps(graph.inputs), maps(graph.outputs)
        return made

    def _tensor(self, tensor: Tensor) -> Any:
        made = self.schema.TensorT()
        made.name = tensor.name.encode()
        made.type = getattr(self.schema.TensorType, _DTYPES[tensor.dtype.name])
        made.shape = [size_at(s, self.batch) for s in tensor.sizes]
        made.hasRank = True
        if any(not isinstance(s, int) for s in tensor.sizes):
            made.shapeSignature = [s if isinstance(s, int) else -1 for s in tensor.sizes]
        made.buffer = 0
        if tensor.data is not None:
            made.buffer = self.buffer(_bytes(tensor.data))
        return made

    def _operator(self, operation: Operation, graph: Subgraph) -> Any:
        made = self.schema.OperatorT()
        code = getattr(self.schema.BuiltinOperator, operation.kind)
        made.opcodeIndex = self._code(code, version(operation, graph))
        made.inputs, made.outputs = operation.inputs, operation.outputs
        if operation.kind not in _WITHOUT_OPTIONS:
            table = _OPTIONS.get(operation.kind) or _camel(operation.kind) + "Options"
            made.builtinOptionsType = getattr(self.schema.BuiltinOptions, table)
            made.builtinOptions = getattr(self.schema, table + "T")()
            for field, value in operation.options.items():
                enum = _ENUMS.get(field)
                assert hasattr(made.builtinOptions, field), f"{table} has no field {field}"
                setattr(
                    made.builtinOptions, field, getattr(getattr(self.schema, enum), value) if enum else value
                )
        return made

    def _code(self, code: int, number: int) -> int:
        if (code, number) not in self._code_of:
            made = self.schema.OperatorCodeT()
            made.builtinCode, made.version = code, number
            made.deprecatedBuiltinCode = min(code, _LAST_BYTE_CODE)
            self._code_of[code, number] = len(self.codes)
            self.codes.append(made)
        return self._code_of[code, number]


def _camel(kind: str) -> str:
    return "".join(part.capitalize() for part in kind.split("_"))


def _bytes(data: npt.NDArray[Any]) -> bytes:
    return data.astype(data.dtype.newbyteorder("<")).tobytes()
