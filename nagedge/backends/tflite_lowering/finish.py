"""Passes over a finished subgraph: drop what nothing reads, store each tensor of the model once, fuse activations."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from nagedge.backends.tflite_lowering.model import ABSENT, Operation, Subgraph, Tensor

__all__ = ["finish"]

_FUSED = {"RELU": "RELU", "RELU6": "RELU6"}
_FUSES = {
    "ADD", "SUB", "MUL", "DIV", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "AVERAGE_POOL_2D", "MAX_POOL_2D",
}  # fmt: skip
"""Kernels that apply it: CONCATENATION has the option too, and its kernel refuses it."""
_SMALL_BYTES = 1024


def finish(subgraph: Subgraph) -> Subgraph:
    """Return the subgraph without unused operations and tensors, with fused activations and no constant twice."""
    operations = _live(subgraph.operations, set(subgraph.outputs.values()))
    tensors = list(subgraph.tensors)
    operations = _fuse(operations, tensors, set(subgraph.outputs.values()))
    operations = _store_once(operations, tensors)
    return _compact(subgraph, operations, tensors)


def _live(operations: list[Operation], wanted: set[int]) -> list[Operation]:
    needed = set(wanted)
    kept = []
    for operation in reversed(operations):
        if any(output in needed for output in operation.outputs):
            needed.update(operation.inputs)
            kept.append(operation)
    return kept[::-1]


def _fuse(operations: list[Operation], tensors: list[Tensor], outputs: set[int]) -> list[Operation]:
    """Let an operator apply the activation that alone reads its result."""
    readers: dict[int, int] = {}
    for operation in operations:
        for index in operation.inputs:
            readers[index] = readers.get(index, 0) + 1
    made_by: dict[int, Operation] = {}
    kept: list[Operation] = []
    for operation in operations:
        source = made_by.get(operation.inputs[0]) if operation.inputs else None
        if (
            operation.kind in _FUSED
            and source is not None
            and source.kind in _FUSES
            and source.options.get("fusedActivationFunction", "NONE") == "NONE"
            and readers[operation.inputs[0]] == 1
            and operation.inputs[0] not in outputs
            and tensors[operation.inputs[0]].dtype == np.float32
        ):
            source.options = {**source.options, "fusedActivationFunction": _FUSED[operation.kind]}
            source.outputs = list(operation.outputs)
            made_by[source.outputs[0]] = source
            continue
        kept.append(operation)
        for output in operation.outputs:
            made_by[output] = operation
    return kept


def _store_once(operations: list[Operation], tensors: list[Tensor]) -> list[Operation]:
    """Compute the second order of axes in which a tensor of the model is read, instead of storing it again.

    Another shape of the same order is the same content, which the file holds once.
    """
    first: dict[str, int] = {}
    moved: dict[int, int] = {}
    added: list[Operation] = []
    for operation in operations:
        for place, index in enumerate(operation.inputs):
            if index == ABSENT:
                continue
            tensor = tensors[index]
            if tensor.origin is None or tensor.data is None or tensor.data.nbytes <= _SMALL_BYTES:
                continue
            kept = first.setdefault(tensor.origin.name, index)
            if kept == index or _same_content(tensors[kept], tensor):
                continue
            if index not in moved:
                moved[index] = _computed_from(kept, tensor, tensors, added)
            operation.inputs[place] = moved[index]
    return added + operations


def _same_content(a: Tensor, b: Tensor) -> bool:
    return (
        a.data is not None
        and b.data is not None
        and a.data.dtype == b.data.dtype
        and np.array_equal(a.data.ravel(), b.data.ravel(), equal_nan=a.data.dtype.kind == "f")
    )


def _computed_from(kept: int, wanted: Tensor, tensors: list[Tensor], added: list[Operation]) -> int:
    def append(kind: str, source: int, argument: list[int], sizes: tuple[int, ...]) -> int:
        parameter = len(tensors)
        tensors.append(
            Tensor(
                f"constant_{parameter}", np.dtype(np.int32), (len(argument),), np.asarray(argument, np.int32)
            )
        )
        tensors.append(Tensor(f"{kind.lower()}_{parameter + 1}", wanted.dtype, sizes))
        added.append(Operation(kind, [source, parameter], [parameter + 1]))
        return parameter + 1

    stored, origin = tensors[kept], wanted.origin
    assert stored.origin is not None
    assert origin is not None
    assert wanted.data is not None
    result = kept
    sizes = tuple(origin.shape[axis] for axis in stored.origin.order)
    if stored.sizes != sizes:
        result = append("RESHAPE", result, list(sizes), sizes)
    permutation = [stored.origin.order.index(axis) for axis in origin.order]
    moved = tuple(sizes[p] for p in permutation)
    if permutation != sorted(permutation):
        result = append("TRANSPOSE", result, permutation, moved)
    if moved != wanted.data.shape:
        result = append("RESHAPE", result, list(wanted.data.shape), wanted.data.shape)
    return result


def _compact(subgraph: Subgraph, operations: list[Operation], tensors: list[Tensor]) -> Subgraph:
    used = {*subgraph.inputs.values(), *subgraph.outputs.values()}
    for operation in operations:
        used.update(operation.inputs, operation.outputs)
    used.discard(ABSENT)
    new = {old: place for place, old in enumerate(sorted(used))} | {ABSENT: ABSENT}
    return replace(
        subgraph,
        tensors=[tensors[old] for old in sorted(used)],
        operations=[
            Operation(o.kind, [new[i] for i in o.inputs], [new[i] for i in o.outputs], o.options)
            for o in operations
        ],
        inputs={name: new[index] for name, index in subgraph.inputs.items()},
        outputs={name: new[index] for name, index in subgraph.outputs.items()},
    )
