"""Lower a small function of ATen operators to ONNX and run it on ONNX Runtime beside torch, at two batch sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, fx

from nagedge.backends.onnx_lowering import lower_to_onnx
from nagedge.backends.onnx_lowering.elementwise import short_name
from nagedge.graphs.forward import trace
from nagedge.runtimes.onnxruntime import import_onnxruntime
from nagedge.specs import BATCH, TensorSpec

__all__ = ["Lowering", "case", "check", "flags", "ints", "lowered", "normal", "one_of", "uniform"]

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


def _listed(result: Any) -> list[Tensor]:
    return list(result) if isinstance(result, (tuple, list)) else [result]


def lowered(item: Lowering, *, opset: int = 18) -> tuple[fx.GraphModule, onnx.ModelProto]:
    """Trace a case with a symbolic batch and lower it."""
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
    return module, lower_to_onnx(module, specs, outputs, constants, opset=opset, name="case")


def rules_used(module: fx.GraphModule) -> set[str]:
    """Return the operators that a graph calls, without overloads."""
    return {short_name(node) for node in module.graph.nodes if node.op == "call_function"}


def check(item: Lowering, *, opset: int = 18) -> None:
    """Run a case at two batch sizes, neither the traced one, and compare with torch: values, shapes and dtypes."""
    module, model = lowered(item, opset=opset)
    assert item.lowers in rules_used(module), (
        f"{item.lowers} is not in the traced graph: {sorted(rules_used(module))}"
    )
    assert [(o.domain, o.version) for o in model.opset_import] == [("", opset)]
    assert {node.domain for node in model.graph.node} <= {""}
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for batch in (3, 5):
        generator = torch.Generator().manual_seed(batch)
        inputs = [draw(batch, generator) for draw in item.draws]
        expected = _listed(item.function(*inputs, *item.constants))
        got = session.run(None, {f"x{i}": x.numpy() for i, x in enumerate(inputs)})
        assert len(got) == len(expected)
        for value, reference in zip(got, expected, strict=True):
            wanted = reference.detach().numpy()
            assert value.dtype == wanted.dtype, f"batch {batch}"
            assert value.shape == wanted.shape, f"batch {batch}"
            if wanted.dtype.kind == "f":
                np.testing.assert_allclose(
                    value, wanted, rtol=item.rtol, atol=item.atol, err_msg=f"batch {batch}"
                )
            else:
                np.testing.assert_array_equal(value, wanted, err_msg=f"batch {batch}")
