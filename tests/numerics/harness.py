"""Trace gradients through the decompositions with a symbolic batch and compare with torch's own autograd."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call, functionalize, grad
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel

from nagedge.graphs.decompositions import PORTABLE_OPS, decomposition_table


def op_names(graph: GraphModule) -> set[str]:
    """Operator names, overloads dropped, of every call in the graph."""
    return {
        node.target.overloadpacket.__name__ if isinstance(node.target, torch._ops.OpOverload) else str(node.target)
        for node in graph.graph.nodes
        if node.op == "call_function"
    }


def trace(
    function: Callable[..., object],
    params: Sequence[Tensor],
    inputs: Sequence[Tensor],
    overrides: Mapping[object, object] | tuple[()] = (),
) -> GraphModule:
    shape_env = ShapeEnv()
    mode = FakeTensorMode(shape_env=shape_env, allow_non_fake_inputs=True)
    fakes = []
    for x in inputs:
        sizes = [DimDynamic.DYNAMIC, *[DimDynamic.STATIC] * (x.dim() - 1)]
        fakes.append(mode.from_tensor(x, symbolic_context=StatelessSymbolicContext(dynamic_sizes=sizes)))
    static = [
        mode.from_tensor(
            p, symbolic_context=StatelessSymbolicContext(dynamic_sizes=[DimDynamic.STATIC] * p.dim())
        )
        for p in params
    ]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), torch.backends.mkldnn.flags(enabled=False):
            graph = make_fx(
                functionalize(function),
                decomposition_table=decomposition_table(overrides),
                tracing_mode="real",
                _allow_non_fake_inputs=True,
            )(*static, *fakes)
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def check(
    model: nn.Module | Callable[..., object],
    inputs: Callable[[int], Sequence[Tensor]],
    *,
    overrides: Mapping[object, object] | tuple[()] = (),
    batches: Sequence[int] = (3, 5, 1),
    differentiable: Sequence[int] | None = None,
    portable: bool = True,
) -> GraphModule:
    """Check gradients of ``sum(out * cotangent)`` and the forward pass at several batch sizes, in float64.

    Args:
        model: module (its parameters are differentiated too) or function.
        inputs: batch size -> float64 (or integer) tensors, axis 0 of each being the batch.
        batches: the first one is traced.
    """
    if isinstance(model, nn.Module):
        model = model.double()
        names = [n for n, _ in model.named_parameters()]
        params = [p.detach().clone() for p in model.parameters()]
    else:
        names, params = [], []
    k = len(names)

    def forward(*flat: Tensor) -> tuple[Tensor, ...]:
        if isinstance(model, nn.Module):
            out = functional_call(model, dict(zip(names, flat[:k], strict=True)), tuple(flat[k:]))
        else:
            out = model(*flat)
        return tuple(out) if isinstance(out, (tuple, list)) else (out,)

    with torch.no_grad():
        example = inputs(batches[0])
        outs = forward(*params, *example)
        torch.manual_seed(1)
        cotangents = [torch.randn([1, *o.shape[1:]], dtype=torch.float64) if o.dim() else torch.randn((), dtype=torch.float64) for o in outs]

    def loss(*flat: Tensor) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for o, c in zip(forward(*flat), cotangents, strict=True):
            total = total + (o * c).sum()
        return total

    wanted = [*range(k)]
    for i, x in enumerate(example):
        if x.is_floating_point() and (differentiable is None or i in differentiable):
            wanted.append(k + i)

    def gradients(*flat: Tensor) -> tuple[Tensor, ...]:
        return grad(loss, argnums=tuple(wanted))(*flat)

    backward = trace(gradients, params, example, overrides)
    ahead = trace(forward, params, example, overrides)
    for batch in batches:
        flat = [*params, *inputs(batch)]
        leaves = [t.clone().requires_grad_(i in wanted) for i, t in enumerate(flat)]
        value = loss(*leaves)
        expected = torch.autograd.grad(value, [leaves[i] for i in wanted], allow_unused=True)
        got = backward(*flat)
        for i, g, e in zip(wanted, got, expected, strict=True):
            e = torch.zeros_like(leaves[i]) if e is None else e
            assert g.shape == e.shape, (i, g.shape, e.shape)
            torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-11)
        with torch.no_grad():
            for g, e in zip(ahead(*flat), forward(*flat), strict=True):
                torch.testing.assert_close(g, e, rtol=1e-9, atol=1e-11)
    if portable:
        foreign = (op_names(backward) | op_names(ahead)) - PORTABLE_OPS
        assert not foreign, sorted(foreign)
    return backward
