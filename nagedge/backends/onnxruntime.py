"""The onnxruntime backend: ``infer.onnx`` and ``train_step.onnx`` in standard ONNX operators.

They run on any ONNX Runtime that knows the target's opset, on any of its systems; no training build is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
from torch import fx

from nagedge.backends.onnx_lowering import lower_to_onnx, unsupported_operators
from nagedge.errors import UnsupportedOperatorError
from nagedge.graphs.decompositions import ONNX
from nagedge.graphs.inference import InferenceGraph
from nagedge.graphs.train_step import StepGraph
from nagedge.targets import Target

__all__ = ["DECOMPOSITIONS", "lower"]

DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = ONNX
"""This backend's own decompositions, for :func:`nagedge.graphs.train_step.trace_train_step`."""


def lower(
    inference: InferenceGraph,
    step: StepGraph | None,
    target: Target,
    *,
    module_of: Callable[[str], str | None] = lambda operator: None,
    calibration: Sequence[Mapping[str, npt.NDArray[Any]]] = (),
) -> dict[str, tuple[str, bytes]]:
    """Return the target's artifacts: role -> (file name, content).

    Args:
        inference: the inference graph.
        step: the training step, or None when the target has none.
        target: names the opset.
        module_of: the path of the model's module that uses an operator, for the error text.
        calibration: batches of prepared inputs by name, for static quantisation.

    Raises:
        UnsupportedOperatorError: for an operator without a lowering; the text names it, its module and the target.
    """
    assert target.opset is not None  # load_target makes sure of it
    graphs: dict[str, fx.GraphModule] = {"infer": inference.module}
    if step is not None:
        graphs["train_step"] = step.module
    for module in graphs.values():
        missing = unsupported_operators(module)
        if missing:
            path = module_of(missing[0])
            where = f" (module {path!r})" if path else ""
            raise UnsupportedOperatorError(
                f"backend 'onnxruntime' cannot lower {missing[0]!r}{where} for target {target.name!r}"
                + (f", nor {', '.join(missing[1:])}" if len(missing) > 1 else "")
                + ". Replace it by operators of torch.nn in common use, or freeze the part of the model before it."
            )
    artifacts = {
        "infer": (
            "infer.onnx",
            lower_to_onnx(
                inference.module,
                inference.inputs,
                inference.outputs,
                inference.state,
                opset=target.opset,
                name="infer",
            ).SerializeToString(),
        )
    }
    if step is not None:
        model = lower_to_onnx(
            step.module, step.inputs, step.outputs, step.constants, opset=target.opset, name="train_step"
        )
        artifacts["train_step"] = ("train_step.onnx", model.SerializeToString())
    return artifacts
