"""One traced graph for every backend.

Operators that backends decompose in their own ways stay whole while tracing and are expanded afterwards, node by node:
tracing a training step costs seconds, expanding the few dozen operators that differ a fraction of it.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.fx.experimental.proxy_tensor import (
    ProxyTorchDispatchMode,
    PythonKeyTracer,
    get_proxy_slot,
    track_tensor_tree,
)
from torch.utils._pytree import tree_map_only

from nagedge.graphs.cleanup import clean
from nagedge.graphs.decompositions import beside_branches, decomposition_table
from nagedge.graphs.decompositions.pointwise_rows import is_branch
from nagedge.graphs.forward import FixedBatchError
from nagedge.graphs.graph_modules import graph_module
from nagedge.graphs.pooled_masks import mask_before_spreading
from nagedge.graphs.train_step import StepGraph, select_outputs

__all__ = ["constant_nodes", "expanded", "specialize"]

Rule = Callable[..., Any]

aten = torch.ops.aten

_WEIGHTS: Mapping[Any, int] = {aten.convolution.default: 1}
"""Operators whose rules are told whether their weights are constants, which runtimes prepare; and which argument
these are.
"""


def specialize(step: StepGraph, overrides: Mapping[Any, Rule]) -> StepGraph:
    """Return ``step`` with its deferred operators expanded by a backend's rules.

    Args:
        step: traced with ``deferred`` operators; unchanged.
        overrides: the backend's own rules above the portable table.

    Raises:
        FixedBatchError: the step's batch is symbolic, but a rule fixes it.
    """
    module = select_outputs(step.traced, range(len(step.all_outputs)))
    mask_before_spreading(module)
    constants = constant_nodes(module, len(step.inputs))
    branched = any(_is_branch(node, constants) for node in module.graph.nodes)
    table = decomposition_table(beside_branches(overrides) if branched else overrides)
    inner = {operator: rule for operator, rule in table.items() if operator not in _WEIGHTS}
    known: dict[Hashable, fx.GraphModule] = {}
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in step.deferred and node.target in table:
            weights = _WEIGHTS.get(node.target)
            own, is_constant = inner, False
            if weights is not None:
                is_constant = node.args[weights] in constants
                own = inner | {node.target: partial(table[node.target], constant_weights=is_constant)}
            mode = _expand(module, node, own, known, is_constant=is_constant)
            if step.batch is None and _is_fixed(mode):
                raise FixedBatchError(f"a rule for {node.target} fixes the batch size")
    clean(module, differentiated=True)
    return replace(
        step, module=select_outputs(module, range(len(step.outputs))), traced=module, deferred=frozenset()
    )


def expanded(module: fx.GraphModule, rules: Mapping[Any, Rule]) -> fx.GraphModule:
    """Return ``module`` with the operators of ``rules`` expanded; itself where it has none of them."""
    if not any(node.target in rules for node in module.graph.nodes):
        return module
    outputs = next(node for node in module.graph.nodes if node.op == "output").args[0]
    assert isinstance(outputs, (list, tuple))  # a traced graph returns a list
    module = select_outputs(module, range(len(outputs)))
    table = decomposition_table(rules)
    known: dict[Hashable, fx.GraphModule] = {}
    for node in list(module.graph.nodes):
        if node.op == "call_function" and node.target in rules:
            _expand(module, node, table, known, is_constant=False)
    clean(module, differentiated=True)
    return module


def constant_nodes(module: fx.GraphModule, inputs: int) -> set[fx.Node]:
    """Return the nodes that depend on constants alone; the first ``inputs`` placeholders are none."""
    found: set[fx.Node] = set()
    for index, node in enumerate(module.graph.nodes):
        given = node.op == "get_attr" or (node.op == "placeholder" and index >= inputs)
        if given or (
            node.op == "call_function" and node.all_input_nodes and found >= set(node.all_input_nodes)
        ):
            found.add(node)
    return found


def _is_branch(node: fx.Node, constants: set[fx.Node]) -> bool:
    """Whether a node is a convolution with trained weights that ONNX Runtime computes on rows."""
    if node.target is not aten.convolution.default or node.args[1] in constants:
        return False
    x, w, _, stride, padding, _, transposed, _, groups = node.args
    given: Any = (x.meta["val"], w.meta["val"], stride, padding, groups)  # type: ignore[union-attr]
    return not transposed and is_branch(*given)


def _is_fixed(mode: FakeTensorMode) -> bool:
    """Whether what has been traced so far allows one batch size only."""
    return mode.shape_env is not None and any(size.is_number for size in mode.shape_env.replacements.values())


def _signature(node: fx.Node, inputs: Sequence[fx.Node], *, is_constant: bool) -> Hashable:
    """Return what the expansion of a node depends on: operator, arguments, shapes, strides and dtypes."""
    places = {value: index for index, value in enumerate(inputs)}
    given = fx.map_arg((node.args, node.kwargs), lambda used: ("node", places[used]))
    fakes = [(v.dtype, str(v.shape), str(v.stride())) for v in (value.meta["val"] for value in inputs)]
    return node.target, repr(given), repr(fakes), is_constant


def _expand(
    module: fx.GraphModule,
    node: fx.Node,
    table: Mapping[Any, Rule],
    known: dict[Hashable, fx.GraphModule],
    *,
    is_constant: bool,
) -> FakeTensorMode:
    """Replace ``node`` by the graph of its rule, traced on the fake tensors that the node was traced with.

    Args:
        module: changed in place.
        node: of the module.
        table: decompositions.
        known: expansions so far: a net repeats its layers, and tracing one takes hundredths of a second.
        is_constant: whether the node has weights that are constants.

    Returns:
        The mode of these tensors, which knows what the rule demanded of the batch size.
    """
    inputs = list(dict.fromkeys(node.all_input_nodes))
    target: Any = node.target

    def rule(*values: Any) -> Any:
        known = dict(zip(inputs, values, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda used: known[used])
        return target(*args, **kwargs)

    fakes = [value.meta["val"] for value in inputs]
    mode = next(fake.fake_mode for fake in fakes if isinstance(fake, FakeTensor))
    signature = _signature(node, inputs, is_constant=is_constant)
    expansion = known.get(signature)
    if expansion is None:
        with torch.no_grad(), mode, enable_python_dispatcher():
            # Copies of one expansion share their fake tensors, by which a tracer tells its inputs apart.
            expansion = _recorded(rule, [fake.detach() for fake in fakes], table)
        known[signature] = expansion
    placeholders = [inner for inner in expansion.graph.nodes if inner.op == "placeholder"]
    values: dict[fx.Node, Any] = dict(zip(placeholders, inputs, strict=True))
    with module.graph.inserting_before(node):
        for inner in expansion.graph.nodes:
            if inner.op == "get_attr":
                values[inner] = _constant(module, getattr(expansion, str(inner.target)), inner)
            elif inner.op == "call_function":
                values[inner] = module.graph.node_copy(inner, lambda used: values[used])
    output = next(inner for inner in expansion.graph.nodes if inner.op == "output")
    results = fx.map_arg(output.args[0], lambda used: values[used])
    if isinstance(results, fx.Node):
        node.replace_all_uses_with(results)
    else:
        for user in list(node.users):
            chosen = results[user.args[1]]
            user.replace_all_uses_with(chosen)
            module.graph.erase_node(user)
    module.graph.erase_node(node)
    return mode


def _recorded(rule: Callable[..., Any], fakes: Sequence[Tensor], table: Mapping[Any, Rule]) -> fx.GraphModule:
    """Return what ``rule`` computes of ``fakes`` as a graph, as ``make_fx`` would, which takes 3 ms to start.

    That time goes into patches of ``nn.Module`` and into watching calls of torch's functions; but a rule has no
    modules, and nobody asks which function an operator came from.
    """
    tracer = PythonKeyTracer()
    tracer.root, tracer.graph, tracer.tensor_attrs = nn.Module(), fx.Graph(tracer_cls=PythonKeyTracer), {}
    places = [tracer.create_proxy("placeholder", f"input{index}", (), {}) for index in range(len(fakes))]
    track_tensor_tree(list(fakes), places, constant=None, tracer=tracer)
    with ProxyTorchDispatchMode(tracer, "real", decomposition_table=dict(table)):
        results = rule(*fakes)
    tracer.graph.output(
        tree_map_only(Tensor, lambda value: get_proxy_slot(value, tracer).proxy.node, results)
    )
    tracer.graph.eliminate_dead_code()
    return graph_module(tracer.root, tracer.graph)


def _constant(module: fx.GraphModule, tensor: Any, node: fx.Node) -> fx.Node:
    """Make a constant of an expansion one of the module's; the node stands where the graph is inserting."""
    name = f"_expanded_constant{sum(key.startswith('_expanded_constant') for key in dir(module))}"
    module.register_buffer(name, tensor)
    constant = module.graph.get_attr(name)
    constant.meta = dict(node.meta)
    return constant
