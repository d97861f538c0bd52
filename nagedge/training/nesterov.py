"""The Nesterov SGD update: a slow readable reference, and which parameters decay."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

__all__ = ["is_decayed", "nesterov_step", "parameter_groups"]


def nesterov_step(
    param: Tensor,
    grad: Tensor,
    momentum_buffer: Tensor,
    *,
    lr: float | Tensor,
    momentum: float | Tensor,
    weight_decay: float | Tensor = 0.0,
) -> tuple[Tensor, Tensor]:
    """Return the parameter and the momentum buffer after one Nesterov SGD step.

        d  = grad + weight_decay * param
        b' = momentum * momentum_buffer + d
        p' = param - lr * (d + momentum * b')

    Same update as ``torch.optim.SGD(nesterov=True, dampening=0)`` (Sutskever et al. 2013). Training runs
    torch's own fused one; this one is for reading and for tests.

    Args:
        param, grad, momentum_buffer: floating, one common shape. Zeros in the buffer mean "first step".
        lr: step size, >= 0; like the next two a number or a tensor without dimensions.
        momentum: in (0, 1).
        weight_decay: factor of the parameter that is added to its gradient, >= 0.
    """
    no_decay = not isinstance(weight_decay, Tensor) and weight_decay == 0.0  # then nothing for it is traced
    d = grad if no_decay else grad + weight_decay * param
    new_buffer = momentum * momentum_buffer + d
    return param - lr * (d + momentum * new_buffer), new_buffer


def is_decayed(name: str, param: Tensor) -> bool:
    """Return whether weight decay applies: to weights of two or more dimensions, not to norms and biases.

    The dimension decides, not the name, so that it holds for every module: biases, and the scales and
    offsets of normalisation layers, are vectors.
    """
    del name
    return param.dim() >= 2


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters in groups with and without weight decay, each in the model's order.

    The groups have the form that ``torch.optim.SGD`` takes: ``"params"`` and ``"weight_decay"``.
    """
    groups: list[dict[str, Any]] = []
    for decayed in (True, False):
        params = [
            param
            for name, param in model.named_parameters()
            if param.requires_grad and is_decayed(name, param) is decayed
        ]
        if params:
            groups.append({"params": params, "weight_decay": weight_decay if decayed else 0.0})
    return groups
