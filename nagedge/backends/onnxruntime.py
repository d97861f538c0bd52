"""The onnxruntime backend: ``infer.onnx`` and ``train_step.onnx`` in standard ONNX operators.

They run on any ONNX Runtime that knows the target's opset, on any of its systems; no training build is needed.

Roles of the artifacts: ``infer``, in the target's precision; ``train_step``; and where the target asks for
``ort_format`` also ``infer_ort``, ``train_step_ort`` and ``required_operators``, for a build of ONNX Runtime that holds
nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
from torch import Tensor, fx

from nagedge.backends.onnx_lowering import check_operators, lower_to_onnx, serialized
from nagedge.backends.onnx_precision import in_ort_format, in_precision
from nagedge.errors import ConfigurationError
from nagedge.graphs.decompositions import ONNX
from nagedge.graphs.inference import InferenceGraph
from nagedge.graphs.milestones import marked
from nagedge.graphs.rematerialisation import rematerialise
from nagedge.graphs.rows import in_rows
from nagedge.graphs.train_step import StepGraph
from nagedge.graphs.views import reshaped_late
from nagedge.specs import TensorSpec
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
        target: names opset and precision; whether the batch is fixed, and whether the ORT format is written too.
        module_of: the path of the model's module that uses an operator, for the error text.
        calibration: batches of prepared inputs by name, for the precision ``int8``: a few hundred rows.

    Raises:
        ConfigurationError: precision ``int8`` without calibration; the ORT format in ``fp16``.
        DataError: the calibration does not fit the inputs.
        UnsupportedOperatorError: for an operator without a lowering; the text names it, its module and the target.
            Or a converter of ONNX Runtime failed.
    """
    if target.ort_format and target.precision == "fp16":
        raise ConfigurationError(
            f"target {target.name!r} asks for the ORT format in fp16: that format holds the graph as this machine runs "
            "it, which is in float32 where its processor has no half precision. Set ort_format = false, and let the "
            "device load infer.onnx."
        )
    # What converts to another precision knows matrix products, but no recurrent layers.
    infer = inference.whole if target.precision == "fp32" else inference.module
    graphs: dict[str, fx.GraphModule] = {"infer": infer}
    if step is not None:
        graphs["train_step"] = marked(in_rows(reshaped_late(step)))
        rematerialise(graphs["train_step"], step.rows, step.limits)
    for module in graphs.values():
        check_operators(module, target, module_of)
    models = {"infer": _onnx(infer, inference.inputs, inference.outputs, inference.state, target, "infer")}
    models["infer"] = in_precision(
        models["infer"], target, inference.inputs, calibration, batch=inference.batch or target.batch
    )
    if step is not None:
        models["train_step"] = _onnx(
            graphs["train_step"], step.inputs, step.outputs, step.constants, target, "train_step"
        )
    artifacts = {role: (f"{role}.onnx", model) for role, model in models.items()}
    if target.ort_format:
        in_ort, operators = in_ort_format(models, target)
        artifacts |= {f"{role}_ort": (f"{role}.ort", model) for role, model in in_ort.items()}
        artifacts["required_operators"] = ("required_operators.config", operators)
    return artifacts


def _onnx(
    module: fx.GraphModule,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    constants: Mapping[str, Tensor],
    target: Target,
    name: str,
) -> bytes:
    """Return the serialised model of a graph, its batch fixed where the target fixes it."""
    assert target.opset is not None  # load_target makes sure of it
    model = lower_to_onnx(module, inputs, outputs, constants, opset=target.opset, name=name)
    return serialized(model, target)
