"""Lower a traced graph to a TensorFlow Lite subgraph: one pass over the fx nodes, one rule an operator.

What depends on constants only is computed now, as long as that makes the file no larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import sympy  # type: ignore[import-untyped]  # ships no types
import torch
from torch import Tensor, fx

from nagedge.backends import traced
from nagedge.backends.tflite_lowering import (
    activations,
    convolution,
    elementwise,
    gathers,
    normalization,
    pooling,
    products,
    reductions,
    scatter,
    structure,
)
from nagedge.backends.tflite_lowering.builder import GraphBuilder, stored_dtype
from nagedge.backends.tflite_lowering.finish import finish
from nagedge.backends.tflite_lowering.model import Origin, Subgraph
from nagedge.backends.traced import fake_of, is_size, order_of, rule_of, short_name
from nagedge.errors import UnsupportedOperatorError
from nagedge.graphs.cleanup import is_getitem, operator_name
from nagedge.specs import TensorSpec

__all__ = ["RULES", "RefusedOperatorError", "lower_to_subgraph", "unsupported_operators"]

RULES = {
    **elementwise.RULES, **activations.RULES, **structure.RULES, **gathers.RULES, **products.RULES, **convolution.RULES,
    **pooling.RULES, **reductions.RULES, **normalization.RULES, **scatter.RULES,
}  # fmt: skip
"""Operator, without overload -> ``rule(builder, node) -> value or values``."""

_ALWAYS_FOLDED_BYTES = 1024
_MOVES = {"permute", "transpose", "t"}
_RESHAPES = {"view", "reshape", "_unsafe_view", "unsqueeze", "squeeze"}


class RefusedOperatorError(UnsupportedOperatorError):
    """An operator has a rule, but not for these arguments.

    Attributes:
        operator: such as ``"aten.convolution"``.
        reason: why, and what to do.
    """

    def __init__(self, operator: str, reason: str) -> None:
        super().__init__(f"{operator}: {reason}")
        self.operator, self.reason = operator, reason


def unsupported_operators(module: fx.GraphModule) -> list[str]:
    """Return the names of operators in ``module`` that have no lowering, each once, in graph order."""
    return traced.unsupported_operators(module, RULES)


def lower_to_subgraph(
    module: fx.GraphModule,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    constants: Mapping[str, Tensor],
    *,
    name: str,
    batch: int | None = None,
) -> Subgraph:
    """Return the subgraph of a traced graph.

    Args:
        module: its placeholders are ``inputs``, then ``constants``.
        inputs: name, dtype and shape of each run-time input.
        outputs: the name each output gets.
        constants: stored in the file.
        name: of the subgraph.
        batch: the batch size to fix; None leaves a symbolic one free.

    Raises:
        UnsupportedOperatorError: for an operator without a rule; the text names all of them.
    """
    missing = unsupported_operators(module)
    if missing:
        raise UnsupportedOperatorError(f"no TensorFlow Lite lowering for {', '.join(missing)}.")
    builder = GraphBuilder(batch=batch)
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    named_inputs = {}
    for node, spec in zip(placeholders, inputs, strict=False):
        sizes = builder.sizes(node)
        index = builder.new_tensor("input", spec.dtype, sizes)
        builder.tensors[index].name = spec.name
        builder.symbols.register(index, sizes)
        named_inputs[spec.name] = index
        builder.values[node] = builder.cast(builder.plain(index), stored_dtype(getattr(torch, spec.dtype)))
    for node, (key, tensor) in zip(placeholders[len(inputs) :], constants.items(), strict=True):
        builder.known[node] = tensor.detach()
        builder.origins[node] = Origin(key, tuple(tensor.shape), tuple(range(tensor.dim())))
    results: Sequence[Any] = ()
    for node in module.graph.nodes:
        if node.op == "get_attr":  # a constant that a decomposition made
            builder.known[node] = getattr(module, str(node.target)).detach()
        elif node.op == "output":
            results = node.args[0]
        elif node.op == "call_function" and node.users and not is_size(node):
            _lower_node(builder, node)
    named_outputs = {
        output: _output(builder, result, output, set(named_inputs.values()))
        for output, result in zip(outputs, results, strict=True)
    }
    subgraph = Subgraph(name, builder.tensors, builder.operations, named_inputs, named_outputs)
    return finish(subgraph)


def _lower_node(builder: GraphBuilder, node: fx.Node) -> None:
    if is_getitem(node):
        source = node.args[0]
        if source in builder.values:
            builder.values[node] = builder.values[source][node.args[1]]  # type: ignore[index]
            return
    elif (folded := _fold(builder, node)) is not None:
        builder.known[node] = folded
        origin = _moved_origin(builder, node)
        if origin is not None:
            builder.origins[node] = origin
        return
    rule = rule_of(node, RULES)
    assert rule is not None  # checked before
    builder.exact = short_name(node) in activations.RULES.keys() | normalization.RULES.keys()
    try:
        builder.values[node] = rule(builder, node)
    except UnsupportedOperatorError as error:
        raise RefusedOperatorError(operator_name(node), str(error)) from None


def _fold(builder: GraphBuilder, node: fx.Node) -> Tensor | None:
    """Return a node's value when it depends on constants only and is no larger than they are."""
    if not all(argument in builder.known or is_size(argument) for argument in node.all_input_nodes):
        return None
    if not isinstance(node.meta["val"], torch.Tensor):
        return None
    if not all(isinstance(size, int) for size in builder.sizes(node)):
        return None

    def real(argument: fx.Node) -> Any:
        return builder.known[argument] if argument in builder.known else builder.size(argument)

    budget = sum(_own_bytes(builder.known[a]) for a in node.all_input_nodes if a in builder.known)
    try:
        arguments = fx.node.map_arg(node.args, real)
        keywords = fx.node.map_arg(node.kwargs, real)
        with torch.no_grad():
            value = node.target(*arguments, **keywords)  # type: ignore[operator]
    except (RuntimeError, TypeError, ValueError, sympy.SympifyError):
        return None
    return value if _own_bytes(value) <= max(budget, _ALWAYS_FOLDED_BYTES) else None


def _moved_origin(builder: GraphBuilder, node: fx.Node) -> Origin | None:
    """Return the origin of a known view of a model's tensor, or None for anything else."""
    name = short_name(node)
    source = node.all_input_nodes[0] if len(node.all_input_nodes) == 1 else None
    if source not in builder.origins or name not in _MOVES | _RESHAPES:
        return None
    origin = builder.origins[source]
    if name in _RESHAPES:
        return origin
    shape = builder.known[source].shape
    if tuple(shape) != tuple(origin.shape[axis] for axis in origin.order):
        return None  # its axes are others already
    return replace(origin, order=tuple(origin.order[axis] for axis in order_of(node)))


def _own_bytes(tensor: Tensor) -> int:
    """Return the bytes of a tensor's distinct elements: an expanded axis counts once."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride else 1
    return count * tensor.element_size()


def _output(builder: GraphBuilder, result: fx.Node, name: str, inputs: set[int]) -> int:
    """Return a tensor of its own, named ``name``, in the dtype that torch has."""
    value = builder.of(result)
    wanted = np.dtype(str(fake_of(result).dtype).removeprefix("torch."))
    index = builder.dense(value)
    tensor = builder.tensors[index]
    if tensor.dtype != wanted:
        index = builder.add("CAST", [index], tensor.sizes, wanted)
    elif index in inputs or tensor.data is not None or tensor.name.startswith("output:"):
        index = builder.add("RESHAPE", [index, builder.shape(tensor.sizes)], tensor.sizes, tensor.dtype)
    builder.tensors[index].name = f"output:{name}"
    return index
