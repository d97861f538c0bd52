"""The litert and tflite_runtime backends: one ``model.tflite`` with signatures, in builtin operators.

An inference target has the signature ``infer``. A training target has ``train`` as well: state in, state out, under the
names of the traced step. There ``infer`` takes the trained parameters as inputs ``params.<name>`` too, so that it runs
with what was learnt; frozen parameters are constants, and both signatures share them.

Every operator has a version that TensorFlow Lite 2.14 knows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy.typing as npt
from torch import fx

from nagedge.backends.refusal import also, refusal
from nagedge.backends.tflite_lowering import (
    RefusedOperatorError,
    lower_to_subgraph,
    marked,
    serialize,
    unsupported_operators,
)
from nagedge.backends.tflite_lowering.model import Subgraph
from nagedge.graphs.decompositions import CHANNELS_LAST
from nagedge.graphs.inference import InferenceGraph
from nagedge.graphs.train_step import StepGraph
from nagedge.specs import TensorSpec
from nagedge.targets import Target

__all__ = ["DECOMPOSITIONS", "FILE", "INFER", "TRAIN", "lower"]

DECOMPOSITIONS: Mapping[Any, Callable[..., Any]] = CHANNELS_LAST
"""This backend's own decompositions, for :func:`nagedge.graphs.train_step.trace_train_step`."""

FILE, INFER, TRAIN = "model.tflite", "infer", "train"
"""Name of the file, and of its signatures."""


def lower(
    inference: InferenceGraph,
    step: StepGraph | None,
    target: Target,
    *,
    module_of: Callable[[str], str | None] = lambda operator: None,
    calibration: Sequence[Mapping[str, npt.NDArray[Any]]] = (),
) -> dict[str, tuple[str, bytes]]:
    """Return the target's artifacts: role -> (file name, content); both roles of a training target are one file.

    Args:
        inference: the inference graph.
        step: the training step, or None when the target has none.
        target: names precision and batch.
        module_of: the path of the model's module that uses an operator, for the error text.
        calibration: batches of prepared inputs by name, for static quantisation.

    Raises:
        UnsupportedOperatorError: for an operator without a lowering; the text names it, its module and the target.
        ConfigurationError: static quantisation without calibration batches.
    """
    for graph in (inference, step):
        if graph is not None and (missing := unsupported_operators(graph.module)):
            raise refusal(missing[0], also(missing[1:]), target, module_of)
    try:
        subgraphs = _subgraphs(inference, step, target)
    except RefusedOperatorError as error:
        raise refusal(error.operator, f": {error.reason.removesuffix('.')}", target, module_of) from None
    if target.precision == "int8":
        subgraphs = [marked(subgraph) for subgraph in subgraphs]
    content = serialize(subgraphs, half=target.precision == "fp16")
    if target.precision in ("int8", "int8_dynamic"):
        from nagedge.backends.tflite_quantization import quantized

        content = quantized(content, target, calibration)
    artifacts = {"infer": (FILE, content)}
    if step is not None:
        artifacts["train_step"] = (FILE, content)
    return artifacts


def _subgraphs(inference: InferenceGraph, step: StepGraph | None, target: Target) -> list[Subgraph]:
    if step is None:
        return [_infer(inference, (), (), target)]
    train = lower_to_subgraph(
        step.module, step.inputs, step.outputs, step.constants, name=TRAIN, batch=target.batch
    )
    return [_infer(inference, step.trainable, step.updated_buffers, target), train]


def _infer(
    inference: InferenceGraph, params: Sequence[str], buffers: Sequence[str], target: Target
) -> Subgraph:
    """Lower the inference graph; state that training changes becomes an input."""
    module, specs, state = inference.module, list(inference.inputs), dict(inference.state)
    roles = dict.fromkeys(params, "params") | dict.fromkeys(buffers, "buffers")
    moved = [name for name in state if name in roles]
    if moved:
        module = _with_state_as_inputs(inference, moved)
        for name in moved:
            tensor = state.pop(name)
            dtype = str(tensor.dtype).removeprefix("torch.")
            specs.append(TensorSpec(f"{roles[name]}.{name}", dtype, tuple(tensor.shape)))
    return lower_to_subgraph(module, specs, inference.outputs, state, name=INFER, batch=target.batch)


def _with_state_as_inputs(inference: InferenceGraph, moved: Sequence[str]) -> fx.GraphModule:
    """Return the graph with the placeholders of some state tensors right behind those of the inputs."""
    graph = fx.Graph()
    count = len(inference.inputs)
    placeholders = [node for node in inference.module.graph.nodes if node.op == "placeholder"]
    names = list(inference.state)
    state = dict(zip(names, placeholders[count:], strict=True))
    values: dict[fx.Node, fx.Node] = {}
    for node in [
        *placeholders[:count],
        *(state[n] for n in moved),
        *(state[n] for n in names if n not in set(moved)),
    ]:
        values[node] = graph.node_copy(node)
    for node in inference.module.graph.nodes:
        if node.op != "placeholder":
            values[node] = graph.node_copy(node, lambda n: values[n])
    return fx.GraphModule(inference.module, graph)
