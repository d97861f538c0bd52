"""Batch, group, layer and instance normalisation and their gradients, from sums and products.

``x`` is ``[batch, channels, *spatial]``; statistics are over the axes that each function names, with the biased
variance inside the square root (Ioffe and Szegedy 2015; Wu and He 2018; Ba et al. 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from nagedge.graphs.decompositions.tensors import reshape

aten = torch.ops.aten

__all__ = [
    "batch_norm",
    "batch_norm_backward",
    "batch_norm_no_statistics",
    "batch_norm_no_training",
    "batch_norm_with_statistics",
    "group_norm",
    "group_norm_backward",
    "layer_norm",
    "layer_norm_backward",
    "std",
    "std_mean",
    "var",
    "var_mean",
]

Three = tuple[Tensor | None, Tensor | None, Tensor | None]


def _channels(v: Tensor, x: Tensor) -> Tensor:
    """``[channels]`` as ``[1, channels, 1, ..]``; the number of channels may be symbolic (instance norm)."""
    return reshape(v, [1, -1, *[1] * (x.dim() - 2)])


def _others(x: Tensor) -> list[int]:
    return [0, *range(2, x.dim())]


def batch_norm_with_statistics(
    x: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return batch norm with the batch's own statistics and the next running statistics.

        y         = (x - mean) / sqrt(var + eps) * weight + bias
        new_mean  = (1 - momentum) * running_mean + momentum * mean
        new_var   = (1 - momentum) * running_var + momentum * var * count / max(count - 1, 1)

    Same as ``torch.nn.functional.batch_norm(training=True)``, with the statistics returned, not written in place; where
    that refuses a single value a channel, the variance here is 0.

    Args:
        x: ``[batch, channels, *spatial]``, floating.
        running_mean, running_var, weight, bias: ``[channels]``.
        momentum: share of the new statistics, in [0, 1].
        eps: added to the variance.
    """
    y, mean, _ = aten._native_batch_norm_legit.no_stats(x, weight, bias, True, momentum, eps)
    with torch.no_grad():
        centred = x - _channels(mean, x)
        count = _count(x, _others(x))
        var = (centred * centred).mean(_others(x))
        new_mean = running_mean * (1.0 - momentum) + mean * momentum
        new_var = running_var * (1.0 - momentum) + var * (
            count / torch.clamp(count - 1.0, min=1.0) * momentum
        )
    return y, new_mean, new_var


def _count(x: Tensor, over: Sequence[int]) -> Tensor:
    """How many cells a reduction over ``over`` reads, as a tensor: the batch size may be symbolic."""
    static = math.prod(x.shape[d] for d in over if isinstance(x.shape[d], int))
    count = torch.full((), static, dtype=x.dtype, device=x.device)
    for d in over:
        if not isinstance(x.shape[d], int):
            line = x
            for other in reversed([e for e in range(x.dim()) if e != d % x.dim()]):
                line = aten.select.int(line, other, 0)
            count = count * torch.ones_like(line).sum([0])
    return count


def _normalise_batch(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    mean = x.mean(_others(x), keepdim=True)
    centred = x - mean
    var = (centred * centred).mean(_others(x), keepdim=True)
    scale = (var + eps).rsqrt()
    if weight is not None:
        scale = scale * _channels(weight, x)
    y = centred * scale
    if bias is not None:
        y = y + _channels(bias, x)
    return y, reshape(mean, [-1]), reshape(var, [-1])


def batch_norm_no_training(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm with running statistics: one product and one sum an element."""
    scale = (running_var + eps).rsqrt()
    if weight is not None:
        scale = scale * weight
    shift = running_mean * scale
    shift = -shift if bias is None else bias - shift
    empty = x.new_zeros((0,))
    return x * _channels(scale, x) + _channels(shift, x), empty, empty


def batch_norm_no_statistics(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, training: bool, momentum: float, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm with the batch's statistics; returns also its mean and inverse standard deviation."""
    y, mean, var = _normalise_batch(x, weight, bias, eps)
    return y, mean, (var + eps).rsqrt()


def batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``aten.native_batch_norm``; in training its running statistics are not updated here."""
    if training or running_mean is None or running_var is None:
        return batch_norm_no_statistics(x, weight, bias, True, momentum, eps)
    return batch_norm_no_training(x, weight, bias, running_mean, running_var, momentum, eps)


def batch_norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    save_mean: Tensor | None,
    save_invstd: Tensor | None,
    train: bool,
    eps: float,
    output_mask: Sequence[bool],
) -> Three:
    """Gradients of the input, the weight and the bias, in training and with running statistics."""
    over = _others(x)
    if train:
        assert save_mean is not None
        assert save_invstd is not None
        mean, invstd = save_mean, save_invstd
    else:
        assert running_mean is not None
        assert running_var is not None
        mean, invstd = running_mean, (running_var + eps).rsqrt()
    scale = invstd if weight is None else invstd * weight
    grad_x = grad_w = grad_b = None
    total = grad.sum(over) if train or output_mask[2] else None
    if train or output_mask[1]:
        normal = (x - _channels(mean, x)) * _channels(invstd, x)
        dot = (grad * normal).sum(over)
        grad_w = dot if output_mask[1] else None
    if output_mask[0]:
        if train:
            assert total is not None
            inner = grad - (grad.mean(over, keepdim=True) + normal * (grad * normal).mean(over, keepdim=True))
            grad_x = inner * _channels(scale, x)
        else:
            grad_x = grad * _channels(scale, x)
    if output_mask[2]:
        grad_b = total
    return grad_x, grad_w, grad_b


def _group_shape(x: Tensor, channels: int, groups: int) -> list[int]:
    return [-1, groups, channels // groups, math.prod(x.shape[2:])]


def group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    n: int,
    channels: int,
    area: int,
    groups: int,
    eps: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """``aten.native_group_norm``: output, mean ``[batch, groups]`` and inverse standard deviation."""
    per_group = reshape(x, _group_shape(x, channels, groups))
    mean = per_group.mean([2, 3], keepdim=True)
    centred = per_group - mean
    invstd = ((centred * centred).mean([2, 3], keepdim=True) + eps).rsqrt()
    y = reshape(centred * invstd, [-1, *x.shape[1:]])
    if weight is not None:
        y = y * _channels(weight, x)
    if bias is not None:
        y = y + _channels(bias, x)
    return y, reshape(mean, [-1, groups]), reshape(invstd, [-1, groups])


def group_norm_backward(
    grad: Tensor,
    x: Tensor,
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    n: int,
    channels: int,
    area: int,
    groups: int,
    output_mask: Sequence[bool],
) -> Three:
    """Gradients of the input, the weight and the bias of :func:`group_norm`."""
    shape = _group_shape(x, channels, groups)
    scale = reshape(invstd, [-1, groups, 1, 1])
    normal = (reshape(x, shape) - reshape(mean, [-1, groups, 1, 1])) * scale
    outer = reshape(grad, shape)
    grad_x = grad_w = grad_b = None
    if output_mask[0]:
        inner = outer if weight is None else outer * reshape(weight, [1, groups, channels // groups, 1])
        centred = inner - (
            inner.mean([2, 3], keepdim=True) + normal * (inner * normal).mean([2, 3], keepdim=True)
        )
        grad_x = reshape(centred * scale, [-1, *x.shape[1:]])
    if output_mask[1]:
        grad_w = (outer * normal).sum([0, 3])
        grad_w = reshape(grad_w, [channels])
    if output_mask[2]:
        grad_b = grad.sum(_others(grad))
    return grad_x, grad_w, grad_b


def layer_norm(
    x: Tensor, normalized_shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """``aten.native_layer_norm``: output, mean and inverse standard deviation (kept axes of size 1)."""
    over = list(range(-len(normalized_shape), 0))
    mean = x.mean(over, keepdim=True)
    centred = x - mean
    invstd = ((centred * centred).mean(over, keepdim=True) + eps).rsqrt()
    y = centred * invstd
    if weight is not None:
        y = y * weight
    if bias is not None:
        y = y + bias
    return y, mean, invstd


def layer_norm_backward(
    grad: Tensor,
    x: Tensor,
    normalized_shape: Sequence[int],
    mean: Tensor,
    invstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    output_mask: Sequence[bool],
) -> Three:
    """Gradients of the input, the weight and the bias of :func:`layer_norm`."""
    over = list(range(-len(normalized_shape), 0))
    outer = list(range(x.dim() - len(normalized_shape)))
    normal = (x - mean) * invstd
    grad_x = grad_w = grad_b = None
    if output_mask[0]:
        inner = grad if weight is None else grad * weight
        centred = inner - (
            inner.mean(over, keepdim=True) + normal * (inner * normal).mean(over, keepdim=True)
        )
        grad_x = centred * invstd
    if output_mask[1] and weight is not None:
        grad_w = (grad * normal).sum(outer) if outer else grad * normal
    if output_mask[2] and bias is not None:
        grad_b = grad.sum(outer) if outer else grad
    return grad_x, grad_w, grad_b


def var_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """``aten.var_mean.correction`` from sums and means."""
    over = [d % x.dim() for d in dim] if dim else list(range(x.dim()))
    mean = x.mean(over, keepdim=True)
    centred = x - mean
    squares = centred * centred
    lost = 1 if correction is None else correction
    if lost == 0:
        var = squares.mean(over, keepdim=keepdim)
    elif all(isinstance(x.shape[d], int) for d in over):
        var = squares.sum(over, keepdim=keepdim) * (1.0 / (math.prod(x.shape[d] for d in over) - lost))
    else:
        var = squares.sum(over, keepdim=keepdim) / (_count(x, over) - lost)
    return var, (mean if keepdim else x.mean(over))


def var(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """``aten.var.correction``; see :func:`var_mean`."""
    return var_mean(x, dim, correction=correction, keepdim=keepdim)[0]


def std(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> Tensor:
    """Square root of :func:`var`."""
    return torch.sqrt(var(x, dim, correction=correction, keepdim=keepdim))


def std_mean(
    x: Tensor, dim: Sequence[int] | None = None, *, correction: float | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    """``aten.std_mean.correction``; see :func:`var_mean`."""
    variance, mean = var_mean(x, dim, correction=correction, keepdim=keepdim)
    return torch.sqrt(variance), mean
