"""The ort_training backend: artifacts for ONNX Runtime's own on-device training (onnxruntime-training 1.19.2).

They load with its C, C++, C#, Java, Objective-C and Python API as upstream builds it. The loss, the gradients and the
update are ours (:mod:`nagedge.backends.ort_training_graphs`); the runtime brings the training loop, the gradient
buffers (and so gradient accumulation) and the checkpoint with the momentum buffers in it.

Roles of the artifacts: ``infer`` (standard ONNX, the parameters are constants); ``train_step``
(``training_model.onnx``), ``eval_model``, ``optimizer_model``, ``checkpoint`` and ``nominal_checkpoint`` (names without
values, for clients that get their parameters from elsewhere), each under upstream's file name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from nagedge.backends.onnx_lowering import check_operators, lower_to_onnx, serialized
from nagedge.backends.ort_training_graphs import DECAYED_RANK, eval_model, optimizer_model, training_model
from nagedge.errors import UnsupportedOperatorError
from nagedge.graphs.decompositions import ONNX
from nagedge.graphs.gradients import GradientGraph, gradient_graph
from nagedge.graphs.inference import InferenceGraph
from nagedge.graphs.rows import in_rows
from nagedge.graphs.train_step import StepGraph
from nagedge.graphs.views import reshaped_late
from nagedge.ort_checkpoint import OrtCheckpoint, write_checkpoint
from nagedge.targets import Target

__all__ = ["DECOMPOSITIONS", "lower"]

DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = ONNX
"""This backend's own decompositions, for :func:`nagedge.graphs.train_step.trace_train_step`."""

_HIGHEST_IR = 10  # what onnxruntime 1.19 loads


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
        target: names the opset, and the batch size if it is to be fixed.
        module_of: the path of the model's module that uses an operator, for the error text.
        calibration: not used: the target is fp32.

    Raises:
        UnsupportedOperatorError: for an operator without a lowering, or a parameter or buffer that the runtime cannot
            train; the text names it and the target.
    """
    del calibration
    assert target.opset is not None  # load_target makes sure of it
    check_operators(inference.whole, target, module_of)
    models = {
        "infer": lower_to_onnx(
            inference.whole,
            inference.inputs,
            inference.outputs,
            inference.state,
            opset=target.opset,
            name="infer",
        )
    }
    artifacts: dict[str, tuple[str, bytes]] = {}
    if step is not None:
        _check_rules(step, target)
        gradients = gradient_graph(in_rows(reshaped_late(step)))
        check_operators(gradients.module, target, module_of)
        _check_state(gradients, target)
        models |= {
            "train_step": training_model(gradients, target.opset),
            "eval_model": eval_model(inference, gradients, step.tasks, target.opset),
            "optimizer_model": optimizer_model(
                len(step.trainable),
                momentum=step.momentum,
                weight_decay=step.weight_decay,
                opset=target.opset,
            ),
        }
        params = {f"params.{name}": _array(inference.state[name]) for name in step.trainable}
        state = {**inference.state, **step.rule_state}
        buffers = {f"buffers.{name}": _array(state[name]) for name in step.updated_buffers}
        artifacts = {
            "checkpoint": ("checkpoint", write_checkpoint(OrtCheckpoint(params, buffers))),
            "nominal_checkpoint": (
                "nominal_checkpoint",
                write_checkpoint(OrtCheckpoint(params, buffers, nominal=True)),
            ),
        }
    for role, model in models.items():
        assert model.ir_version <= _HIGHEST_IR
        name = "training_model" if role == "train_step" else role
        artifacts[role] = (f"{name}.onnx", serialized(model, target))
    return artifacts


def _array(tensor: Tensor) -> npt.NDArray[Any]:
    return np.asarray(tensor.detach().numpy())


def _check_rules(step: StepGraph, target: Target) -> None:
    """Refuse what needs gradients, momentum and update in one graph: this runtime has one for each."""
    rules = step.rules
    what = f"restart {rules.restart!r}" if rules.restart != "none" else ""
    what = "balancing 'famo'" if rules.balancing == "famo" else what
    if what:
        raise UnsupportedOperatorError(
            f"{target.name}: {what} does not fit ONNX Runtime's on-device training, which computes gradients and update"
            " in two models. Take another target, or leave the option out."
        )


def _check_state(gradients: GradientGraph, target: Target) -> None:
    """Refuse a state that the runtime's gradient buffers or its optimizer cannot hold."""
    for spec in gradients.inputs:
        role, _, name = spec.name.partition(".")
        if role in ("params", "buffers") and spec.dtype != "float32":
            what = "parameter" if role == "params" else "updated buffer"
            raise UnsupportedOperatorError(
                f"backend 'ort_training' cannot train the {what} {name!r} of dtype {spec.dtype} for target "
                f"{target.name!r}: the runtime's buffers are float32. Freeze it, or choose an onnxruntime target."
            )
        if role == "params" and (name in gradients.decayed) != (len(spec.shape) >= DECAYED_RANK):
            raise UnsupportedOperatorError(
                f"backend 'ort_training' cannot choose weight decay for the parameter {name!r} of {len(spec.shape)} "
                f"dimensions by name, target {target.name!r}: its optimizer model decays parameters of "
                f"{DECAYED_RANK} or more dimensions. Choose an onnxruntime target."
            )
