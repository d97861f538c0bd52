"""Lower a case of the lowering harness to TensorFlow Lite and run it in LiteRT beside torch, at two batch sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lowering_harness import Lowering, check_rule, compare, drawn, onnx_cases, traced
from torch import fx

from nagedge.backends.tflite_lowering import lower_to_subgraph, serialize
from nagedge.backends.tflite_lowering.model import Subgraph
from nagedge.runtimes.litert import load_interpreter

__all__ = ["check", "kinds", "lowered", "sized_at_every_call", "tables"]

TABLES = ("elementwise", "structure", "compute", "scatter")


def tables() -> Iterator[Lowering]:
    """Yield the cases of the ONNX lowering."""
    for name in TABLES:
        yield from onnx_cases(name)


def lowered(item: Lowering, *, batch: int | None = None) -> tuple[fx.GraphModule, Subgraph]:
    """Trace a case with a symbolic batch and lower it; ``batch`` fixes the size afterwards, as a target does."""
    module, specs, outputs, constants = traced(item)
    return module, lower_to_subgraph(module, specs, outputs, constants, name="case", batch=batch)


def kinds(subgraph: Subgraph) -> list[str]:
    """Return the builtin operators of a subgraph, in order."""
    return [operation.kind for operation in subgraph.operations]


def check(item: Lowering) -> None:
    """Run a case at two batch sizes, neither the traced one, free and fixed; compare values, shapes and dtypes."""
    module, subgraph = lowered(item)
    check_rule(item, module)
    runner = load_interpreter(serialize([subgraph])).get_signature_runner("case")
    for batch in (3, 5):
        _compare(item, runner, batch)
    _compare(item, load_interpreter(serialize([lowered(item, batch=4)[1]])).get_signature_runner("case"), 4)


def _compare(item: Lowering, runner: Any, batch: int) -> None:
    inputs, expected = drawn(item, batch)
    read = runner.get_input_details()
    got = runner(**{f"x{i}": x.numpy() for i, x in enumerate(inputs) if f"x{i}" in read})
    assert len(got) == len(expected)
    for i, wanted in enumerate(expected):
        compare(item, got[f"y{i}"], wanted, f"batch {batch}")


def sized_at_every_call(subgraph: Subgraph) -> list[str]:
    """Return the operators whose result TensorFlow Lite cannot size before a call (its kernels' ``Prepare``)."""
    known = {i for i, tensor in enumerate(subgraph.tensors) if tensor.data is not None}
    shaped = {
        "BROADCAST_TO": (1,), "RESHAPE": (1,), "TILE": (1,), "RANGE": (0, 1, 2), "STRIDED_SLICE": (1, 2, 3),
        "SLICE": (1, 2), "PAD": (1,), "PADV2": (1,), "TRANSPOSE": (1,), "SUM": (1,), "MEAN": (1,), "CUMSUM": (1,),
        "SCATTER_ND": (2,),
    }  # fmt: skip
    found = []
    for operation in subgraph.operations:
        if any(operation.inputs[i] not in known for i in shaped.get(operation.kind, ())):
            found.append(operation.kind)
        free = any(not isinstance(s, int) for s in subgraph.tensors[operation.inputs[0]].sizes)
        if operation.kind == "SLICE" and free:
            found.append("SLICE")
        kept = operation.kind in ("STRIDED_SLICE", "CONCATENATION", "RESHAPE", "RANGE")
        if operation.kind == "SHAPE" or (kept and all(i in known for i in operation.inputs)):
            known.update(operation.outputs)
    return found
