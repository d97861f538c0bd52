"""Lower a traced graph to an ONNX model: one pass over the fx nodes, one rule an operator.

``torch.onnx.export`` would retrace the step graph three times (44 to 118 s for a MobileNet); a direct lowering takes
about a second, keeps the names, and lets each rule choose the form ONNX Runtime computes fastest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnx
import torch
from onnx import helper
from torch import Tensor, fx

from nagedge.backends import traced
from nagedge.backends.onnx_lowering import compute, elementwise, order, recurrent, scatter, structure
from nagedge.backends.onnx_lowering.builder import DTYPES, GraphBuilder, inner_nodes, reads
from nagedge.backends.onnx_lowering.order import by_depth, ending_in
from nagedge.backends.traced import is_size, rule_of
from nagedge.errors import UnsupportedOperatorError
from nagedge.graphs.cleanup import is_getitem
from nagedge.graphs.milestones import milestones_of
from nagedge.specs import TensorSpec

__all__ = ["lower_to_onnx", "unsupported_operators"]

RULES = {
    **elementwise.RULES, **structure.RULES, **compute.RULES, **recurrent.RULES, **scatter.RULES, **order.RULES,
}  # fmt: skip

MINIMUM_OPSET = 18
_IR_VERSION_OF_OPSET = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10}


def unsupported_operators(module: fx.GraphModule) -> list[str]:
    """Return the names of operators in ``module`` that have no ONNX lowering, each once, in graph order."""
    return traced.unsupported_operators(module, RULES)


def lower_to_onnx(
    module: fx.GraphModule,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    constants: Mapping[str, Tensor],
    *,
    opset: int,
    name: str,
) -> onnx.ModelProto:
    """Return the ONNX model of a traced graph.

    Args:
        module: its placeholders are ``inputs``, then ``constants``. Where milestones are marked
            (:mod:`nagedge.graphs.milestones`), the nodes stand in an order that computes them early.
        inputs: name, dtype and shape of each run-time input.
        outputs: the name each output gets; with milestones the first one has no dimensions.
        constants: stored in the model under their names.
        opset: of the standard ONNX domain, >= 18.
        name: of the graph.

    Raises:
        UnsupportedOperatorError: for an operator without a rule; the text names all of them.
    """
    if opset < MINIMUM_OPSET:
        raise UnsupportedOperatorError(
            f"opset {opset} is too old: the ONNX lowering needs {MINIMUM_OPSET} or newer."
        )
    missing = unsupported_operators(module)
    if missing:
        raise UnsupportedOperatorError(f"no ONNX lowering for {', '.join(missing)}.")
    builder = GraphBuilder()
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    infos = []
    for node, spec in zip(placeholders, inputs, strict=False):
        builder.values[node] = spec.name
        builder.register_symbols(spec.name, node.meta["val"])
        infos.append(
            helper.make_tensor_value_info(spec.name, _onnx_dtype(spec.dtype), _shape(node.meta["val"], spec))
        )
    for node, (constant, tensor) in zip(placeholders[len(inputs) :], constants.items(), strict=True):
        builder.values[node] = constant
        if node.users:
            builder.initializer(constant, tensor.detach().numpy())
    results: list[Any] = []
    for node in module.graph.nodes:
        if node.op == "call_function" and not is_size(node):
            if is_getitem(node):
                builder.values[node] = builder.values[node.args[0]][node.args[1]]
                continue
            rule = rule_of(node, RULES)
            assert rule is not None  # checked above
            builder.values[node] = rule(builder, node)
        elif node.op == "get_attr":  # a constant that a decomposition made
            builder.values[node] = builder.constant(getattr(module, str(node.target)).detach().numpy())
        elif node.op == "output":
            results = list(node.args[0])
    renamed, output_infos = _name_outputs(
        builder, results, outputs, {spec.name for spec in inputs} | set(constants)
    )
    milestones = [builder.tensor(node) for node in milestones_of(module)]
    if milestones:
        last = ending_in(builder, outputs[0], [renamed.get(name, name) for name in milestones])
        builder.nodes[:] = [*by_depth(builder.nodes), *last]
    nodes, initializers = _used(builder, set(outputs))
    graph = helper.make_graph(nodes, name, infos, output_infos, initializers)
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=_IR_VERSION_OF_OPSET.get(opset, 10),
        producer_name="nagedge",
    )
    onnx.checker.check_model(model)
    return model


def _used(builder: GraphBuilder, outputs: set[str]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Return the nodes and initializers without those that nothing reads: a rule may look past its arguments."""
    read = set(outputs)
    nodes = []
    for node in reversed(builder.nodes):
        if not read.isdisjoint(node.output):
            read.update(reads(node))
            nodes.append(node)
    return nodes[::-1], [tensor for tensor in builder.initializers if tensor.name in read]


def _onnx_dtype(name: str) -> int:
    return DTYPES[getattr(torch, name)]


def _shape(fake: Tensor, spec: TensorSpec) -> list[int | str]:
    sizes: Sequence[object] = tuple(fake.shape)
    return [
        str(n) if isinstance(s, torch.SymInt) else int(str(s)) for n, s in zip(spec.shape, sizes, strict=True)
    ]


def _name_outputs(
    builder: GraphBuilder, results: Sequence[Any], outputs: Sequence[str], reserved: set[str]
) -> tuple[dict[str, str], list[onnx.ValueInfoProto]]:
    """Give the outputs their names: rename the tensor where it is computed, copy it where it cannot be renamed.

    Returns:
        New name by old name, and what the graph says of its outputs.
    """
    produced = {output for node in builder.nodes for output in node.output}
    renamed: dict[str, str] = {}
    infos = []
    for result, name in zip(results, outputs, strict=True):
        own = builder.tensor(result)
        if own in produced and own not in renamed and own not in reserved:
            renamed[own] = name
        else:
            builder.nodes.append(
                helper.make_node("Identity", [renamed.get(own, own)], [name], name=f"output.{name}")
            )
        fake = result.meta["val"]
        shape = ["batch" if isinstance(s, torch.SymInt) else int(s) for s in fake.shape]
        infos.append(helper.make_tensor_value_info(name, DTYPES[fake.dtype], shape))
    for outer in builder.nodes:
        for node in (outer, *inner_nodes(outer)):
            for values in (node.input, node.output):
                for i, value in enumerate(values):
                    if value in renamed:
                        values[i] = renamed[value]
    return renamed, infos
