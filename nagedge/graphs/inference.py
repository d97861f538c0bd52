"""The inference graph: the forward pass in the operators that inference runtimes know best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, fx

from nagedge.graphs.cleanup import clean
from nagedge.graphs.decompositions import decomposition_table
from nagedge.graphs.decompositions.recurrent import RECURRENT
from nagedge.graphs.forward import TRACED_BATCH, FixedBatchError, ForwardGraph, trace
from nagedge.graphs.specialization import expanded
from nagedge.specs import BATCH, TensorSpec

__all__ = ["InferenceGraph", "trace_inference"]

aten = torch.ops.aten

# Runtimes have fast kernels for these; their decompositions serve the gradients only.
_KEPT = (
    aten._native_batch_norm_legit_no_training.default,
    aten.native_layer_norm.default,
    aten.hardswish.default,
    aten.hardsigmoid.default,
    aten.elu.default,
    aten.leaky_relu.default,
    aten.softplus.default,
    *RECURRENT,
)


@dataclass(frozen=True)
class InferenceGraph:
    """A traced forward pass.

    Attributes:
        whole: called with one tensor an entry of ``inputs``, then the tensors of ``state``. Recurrent layers are whole,
            for backends that have an operator for them.
        inputs, outputs: specs of the inputs; task names.
        state: parameters, buffers and constants, by their name in the model.
        batch: ``None`` for a symbolic batch, else its only size.
    """

    whole: fx.GraphModule
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[str, ...]
    state: Mapping[str, Tensor]
    batch: int | None

    @cached_property
    def module(self) -> fx.GraphModule:
        """As ``whole``, in portable operators: recurrent layers are expanded, which takes time if they are long."""
        return expanded(self.whole, RECURRENT)


def trace_inference(forward: ForwardGraph, state: Mapping[str, Tensor]) -> InferenceGraph:
    """Decompose ``forward`` (traced in evaluation mode) for inference runtimes.

    Raises:
        FixedBatchError: the forward graph's batch is symbolic, but a decomposition fixes it.
    """
    count = len(forward.inputs)
    prepared = forward.prepared()

    def infer(*flat: Tensor) -> list[Tensor]:
        outputs, _ = prepared(dict(zip(forward.state_names, flat[count:], strict=True)), flat[:count])
        return list(outputs.values())

    table = decomposition_table()
    for operator in _KEPT:
        table.pop(operator, None)
    examples = [
        torch.zeros(
            [TRACED_BATCH if s == BATCH else int(s) for s in spec.shape], dtype=getattr(torch, spec.dtype)
        )
        for spec in forward.inputs
    ]
    tensors = [state[name] for name in forward.state_names]
    with torch.no_grad():
        module, symbolic = trace(
            infer, [*examples, *tensors], [True] * count + [False] * len(tensors), batch=forward.batch,
            decompositions=table, functional=True,
        )  # fmt: skip
    if forward.batch is None and not symbolic:
        raise FixedBatchError("the inference graph fixes its batch size")
    clean(module, differentiated=True)
    named = {name: state[name] for name in forward.state_names}
    return InferenceGraph(module, forward.inputs, forward.outputs, named, forward.batch)
