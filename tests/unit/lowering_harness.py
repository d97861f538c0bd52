"""Lower a small function of ATen operators to ONNX and run it on ONNX Runtime beside torch, at two batch sizes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from nagedge.backends.onnx_lowering import lower_to_onnx
from nagedge.backends.traced import short_name
from nagedge.graphs.forward import trace
from nagedge.runtimes.onnxruntime import import_onnxruntime
from nagedge.specs import BATCH, TensorSpec

__all__ = [
    "Lowering", "case", "check", "check_rule", "compare", "drawn", "flags", "ints", "lowered", "normal", "one_of",
    "onnx_cases", "traced", "uniform",
]  # fmt: skip

Draw = Callable[[int, torch.Generator], Tensor]
"""``(batch, generator) -> [batch, ...]``"""


def normal(*shape: int, dtype: torch.dtype = torch.float32) -> Draw:
    return lambda batch, g: torch.randn(batch, *shape, generator=g).to(dtype)


def uniform(low: float, high: float, *shape: int) -> Draw:
    return lambda batch, g: low + (high - low) * torch.rand(batch, *shape, generator=g)


def ints(low: int, high: int, *shape: int, dtype: torch.dtype = torch.int64) -> Draw:
    return lambda batch, g: torch.randint(low, high, (batch, *shape), generator=g).to(dtype)


def flags(*shape: int) -> Draw:
    return lambda batch, g: torch.rand(batch, *shape, generator=g) < 0.5


def one_of(values: Sequence[float], *shape: int) -> Draw:
    """Draw among awkward values; the first row holds as many of them as fit."""

    def draw(batch: int, g: torch.Generator) -> Tensor:
        listed = torch.tensor(values)
        drawn = listed[torch.randint(0, len(values), (batch, *shape), generator=g)]
        flat = drawn.reshape(-1)
        flat[: min(len(values), flat.numel())] = listed[: flat.numel()]
        return flat.reshape(drawn.shape)

    return draw


@dataclass(frozen=True)
class Lowering:
    """A function of ATen operators that must come out of ONNX Runtime as torch computes it.

    Attributes:
        rule: the operator, without overload, that the function is about.
        label: what is awkward about it.
        function: takes the drawn tensors, then the constants; returns a tensor or several.
        draws: of the inputs, whose axis 0 is the batch.
        constants: further arguments, which become initializers.
        becomes: give the traced operator this target first (operators that torch replaces while tracing).
        rtol, atol: for floats; everything else must be equal.
    """

    rule: str
    label: str
    function: Callable[..., Any]
    draws: tuple[Draw, ...]
    constants: tuple[Tensor, ...] = ()
    becomes: Any = None
    rtol: float = 2e-6
    atol: float = 1e-6

    @property
    def lowers(self) -> str:
        """The rule that is put to work."""
        name: str = self.rule if self.becomes is None else self.becomes.overloadpacket.__name__
        return name

    def __str__(self) -> str:
        return f"{self.rule}-{self.label}"


def case(rule: str, label: str, function: Callable[..., Any], *draws: Draw, **options: Any) -> Lowering:
    return Lowering(rule, label, function, draws, **options)


def onnx_cases(part: str) -> list[Lowering]:
    """Return the cases that the ONNX lowering is tested with: what is awkward there is awkward elsewhere."""
    path = Path(__file__).parent / "backends" / f"test_onnx_lowering_{part}.py"
    spec = importlib.util.spec_from_file_location(f"onnx_lowering_{part}_cases", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    cases: list[Lowering] = module.CASES
    return cases


def listed(result: Any) -> list[Tensor]:
    """Return the results of a case's function as a list."""
    return list(result) if isinstance(result, (tuple, list)) else [result]


def traced(item: Lowering) -> tuple[fx.GraphModule, list[TensorSpec], list[str], dict[str, Tensor]]:
    """Return a case's graph with a free batch, its inputs, names of outputs and constants."""
    generator = torch.Generator().manual_seed(0)
    inputs = [draw(4, generator) for draw in item.draws]
    module, symbolic = trace(
        lambda *flat: listed(item.function(*flat)),
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


def drawn(item: Lowering, batch: int) -> tuple[list[Tensor], list[np.ndarray]]:
    """Return a case's inputs at a batch size, and what torch makes of them."""
    generator = torch.Generator().manual_seed(batch)
    inputs = [draw(batch, generator) for draw in item.draws]
    return inputs, [result.detach().numpy() for result in listed(item.function(*inputs, *item.constants))]


def lowered(item: Lowering, *, opset: int = 18) -> tuple[fx.GraphModule, onnx.ModelProto]:
    """Trace a case with a symbolic batch and lower it."""
    module, specs, outputs, constants = traced(item)
    return module, lower_to_onnx(module, specs, outputs, constants, opset=opset, name="case")


def compare(item: Lowering, value: np.ndarray, wanted: np.ndarray, where: str) -> None:
    """Compare a result with torch's: its values, shape and dtype."""
    assert value.dtype == wanted.dtype, where
    assert value.shape == wanted.shape, where
    if wanted.dtype.kind == "f":
        np.testing.assert_allclose(value, wanted, rtol=item.rtol, atol=item.atol, err_msg=where)
    else:
        np.testing.assert_array_equal(value, wanted, err_msg=where)


def rules_used(module: fx.GraphModule) -> set[str]:
    """Return the operators that a graph calls, without overloads."""
    return {short_name(node) for node in module.graph.nodes if node.op == "call_function"}


def check_rule(item: Lowering, module: fx.GraphModule) -> None:
    """Check that a case's graph has the operator that it is about."""
    used = rules_used(module)
    assert item.lowers in used, f"{item.lowers} is not in the traced graph: {sorted(used)}"


def check(item: Lowering, *, opset: int = 18) -> None:
    """Run a case at two batch sizes, neither the traced one, and compare with torch: values, shapes and dtypes."""
    module, model = lowered(item, opset=opset)
    check_rule(item, module)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert {node.domain for node in model.graph.node} <= {""}
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for batch in (3, 5):
        inputs, expected = drawn(item, batch)
        got = session.run(None, {f"x{i}": x.numpy() for i, x in enumerate(inputs)})
        for value, wanted in zip(got, expected, strict=True):
            compare(item, value, wanted, f"batch {batch}")
