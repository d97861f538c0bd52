"""Lower a small function of ATen operators to an ML Program, save it, and evaluate the saved files beside torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lowering_harness import Lowering, rules_used
from torch import Tensor, fx

from nagedge.backends.mil_lowering import Options, lower_to_mil, package
from nagedge.backends.mil_lowering.operands import short_name
from nagedge.graphs.forward import trace
from nagedge.runtimes.mil_program import Program, load_program
from nagedge.specs import BATCH, TensorSpec

__all__ = ["check", "onnx_cases", "packaged", "traced", "write_package"]

FREE = Options(18)


def onnx_cases(part: str) -> list[Lowering]:
    """Return the cases that the ONNX lowering is tested with: what is awkward there is awkward here."""
    path = Path(__file__).parent / "backends" / f"test_onnx_lowering_{part}.py"
    spec = importlib.util.spec_from_file_location(f"onnx_lowering_{part}_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases: list[Lowering] = module.CASES
    return cases


def _listed(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def traced(item: Lowering) -> tuple[fx.GraphModule, list[TensorSpec], list[str], dict[str, Tensor]]:
    """Return a case's graph with a free batch, its inputs, names of outputs and constants."""
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
    count = len(next(node for node in module.graph.nodes if node.op == "output").args[0])
    return module, specs, [f"y{i}" for i in range(count)], {f"c{i}": c for i, c in enumerate(item.constants)}


def packaged(item: Lowering, options: Options = FREE) -> dict[str, bytes]:
    """Return the files of a case's package."""
    return package(lower_to_mil(*traced(item), options), opset=options.opset, metadata={})


def write_package(files: dict[str, bytes], folder: Path) -> Path:
    """Write a package's files."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def check(item: Lowering, folder: Path, options: Options = FREE) -> None:
    """Run a case at two batch sizes, neither the traced one (or at the fixed one), and compare with torch."""
    module, specs, outputs, constants = traced(item)
    assert item.lowers in rules_used(module), (
        f"{item.lowers} is not in the graph: {sorted(rules_used(module))}"
    )
    files = package(
        lower_to_mil(module, specs, outputs, constants, options), opset=options.opset, metadata={}
    )
    program = load_program(write_package(files, folder / "case.mlpackage"))
    for batch in (3, 5) if options.batch is None else (options.batch,):
        generator = torch.Generator().manual_seed(batch)
        inputs = [draw(batch, generator) for draw in item.draws]
        expected = _listed(item.function(*inputs, *item.constants))
        got = program.run({f"x{i}": x.numpy() for i, x in enumerate(inputs)})
        assert list(got) == outputs
        for value, reference in zip(got.values(), expected, strict=True):
            compare(value, reference.detach().numpy(), item, f"batch {batch}")


def compare(value: np.ndarray, wanted: np.ndarray, item: Lowering, where: str) -> None:
    """Compare values, shapes and dtypes; Core ML has int32 and float32, and no tensor without axes."""
    assert value.dtype == (np.float32 if wanted.dtype.kind == "f" else np.int32), where
    assert value.shape == (wanted.shape or (1,)), where
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(
            value.reshape(wanted.shape), wanted, rtol=item.rtol, atol=item.atol, err_msg=where
        )
    else:
        np.testing.assert_array_equal(value.reshape(wanted.shape), wanted.astype(np.int32), err_msg=where)


def run_once(program: Program, *inputs: Tensor) -> list[np.ndarray]:
    """Return the results of one run."""
    return list(program.run({f"x{i}": x.numpy() for i, x in enumerate(inputs)}).values())
