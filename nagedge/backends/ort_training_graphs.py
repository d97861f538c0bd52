"""The graphs of ONNX Runtime's on-device training, in the names and the order that its API expects (1.19.2).

The gradients are those of our own trace, so that the runtime's differentiation, which lacks many operators, is never
asked. Operators outside the ONNX standard are two: ``InPlaceAccumulatorV2`` writes a value into a buffer that the
runtime owns, and ``SGDOptimizerV2`` subtracts a multiple of one sequence of tensors from another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from nagedge.backends.onnx_lowering import inner_nodes, lower_to_onnx
from nagedge.graphs.decompositions import decomposition_table
from nagedge.graphs.forward import TRACED_BATCH, trace
from nagedge.graphs.gradients import GradientGraph
from nagedge.graphs.inference import InferenceGraph
from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.tasks import target_spec, total_loss

__all__ = ["DECAYED_RANK", "eval_model", "optimizer_model", "training_model"]

DECAYED_RANK = 2
"""Weight decay applies to parameters of this many dimensions or more."""

_DOMAIN = "com.microsoft"
_HIGHEST_RANK = 8
_RESET = "lazy_reset_grad"


def training_model(gradients: GradientGraph, opset: int) -> onnx.ModelProto:
    """Return the training model: forward pass, losses, and the gradients added to the runtime's buffers.

    Inputs, in the order that upstream's ``Module`` takes them: the model's inputs, ``target.<task>``,
    ``sample_weight``; ``params.<name>`` and ``buffers.<name>`` (from the checkpoint, without and with a value that the
    step replaces); ``params.<name>_grad.accumulation.buffer``; ``lazy_reset_grad``.
    Outputs: ``loss``, ``loss.<task>``; then flags that the runtime keeps to itself.
    """
    model = lower_to_onnx(
        gradients.module,
        gradients.inputs,
        gradients.outputs,
        gradients.constants,
        opset=opset,
        name="training_model",
    )
    graph = model.graph
    specs = {spec.name: spec for spec in gradients.inputs}
    results = list(graph.output)
    del graph.output[:]
    graph.output.extend(o for o in results if o.name == "loss" or o.name.startswith("loss."))
    for result in results:
        if result.name.startswith("gradient."):
            name = f"params.{result.name.removeprefix('gradient.')}"
            buffer = f"{name}_grad.accumulation.buffer"
            shape = [int(size) for size in specs[name].shape]
            graph.input.append(helper.make_tensor_value_info(buffer, TensorProto.FLOAT, shape))
            _accumulate(graph, buffer, result.name, _RESET, f"{name}_grad.accumulation.out")
        elif result.name.startswith("next.buffers."):
            # It overwrites a buffer of the checkpoint in place too: the runtime has no other way to update one.
            name = result.name.removeprefix("next.")
            _accumulate(
                graph, name, result.name, _overwrite_after(graph, name), f"{name}_grad.accumulation.out"
            )
    graph.input.append(helper.make_tensor_value_info(_RESET, TensorProto.BOOL, [1]))
    model.opset_import.append(helper.make_opsetid(_DOMAIN, 1))
    return model


def _accumulate(graph: onnx.GraphProto, buffer: str, value: str, overwrite: str, flag: str) -> None:
    graph.node.append(
        helper.make_node(
            "InPlaceAccumulatorV2", [buffer, value, overwrite], [flag], name=flag, domain=_DOMAIN
        )
    )
    # Upstream hides outputs of this name from its users.
    graph.output.append(helper.make_tensor_value_info(flag, TensorProto.BOOL, [1]))


def _overwrite_after(graph: onnx.GraphProto, buffer: str) -> str:
    """Return a flag, always true, that is known only after every node has read ``buffer``.

    A buffer is overwritten in place, in an order that nothing else would fix: one that several nodes read could change
    before the last of them. The flag is made of what they compute.
    """
    readers = [node for node in graph.node if buffer in node.input]
    if len(readers) < 2:
        return _overwrite(graph)
    axes = f"{buffer}/all"
    graph.initializer.append(numpy_helper.from_array(np.asarray([], np.int64), axes))
    sums = []
    for place, reader in enumerate(readers):
        number, total = f"{buffer}/read.{place}", f"{buffer}/sum.{place}"
        graph.node.append(
            helper.make_node("Cast", [reader.output[0]], [number], to=TensorProto.FLOAT, name=number)
        )
        graph.node.append(helper.make_node("ReduceSum", [number, axes], [total], keepdims=0, name=total))
        sums.append(total)
    above, not_above, flag, known = (f"{buffer}/{part}" for part in ("above", "not_above", "flag", "known"))
    one = f"{buffer}/one"
    graph.initializer.append(numpy_helper.from_array(np.asarray([1], np.int64), one))
    total = f"{buffer}/sums"
    graph.node.extend(
        [
            helper.make_node("Sum", sums, [total], name=total),
            helper.make_node("Greater", [total, sums[0]], [above], name=above),
            helper.make_node("Not", [above], [not_above], name=not_above),
            helper.make_node("Or", [above, not_above], [flag], name=flag),
            helper.make_node("Reshape", [flag, one], [known], name=known),
        ]
    )
    return known


def _overwrite(graph: onnx.GraphProto) -> str:
    name = "constant/overwrite"
    if all(tensor.name != name for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.asarray([True]), name))
    return name


# --- evaluation -----------------------------------------------------------------------------------------------------


def eval_model(
    inference: InferenceGraph, gradients: GradientGraph, tasks: Sequence[TaskSpec], opset: int
) -> onnx.ModelProto:
    """Return the eval model: the losses as the training model names them, then the outputs by task name.

    Its inputs are the training model's without gradient buffers and ``lazy_reset_grad``, in the same order: the
    runtime feeds both models from one list of parameters.
    """
    model = lower_to_onnx(
        inference.whole, inference.inputs, inference.outputs, inference.state, opset=opset, name="eval_model"
    )
    graph = model.graph
    specs = {spec.name: spec for spec in gradients.inputs}
    renamed = {
        spec.name.partition(".")[2]: spec.name
        for spec in gradients.inputs
        if spec.name.startswith(("params.", "buffers."))
    }
    _rename(graph, renamed, prefix="")
    kept = [tensor for tensor in graph.initializer if tensor.name not in specs]
    del graph.initializer[:]
    graph.initializer.extend(kept)
    losses = _losses(inference, tasks, opset).graph
    # What the two graphs share are the outputs by task; everything else of the losses gets names of its own.
    shared = {info.name: info.name for info in (*losses.input, *losses.output)}
    _rename(losses, shared, prefix="losses/")
    graph.node.extend(losses.node)
    graph.initializer.extend(losses.initializer)
    outputs = list(graph.output)
    del graph.output[:]
    graph.output.extend([*losses.output, *outputs])
    infos = {info.name: info for info in (*graph.input, *losses.input)}
    del graph.input[:]
    graph.input.extend(infos[name] if name in infos else _info(spec) for name, spec in specs.items())
    return model


def _losses(inference: InferenceGraph, tasks: Sequence[TaskSpec], opset: int) -> onnx.ModelProto:
    """Return the losses as a graph of the outputs, the targets and the sample weights."""
    results: Any = next(node for node in inference.whole.graph.nodes if node.op == "output").args[0]
    outputs = []
    for name, result in zip(inference.outputs, results, strict=True):
        fake = result.meta["val"]
        shape: tuple[int | str, ...] = (BATCH, *(int(size) for size in fake.shape[1:]))
        outputs.append(TensorSpec(name, str(fake.dtype).removeprefix("torch."), shape))
    targets = [target_spec(task) for task in tasks]
    specs = [
        *outputs,
        *(
            TensorSpec(f"target.{task.name}", t.dtype, t.shape)
            for task, t in zip(tasks, targets, strict=True)
        ),
        TensorSpec("sample_weight", "float32", (BATCH,)),
    ]

    def losses(*flat: Tensor) -> list[Tensor]:
        by_task = dict(zip(inference.outputs, flat, strict=False))
        wanted = dict(zip((task.name for task in tasks), flat[len(outputs) :], strict=False))
        total, each = total_loss(tasks, by_task, wanted, flat[-1])
        return [total, *(each[task.name] for task in tasks)]

    size = TRACED_BATCH if inference.batch is None else inference.batch
    examples = [
        torch.zeros([size if s == BATCH else int(s) for s in spec.shape], dtype=getattr(torch, spec.dtype))
        for spec in specs
    ]
    module, _ = trace(
        losses, examples, [True] * len(examples), batch=inference.batch, decompositions=decomposition_table()
    )
    names = ["loss", *(f"loss.{task.name}" for task in tasks)]
    return lower_to_onnx(module, specs, names, {}, opset=opset, name="losses")


def _info(spec: TensorSpec) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, dtype, list(spec.shape))


def _rename(graph: onnx.GraphProto, names: Mapping[str, str], *, prefix: str) -> None:
    """Rename tensors by ``names``, and put ``prefix`` before all others; in place."""

    def new(name: str) -> str:
        return names.get(name, prefix + name) if name else name  # "" is an input left out

    for node in graph.node:
        node.name = prefix + node.name
        for values in (node.input, node.output):
            for i, value in enumerate(values):
                values[i] = new(value)
        for inner in inner_nodes(node):  # their own tensors have names that no other graph has
            for i, value in enumerate(inner.input):
                inner.input[i] = names.get(value, value)
    for tensor in graph.initializer:
        tensor.name = new(tensor.name)


# --- the update -----------------------------------------------------------------------------------------------------


def optimizer_model(parameters: int, *, momentum: float, weight_decay: float, opset: int) -> onnx.ModelProto:
    """Return the optimizer model: Nesterov SGD for all parameters at once.

        d  = gradient + weight_decay * parameter
        b' = momentum * b + d
        p' = p - learning_rate * (d + momentum * b')

    The runtime ships AdamW and plain SGD only. Two facts make Nesterov possible in it. It knows the optimizer by
    exactly one ``SGDOptimizerV2`` node at the top level, and for that kind it keeps one state tensor a parameter, feeds
    them as the sequence ``first_order_moments`` and saves them in the checkpoint. And ``SGDOptimizerV2(lr, x, y)``
    computes ``x - lr * y`` in place, whatever the sequence ``x`` is. So a second one, hidden in the branches of an
    ``If``, writes the momentum buffers: ``b - 1 * (b - b')``. Both work on copies made before (``SequenceAt``
    copies), so that their order does not matter. The condition must not be constant, else it is inlined; its result
    must be used, else it is removed.

    The order of the parameters in the sequences is the runtime's own, so that nothing here may depend on which
    parameter comes where: weight decay goes by the number of dimensions.

    Args:
        parameters: how many are trained, >= 1.
        momentum: in [0, 1); the constant ``momentum``.
        weight_decay: >= 0; the constant ``weight_decay`` holds the factor by number of dimensions.
        opset: of ai.onnx.
    """
    builder = _Builder()
    mu = builder.constant("momentum", np.float32(momentum))
    ranks = np.arange(_HIGHEST_RANK + 1)
    decay = builder.constant(
        "weight_decay", np.where(ranks >= DECAYED_RANK, weight_decay, 0).astype(np.float32)
    )
    flat = builder.constant("flat", np.asarray([-1], np.int64))
    buffer_changes, steps = [], []
    for i in range(parameters):
        at = builder.constant(f"index.{i}", np.int64(i))
        param = builder.node("SequenceAt", ["params", at], f"param.{i}")
        shape = builder.node("Shape", [param], f"shape.{i}")
        factor = builder.node("Gather", [decay, builder.node("Size", [shape], f"rank.{i}")], f"factor.{i}")

        def flattened(sequence: str, index: int = i, place: str = at) -> str:
            # ONNX Runtime multiplies a [1024, 288, 1, 1] tensor by a scalar 13 times slower than a flat one.
            item = builder.node("SequenceAt", [sequence, place], f"{sequence}.{index}")
            return builder.node("Reshape", [item, flat], f"{sequence}.flat.{index}")

        p = builder.node("Reshape", [param, flat], f"param.flat.{i}")
        gradient, b = flattened("gradients"), flattened("first_order_moments")
        d = builder.node("Add", [gradient, builder.node("Mul", [p, factor], f"decay.{i}")], f"d.{i}")
        new_b = builder.node("Add", [builder.node("Mul", [b, mu], f"kept.{i}"), d], f"b.{i}")
        change = builder.node("Sub", [b, new_b], f"change.{i}")
        step = builder.node("Add", [d, builder.node("Mul", [new_b, mu], f"ahead.{i}")], f"step.{i}")
        buffer_changes.append(builder.node("Reshape", [change, shape], f"change.shaped.{i}", allowzero=1))
        steps.append(builder.node("Reshape", [step, shape], f"step.shaped.{i}", allowzero=1))
    builder.node("SequenceConstruct", buffer_changes, "buffer_changes")
    builder.node("SequenceConstruct", steps, "steps")
    builder.constant("one", np.ones(1, np.float32))
    builder.constant("vector", np.ones(1, np.int64))
    always = builder.node(
        "Greater", ["step", builder.constant("never", np.asarray([-1], np.int64))], "always"
    )
    branches = {f"{name}_branch": _buffer_update(name) for name in ("then", "else")}
    builder.node("If", [always], "buffers_updated", **branches)
    done = builder.node("Cast", ["buffers_updated"], "buffers_done", to=TensorProto.BOOL)
    builder.node("SGDOptimizerV2", ["learning_rate", "params", "steps"], "params_done", domain=_DOMAIN)
    builder.node("Or", [done, "params_done"], "updated")
    sequences = [
        helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, None)
        for name in ("params", "gradients", "first_order_moments")
    ]
    graph = helper.make_graph(
        builder.nodes,
        "optimizer_model",
        [
            helper.make_tensor_value_info("learning_rate", TensorProto.FLOAT, [1]),
            helper.make_tensor_value_info("step", TensorProto.INT64, [1]),
            *sequences,
        ],
        [helper.make_tensor_value_info("updated", TensorProto.BOOL, [1])],
        builder.constants,
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid(_DOMAIN, 1)],
        ir_version=8,
        producer_name="nagedge",
    )


class _Builder:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Any) -> str:
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=output, **attributes))
        return output


def _buffer_update(name: str) -> onnx.GraphProto:
    """Return the branch that writes the momentum buffers.

    Cast and Reshape: the operator's inferred output shape, [], and its real one, [1], disagree.
    """
    flag, number, result = (f"{name}.{part}" for part in ("flag", "number", "result"))
    return helper.make_graph(
        [
            helper.make_node(
                "SGDOptimizerV2",
                ["one", "first_order_moments", "buffer_changes"],
                [flag],
                name=flag,
                domain=_DOMAIN,
            ),
            helper.make_node("Cast", [flag], [number], to=TensorProto.FLOAT, name=number),
            helper.make_node("Reshape", [number, "vector"], [result], name=result),
        ],
        name,
        [],
        [helper.make_tensor_value_info(result, TensorProto.FLOAT, [1])],
    )
