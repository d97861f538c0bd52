"""Is a batch that tracing left symbolic really free?

While it traces, torch decides branches on the size (the model's own, and its choice of kernels) for the size traced and
notes the condition as a guard. A condition that fails at some size means that the graph may differ from the model
there, or not: so the two are run and compared at that size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import ShapeEnv

__all__ = ["doubtful_sizes", "same_at"]

_LOOKED_AT = (*range(2, 66), 96, 100, 128, 192, 200, 256)


def doubtful_sizes(shape_env: ShapeEnv) -> tuple[int, ...]:
    """Return, for every guard that fails at some batch size of two or more, the smallest such size."""
    sizes = set()
    for guard in shape_env.guards:
        symbols = guard.expr.free_symbols
        if len(symbols) != 1:
            continue
        (symbol,) = symbols
        sizes |= set([n for n in _LOOKED_AT if not guard.expr.subs({symbol: n})][:1])
    return tuple(sorted(sizes))


def same_at(
    size: int,
    function: Callable[..., Sequence[Tensor]],
    graph: Callable[..., Sequence[Tensor]],
    arguments: Sequence[Tensor],
    dynamic: Sequence[bool],
) -> bool:
    """Whether ``function`` and its traced ``graph`` agree on a batch of ``size`` rows, drawn from the arguments' rows.

    Args:
        size: the batch size.
        function, graph: take the arguments, return tensors.
        arguments: real tensors.
        dynamic: for each argument, whether its axis 0 is the batch.
    """
    generator = torch.Generator().manual_seed(size)
    resized = []
    for tensor, is_dynamic in zip(arguments, dynamic, strict=True):
        drawn = tensor.detach()
        if is_dynamic:
            drawn = drawn[torch.randint(0, len(drawn), (size,), generator=generator)]
            if drawn.is_floating_point():  # no two rows alike
                drawn = drawn * (1 + 0.1 * torch.rand(size, *[1] * (drawn.dim() - 1), generator=generator))
        resized.append(drawn)
    try:
        with torch.no_grad():
            expected = function(*[tensor.clone() for tensor in resized])
            got = graph(*[tensor.clone() for tensor in resized])
    except Exception:  # the model, or its graph, does not take this size: then the batch is not free
        return False
    return all(
        e.shape == g.shape and bool((e - g).abs().max() <= 1e-3 * e.abs().max().clamp_min(1e-3))
        for e, g in zip(expected, got, strict=True)
    )
