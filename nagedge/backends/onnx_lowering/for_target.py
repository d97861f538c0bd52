"""What a target asks of every ONNX graph, whichever backend it is for."""

from __future__ import annotations

from collections.abc import Callable

import onnx
from torch import fx

from nagedge.backends.onnx_lowering.lower import unsupported_operators
from nagedge.backends.refusal import also, refusal
from nagedge.specs import BATCH
from nagedge.targets import Target

__all__ = ["check_operators", "serialized"]


def check_operators(module: fx.GraphModule, target: Target, module_of: Callable[[str], str | None]) -> None:
    """Refuse a graph with operators that have no lowering.

    Raises:
        UnsupportedOperatorError: it has some; the text names them, the module of the first and the target.
    """
    missing = unsupported_operators(module)
    if missing:
        remedy = "freeze the part of the model before it"
        raise refusal(missing[0], also(missing[1:]), target, module_of, remedy=remedy)


def serialized(model: onnx.ModelProto, target: Target) -> bytes:
    """Return the content of a model's file; its batch is fixed where the target fixes it."""
    if target.batch is not None:
        free, model = model, onnx.ModelProto()
        model.CopyFrom(free)
        for info in (*model.graph.input, *model.graph.output):
            for dimension in info.type.tensor_type.shape.dim:
                if dimension.dim_param == BATCH:
                    dimension.dim_value = target.batch
    content: bytes = model.SerializeToString()
    return content
