"""The coreml backend: ML Programs for Apple's systems: ``infer``, ``train_step`` and ``evaluate.mlpackage``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor, fx

from nagedge.backends.mil_lowering import Compression, Options, RefusedOperatorError, lower_to_mil, package
from nagedge.backends.mil_lowering.names import feature_name
from nagedge.errors import ConfigurationError, UnsupportedOperatorError
from nagedge.graphs.decompositions.convolution_matmul import convolution_backward
from nagedge.graphs.inference import InferenceGraph
from nagedge.graphs.train_step import StepGraph
from nagedge.specs import TensorSpec
from nagedge.targets import Target

__all__ = ["DECOMPOSITIONS", "NAMES_KEY", "lower"]

DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = {
    torch.ops.aten.convolution_backward.default: convolution_backward,
}
"""This backend's own decompositions: gradients of convolutions without transposed or dilated ones."""

NAMES_KEY = "nagedge.names"
"""Key of the model's metadata that holds, as JSON, the name in the bundle of every feature and constant."""

_SYSTEM = re.compile(r"iOS(\d+)")
_OPSETS = range(16, 19)


def lower(
    inference: InferenceGraph,
    step: StepGraph | None,
    target: Target,
    *,
    module_of: Callable[[str], str | None] = lambda operator: None,
    calibration: Sequence[Mapping[str, npt.NDArray[Any]]] = (),
) -> dict[str, tuple[str, dict[str, bytes]]]:
    """Return the target's artifacts: role -> (folder name, inner path -> content).

    ``infer`` has its parameters as constants. A target that trains has ``train_step``, and ``evaluate``: inference with
    what is trained as inputs, by the names that the training step has for them, so that an app can predict with the
    state it trains.

    Args:
        inference: the inference graph.
        step: the training step, or None when the target has none.
        target: names the precision, the oldest system and, if it fixes it, the batch.
        module_of: the path of the model's module that uses an operator, for the error text.
        calibration: not used: the weights alone are quantised.

    Raises:
        ConfigurationError: the target names a system without a known operator set, or a batch that the model does not
            have.
        UnsupportedOperatorError: for an operator without a lowering; the text names it, its module and the target.
    """
    opset = _opset(target)
    compression = Compression(target.precision) if target.precision in {"int8", "palette4"} else None
    half = target.precision != "fp32"
    del calibration
    if target.batch is not None and inference.batch not in {None, target.batch}:
        raise ConfigurationError(
            f"target {target.name!r} fixes the batch to {target.batch}, but the model's own is {inference.batch}: "
            "remove batch from the target's file, or export with --batch."
        )
    artifacts = {
        "infer": (
            "infer.mlpackage",
            _package(
                inference.module, inference.inputs, inference.outputs, inference.state, target, module_of,
                Options(opset, half, compression, target.batch),
            ),
        )
    }  # fmt: skip
    if step is not None:
        fed = {name: f"params.{name}" for name in step.trainable}
        fed |= {name: f"buffers.{name}" for name in step.updated_buffers}
        artifacts["train_step"] = (
            "train_step.mlpackage",
            _package(
                step.module, step.inputs, step.outputs, step.constants, target, module_of,
                Options(opset, batch=target.batch),
            ),
        )  # fmt: skip
        artifacts["evaluate"] = (
            "evaluate.mlpackage",
            _package(
                inference.module, inference.inputs, inference.outputs, inference.state, target, module_of,
                Options(opset, batch=target.batch, fed=fed),
            ),
        )  # fmt: skip
    return artifacts


def _opset(target: Target) -> int:
    found = _SYSTEM.fullmatch(target.minimum_os)
    if found is None or int(found[1]) not in _OPSETS:
        known = ", ".join(f"'iOS{n}'" for n in _OPSETS)
        raise ConfigurationError(
            f"target {target.name!r}: minimum_os is {target.minimum_os!r}, expected one of {known} (newer systems load "
            "these files too)."
        )
    return int(found[1])


def _package(
    module: fx.GraphModule,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    constants: Mapping[str, Tensor],
    target: Target,
    module_of: Callable[[str], str | None],
    options: Options,
) -> dict[str, bytes]:
    stored = [options.fed.get(name, name) for name in constants]
    names = {feature_name(name): name for name in (*(spec.name for spec in inputs), *outputs, *stored)}
    try:
        lowered = lower_to_mil(module, inputs, outputs, constants, options)
        return package(lowered, opset=options.opset, metadata={NAMES_KEY: json.dumps(names, sort_keys=True)})
    except RefusedOperatorError as error:
        path = module_of(error.operator)
        where = f"module {path!r}, " if path else ""
        raise UnsupportedOperatorError(
            f"backend 'coreml' cannot lower {error.operator!r} ({where}target {target.name!r}): {error.reason}. "
            "Replace it by operators of torch.nn in common use, or choose an onnxruntime target."
        ) from error
    except UnsupportedOperatorError as error:
        raise UnsupportedOperatorError(
            f"backend 'coreml' cannot lower the model for target {target.name!r}: {error}"
        ) from error
