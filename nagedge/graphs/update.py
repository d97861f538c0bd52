"""The Nesterov update of all parameters, written so that runtimes compute it in few and large operations.

The reference is :func:`nagedge.training.nesterov.nesterov_step`, parameter by parameter: six to eight operations each,
for a MobileNet about a thousand nodes of a few values. So small tensors are packed into two vectors, one with and one
without weight decay; large ones are updated one by one, as copying them costs more than it saves.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from nagedge.training.nesterov import nesterov_step

__all__ = ["nesterov_update"]

SMALL = 1024
"""Values up to which a tensor is packed: beyond, the copies take longer than the operations that they save."""

Triple = tuple[Tensor, Tensor, Tensor]


def nesterov_update(
    names: Sequence[str],
    params: Sequence[Tensor],
    gradients: Sequence[Tensor],
    velocities: Sequence[Tensor],
    *,
    decayed: Collection[str],
    lr: Tensor,
    momentum: Tensor,
    weight_decay: Tensor,
) -> tuple[list[Tensor], list[Tensor]]:
    """Return the new parameters and the new momentum buffers, in the order of ``names``.

    Args:
        names, params, gradients, velocities: of one length; a parameter, its gradient and its buffer have one shape.
        decayed: names of the parameters to which weight decay applies.
        lr, momentum, weight_decay: without dimensions.
    """
    hyper = {"lr": lr, "momentum": momentum}
    results: dict[str, tuple[Tensor, Tensor]] = {}
    small: dict[bool, dict[str, Triple]] = {True: {}, False: {}}
    for name, *values in zip(names, params, gradients, velocities, strict=True):
        param, gradient, velocity = values
        decays = name in decayed
        if param.numel() <= SMALL:
            small[decays][name] = (param, gradient, velocity)
        else:
            results[name] = _alone(
                param, gradient, velocity, hyper | {"weight_decay": weight_decay if decays else 0.0}
            )
    for decays, triples in small.items():
        results |= _packed(triples, hyper | {"weight_decay": weight_decay if decays else 0.0})
    return [results[name][0] for name in names], [results[name][1] for name in names]


def _packed(
    triples: Mapping[str, Triple], hyper: Mapping[str, Tensor | float]
) -> dict[str, tuple[Tensor, Tensor]]:
    if not triples:
        return {}
    shapes = {name: values[0].shape for name, values in triples.items()}
    param, gradient, velocity = (
        torch.cat([_flat(values[i]) for values in triples.values()]) if len(triples) > 1
        else _flat(next(iter(triples.values()))[i])
        for i in range(3)
    )  # fmt: skip
    updated = nesterov_step(param, gradient, velocity, **hyper)
    sizes = [shape.numel() for shape in shapes.values()]
    parts = [torch.split(value, sizes) if len(sizes) > 1 else (value,) for value in updated]
    return {
        name: (new_param.reshape(shape), new_velocity.reshape(shape))
        for (name, shape), new_param, new_velocity in zip(shapes.items(), *parts, strict=True)
    }


def _alone(
    param: Tensor, gradient: Tensor, velocity: Tensor, hyper: Mapping[str, Tensor | float]
) -> tuple[Tensor, Tensor]:
    """Update one tensor.

    ONNX Runtime multiplies a [1024, 288, 1, 1] tensor by a scalar 13 times slower than a flat one, and to flatten costs
    nothing, but to give a result its shape back is a copy. So such a tensor is multiplied flat, and the last sum of
    each result has its shape.
    """
    if param.shape[-1] != 1:
        return nesterov_step(param, gradient, velocity, **hyper)
    shape = param.shape
    lr, momentum, weight_decay = (hyper[key] for key in ("lr", "momentum", "weight_decay"))
    d = _flat(gradient)
    if isinstance(weight_decay, Tensor):
        d = d + weight_decay * _flat(param)
    new_velocity = (momentum * _flat(velocity)).reshape(shape) + d.reshape(shape)
    change = lr * (d + momentum * _flat(new_velocity))
    return param - change.reshape(shape), new_velocity


def _flat(value: Tensor) -> Tensor:
    return value if value.dim() == 1 else value.reshape(-1)
