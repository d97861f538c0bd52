"""Trace gradients through the decompositions with a symbolic batch and compare with torch's own autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.fx import GraphModule

from nagedge.graphs.cleanup import clean
from nagedge.graphs.decompositions import FORWARD, PORTABLE_OPS, decomposition_table, whole_interpolations
from nagedge.graphs.decompositions.recurrent_modules import by_layer
from nagedge.graphs.forward import trace
from nagedge.graphs.products import merge_products

Inputs = Callable[[int], Sequence[Tensor]]


def normal(*shape: int, count: int = 1) -> Inputs:
    """Return ``batch -> count`` standard normal float64 tensors ``[batch, *shape]``, seeded by the batch size."""

    def make(batch: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(batch)
        return [torch.randn(batch, *shape, dtype=torch.float64, generator=generator) for _ in range(count)]

    return make


def op_names(graph: GraphModule) -> set[str]:
    """Operator names, overloads dropped, of every call in the graph."""
    return {
        node.target.overloadpacket.__name__
        if isinstance(node.target, torch._ops.OpOverload)
        else node.target.__name__
        for node in graph.graph.nodes
        if node.op == "call_function"
    }


def lift_constants(graph: GraphModule) -> tuple[GraphModule, list[Tensor]]:
    """Turn the tensors that the forward pass made into trailing inputs, as the exporter does."""
    constants: list[Tensor] = []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in [n for n in graph.graph.nodes if n.op == "get_attr"]:
        constants.append(getattr(graph, str(node.target)).detach().clone())
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"constant_{len(constants)}")
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
    return GraphModule(nn.Module(), graph.graph), constants


def check(
    model: nn.Module | Callable[..., Any],
    inputs: Inputs,
    *,
    overrides: Mapping[Any, Any] | tuple[()] = (),
    batches: Sequence[int] = (2, 5, 1),
    batch_axis: int = 0,
    rtol: float = 1e-9,
    atol: float = 1e-11,
) -> GraphModule:
    """Check the forward pass and the gradients of ``sum(out * cotangent)`` at several batch sizes, in float64.

    The forward pass is traced once, as the exporter does, then its gradients and itself are traced through the
    decompositions, with a symbolic batch; every operator left must be portable.

    Args:
        model: a module, whose parameters are differentiated too, or a function.
        inputs: batch size -> tensors with the batch on axis 0; gradients are taken for the floating ones.
        overrides: a backend's own decompositions.
        batches: sizes to run the traced graph at; the traced size is another one.
        batch_axis: axis of the outputs that holds the batch.

    Returns:
        The graph of the gradients.
    """
    if isinstance(model, nn.Module):
        model = model.double()
        names = [name for name, _ in model.named_parameters()]
        params = [p.detach().clone() for p in model.parameters()]
    else:
        names, params = [], []
    k = len(names)

    def forward(*flat: Tensor) -> list[Tensor]:
        if isinstance(model, nn.Module):
            out = functional_call(model, dict(zip(names, flat[:k], strict=True)), tuple(flat[k:]))
        else:
            out = model(*flat)
        return [o for o in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(o, Tensor)]

    examples = [*params, *inputs(batches[0])]
    dynamic = [False] * k + [True] * (len(examples) - k)
    with torch.no_grad(), whole_interpolations():
        outs = forward(*examples)
        generator = torch.Generator().manual_seed(0)
        cotangents = []
        for out in outs:
            shape = list(out.shape)
            if shape:
                shape[batch_axis] = 1
            cotangents.append(torch.randn(shape, dtype=torch.float64, generator=generator))
        captured, symbolic = trace(
            forward, examples, dynamic, batch=None, decompositions=FORWARD, whole_layers=True
        )
    assert symbolic, "the forward pass fixed the batch size"
    clean(captured)
    captured, constants = lift_constants(captured)
    captured = by_layer(merge_products(captured))
    wanted = [i for i, x in enumerate(examples) if x.is_floating_point()]
    traced = [*examples, *constants]
    dynamic += [False] * len(constants)

    def loss(run: Callable[..., Sequence[Tensor]], flat: Sequence[Tensor]) -> Tensor:
        parts = [(o * c).sum() for o, c in zip(run(*flat), cotangents, strict=True)]
        return torch.stack(parts).sum() if len(parts) > 1 else parts[0]

    def gradients(*flat: Tensor) -> tuple[Tensor, ...]:
        return grad(lambda *args: loss(captured, args), argnums=tuple(wanted))(*flat)

    table = decomposition_table(overrides)
    with whole_interpolations():
        backward, backward_symbolic = trace(gradients, traced, dynamic, batch=None, decompositions=table)
    with torch.no_grad(), whole_interpolations():
        ahead, ahead_symbolic = trace(captured, traced, dynamic, batch=None, decompositions=table)
    for graph in (backward, ahead):
        graph.graph.eliminate_dead_code()
        graph.recompile()
    assert backward_symbolic, "a decomposition fixed the batch size of the gradients"
    assert ahead_symbolic, "a decomposition fixed the batch size of the forward pass"
    foreign = (op_names(backward) | op_names(ahead)) - PORTABLE_OPS
    assert not foreign, f"not portable: {sorted(foreign)}"

    for batch in batches:
        flat = [*params, *inputs(batch)]
        leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(flat)]
        value = loss(forward, [leaf.clone() for leaf in leaves])  # a clone may be changed in place
        expected = torch.autograd.grad(value, [leaves[i] for i in wanted], allow_unused=True)
        for i, got, want in zip(wanted, backward(*flat, *constants), expected, strict=True):
            label = f"gradient of {names[i] if i < k else f'input {i - k}'}, batch {batch}: "
            target = torch.zeros_like(leaves[i]) if want is None else want
            torch.testing.assert_close(got, target, rtol=rtol, atol=atol, msg=label.__add__)
        with torch.no_grad():
            for got, want in zip(ahead(*flat, *constants), forward(*flat), strict=True):
                torch.testing.assert_close(got, want, rtol=rtol, atol=atol)
    return backward
