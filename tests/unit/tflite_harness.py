"""Lower a case of the lowering harness to TensorFlow Lite and run it in LiteRT beside torch, at two batch sizes."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lowering_harness import Lowering, rules_used
from torch import fx

from nagedge.backends.onnx_lowering.elementwise import short_name
from nagedge.backends.tflite_lowering import lower_to_subgraph, serialize
from nagedge.backends.tflite_lowering.model import Subgraph
from nagedge.graphs.forward import trace
from nagedge.runtimes.litert import load_interpreter
from nagedge.specs import BATCH, TensorSpec

__all__ = ["check", "kinds", "lowered", "sized_at_every_call", "tables"]

TABLES = ("elementwise", "structure", "compute")


def tables() -> Iterator[Lowering]:
    """Yield the cases of the ONNX lowering: the arguments that are awkward there are awkward here."""
    for name in TABLES:
        file = Path(__file__).parent / "backends" / f"test_onnx_lowering_{name}.py"
        spec = spec_from_file_location(f"cases_of_{name}", file)
        assert spec is not None
        assert spec.loader is not None
        module = module_from_spec(spec)
        spec.loader.exec_module(module)
        yield from module.CASES


def _listed(result: Any) -> list[Any]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def lowered(item: Lowering, *, batch: int | None = None) -> tuple[fx.GraphModule, Subgraph]:
    """Trace a case with a symbolic batch and lower it; ``batch`` fixes the size afterwards, as a target does."""
    generator = torch.Generator().manual_seed(0)
    inputs = [draw(4, generator) for draw in item.draws]
    module, symbolic = trace(
        lambda *flat: _listed(item.function(*flat)),
        [*inputs, *item.constants],
        [True] * len(inputs) + [False] * len(item.constants),
        batch=None,
    )
    assert symbolic, "tracing fixed the batch size"
    if item.becomes is not None:
        for node in module.graph.nodes:
            if node.op == "call_function" and short_name(node) == item.rule:
                node.target = item.becomes
    specs = [
        TensorSpec(f"x{i}", str(x.dtype).removeprefix("torch."), (BATCH, *x.shape[1:]))
        for i, x in enumerate(inputs)
    ]
    constants = {f"c{i}": c for i, c in enumerate(item.constants)}
    count = len(next(node for node in module.graph.nodes if node.op == "output").args[0])
    outputs = [f"y{i}" for i in range(count)]
    return module, lower_to_subgraph(module, specs, outputs, constants, name="case", batch=batch)


def kinds(subgraph: Subgraph) -> list[str]:
    """Return the builtin operators of a subgraph, in order."""
    return [operation.kind for operation in subgraph.operations]


def check(item: Lowering) -> None:
    """Run a case at two batch sizes, neither the traced one, free and fixed; compare values, shapes and dtypes."""
    module, subgraph = lowered(item)
    assert item.lowers in rules_used(module), (
        f"{item.lowers} is not in the traced graph: {sorted(rules_used(module))}"
    )
    runner = load_interpreter(serialize([subgraph])).get_signature_runner("case")
    for batch in (3, 5):
        _compare(item, runner, batch)
    _compare(item, load_interpreter(serialize([lowered(item, batch=4)[1]])).get_signature_runner("case"), 4)


def _compare(item: Lowering, runner: Any, batch: int) -> None:
    generator = torch.Generator().manual_seed(batch)
    inputs = [draw(batch, generator) for draw in item.draws]
    expected = _listed(item.function(*inputs, *item.constants))
    read = runner.get_input_details()
    got = runner(**{f"x{i}": x.numpy() for i, x in enumerate(inputs) if f"x{i}" in read})
    assert len(got) == len(expected)
    for i, reference in enumerate(expected):
        value, wanted = got[f"y{i}"], reference.detach().numpy()
        assert value.dtype == wanted.dtype, f"batch {batch}"
        assert value.shape == wanted.shape, f"batch {batch}"
        if wanted.dtype.kind == "f":
            np.testing.assert_allclose(
                value, wanted, rtol=item.rtol, atol=item.atol, err_msg=f"batch {batch}"
            )
        else:
            np.testing.assert_array_equal(value, wanted, err_msg=f"batch {batch}")


def sized_at_every_call(subgraph: Subgraph) -> list[str]:
    """Return the operators whose result TensorFlow Lite cannot size before a call (its kernels' ``Prepare``)."""
    known = {i for i, tensor in enumerate(subgraph.tensors) if tensor.data is not None}
    shaped = {
        "BROADCAST_TO": (1,), "RESHAPE": (1,), "TILE": (1,), "RANGE": (0, 1, 2), "STRIDED_SLICE": (1, 2, 3),
        "SLICE": (1, 2), "PAD": (1,), "PADV2": (1,), "TRANSPOSE": (1,), "SUM": (1,), "MEAN": (1,), "CUMSUM": (1,),
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
