"""The losses: per-sample values with their normalisers, and the weighted mean over a batch.

Everything here is elementwise arithmetic, comparison and reduction: no gather, no scatter, no branch on a value or on
the batch size. One trace of it, with a symbolic batch size, therefore runs on every runtime (TFLite cannot run the
scatter in the gradient of an indexed loss). The values equal those of :mod:`torch.nn.functional` with
``reduction="mean"``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from nagedge.specs import MISSING, LossSpec, TaskSpec

__all__ = ["LOSSES", "ignored_label", "quantile_levels", "weighted_mean", "weighted_sums"]

Loss = Callable[[LossSpec, Tensor, Tensor], tuple[Tensor, Tensor | None]]
"""``(spec, output [batch, size], target) -> (per-sample loss [batch], normaliser [batch])``; ``None`` means ones."""


def ignored_label(task: TaskSpec) -> int:
    """Return the label that means "no label" for a classification task."""
    return (
        task.loss.ignore_index if isinstance(task.loss, LossSpec) else LossSpec("cross_entropy").ignore_index
    )


def weighted_mean(loss: Tensor, normaliser: Tensor | None, sample_weight: Tensor | None) -> Tensor:
    """Return ``sum_i w_i l_i / sum_i w_i n_i``, and 0 when the denominator is 0.

    Args:
        loss: ``[batch]``, floating.
        normaliser: ``[batch]``, the dtype of ``loss``; ``None`` means ones.
        sample_weight: ``[batch]``, >= 0; ``None`` means ones.
    """
    if sample_weight is None:
        return loss.mean() if normaliser is None else loss.sum() / _not_zero(normaliser.sum())
    weight = sample_weight.to(loss.dtype)
    divisor = _not_zero((weight if normaliser is None else normaliser * weight).sum())
    # Divided before the sum: then these are the gradients of the losses, and a training step computes them once.
    return (weight / divisor * loss).sum()


def _not_zero(value: Tensor) -> Tensor:
    return torch.where(value == 0, torch.ones_like(value), value)


def weighted_sums(
    loss: Tensor, normaliser: Tensor | None, sample_weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return ``sum_i w_i l_i`` and ``sum_i w_i n_i``; arguments as for :func:`weighted_mean`."""
    if sample_weight is not None:
        weight = sample_weight.to(loss.dtype)
        loss, normaliser = loss * weight, weight if normaliser is None else normaliser * weight
    return loss.sum(), (torch.ones_like(loss) if normaliser is None else normaliser).sum()


def cross_entropy(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of logits ``[batch, size, ...]`` and labels ``[batch, ...]``, as torch defines it.

        l_i = valid_i ((1 - e) c_y (-log p_y) + e / size sum_k c_k (-log p_k)),   n_i = valid_i c_y

    with e the label smoothing (Szegedy et al. 2016), c the class weights and valid_i = (y != ignore_index). Labels
    select by comparison with 0 .. size-1, so a label outside that range selects nothing. Further axes (pixels, steps
    of a sequence) count as labels of their own: sums over a sample's labels are returned.
    """
    size = output.shape[1]
    labels = target.unsqueeze(1)
    places = [1] * (output.dim() - 2)
    classes = torch.arange(size, dtype=labels.dtype, device=labels.device)
    one_hot = (classes.reshape(size, *places) if places else classes) == labels
    valid = (labels != spec.ignore_index).squeeze(1).to(output.dtype)
    cost = -torch.log_softmax(output, dim=1)
    normaliser = valid
    if spec.class_weights is not None:
        class_weights = torch.tensor(spec.class_weights, dtype=output.dtype, device=output.device)
        class_weights = class_weights.reshape(size, *places) if places else class_weights
        cost = cost * class_weights
        normaliser = valid * (one_hot.to(output.dtype) * class_weights).sum(1)
    # where, not a product: the log-probability of a masked class may be -inf, and 0 * -inf is NaN
    loss = torch.where(one_hot, cost, torch.zeros_like(cost)).sum(1)
    if spec.label_smoothing:
        loss = (1 - spec.label_smoothing) * loss + spec.label_smoothing / size * cost.sum(1)
    loss = loss * valid
    return (loss.flatten(1).sum(1), normaliser.flatten(1).sum(1)) if places else (loss, normaliser)


def bce_with_logits(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the mean over the labels of binary cross-entropy with logits.

        l = (1 - y) x - (1 + (pos_weight - 1) y) log_sigmoid(x)

    Args:
        output, target: ``[batch, size]``, targets in [0, 1].
    """
    target, valid = _known(spec, target)
    cost = (1 - target) * output
    log_sigmoid = functional.logsigmoid(output)
    if spec.class_weights is None:
        return _mean_over_outputs(cost - log_sigmoid, valid)
    pos_weight = torch.tensor(spec.class_weights, dtype=output.dtype, device=output.device)
    return _mean_over_outputs(cost - (1 + (pos_weight - 1) * target) * log_sigmoid, valid)


def mse(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the mean over the outputs of the squared difference; output, target ``[batch, size]``."""
    target, valid = _known(spec, target)
    difference = output - target
    return _mean_over_outputs(difference * difference, valid)


def l1(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the mean over the outputs of the absolute difference; output, target ``[batch, size]``."""
    target, valid = _known(spec, target)
    return _mean_over_outputs((output - target).abs(), valid)


def huber(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the mean over the outputs of Huber's loss (1964): d^2 / 2 up to ``delta``, then linear."""
    target, valid = _known(spec, target)
    difference = output - target
    size = difference.abs()
    cost = torch.where(
        size <= spec.delta, 0.5 * difference * difference, spec.delta * (size - 0.5 * spec.delta)
    )
    return _mean_over_outputs(cost, valid)


def cumulative(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the ordinal loss of Cao et al. (2020): binary cross-entropy of "the label is above k", summed over k.

    Args:
        output: ``[batch, size - 1]``, logits of ``label > 0`` .. ``label > size - 2``. target: int64 ``[batch]``.
    """
    thresholds = torch.arange(output.shape[1], dtype=target.dtype, device=target.device)
    above = (target.unsqueeze(1) > thresholds).to(output.dtype)
    valid = (target != spec.ignore_index).to(output.dtype)
    cost = (1 - above) * output - functional.logsigmoid(output)
    return (cost.sum(1) if cost.shape[1] > 1 else cost.squeeze(1)) * valid, valid


def pinball(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the mean over the quantiles of Koenker & Bassett's loss (1978): ``max(q d, (q - 1) d)``, d = y - output.

    Args:
        output: ``[batch, size]``, one a quantile. target: ``[batch, 1]``.
    """
    target, valid = _known(spec, target)
    levels = torch.tensor(quantile_levels(spec, output.shape[1]), dtype=output.dtype, device=output.device)
    difference = target - output
    cost = levels * difference + torch.relu(-difference)
    loss, _ = _mean_over_outputs(cost, None)
    return (loss, None) if valid is None else (loss * valid.squeeze(1), valid.squeeze(1))


def mixture_nll(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the negative log-likelihood of a mixture of Gaussians (Bishop 1994).

        -log sum_k p_k N(y; m_k, s_k),   log p = log_softmax(a),  s = exp(b)

    Args:
        output: ``[batch, 3 size]``: a, m and b of each component. target: ``[batch, 1]``.
    """
    target, valid = _known(spec, target)
    size = output.shape[1] // 3
    logits, means, log_scales = output[:, :size], output[:, size : 2 * size], output[:, 2 * size :]
    z = (target - means) * torch.exp(-log_scales)
    joint = torch.log_softmax(logits, dim=1) - 0.5 * z * z - log_scales - 0.5 * math.log(2 * math.pi)
    highest = joint.amax(1, keepdim=True).detach()
    loss = -(torch.log(torch.exp(joint - highest).sum(1)) + highest.squeeze(1))
    return (loss, None) if valid is None else (loss * valid.squeeze(1), valid.squeeze(1))


def quantile_levels(spec: LossSpec, size: int) -> tuple[float, ...]:
    """Return the quantiles of a pinball loss, by default evenly spaced: 0.25, 0.5, 0.75 for three."""
    return spec.quantiles or tuple((place + 1) / (size + 1) for place in range(size))


def _known(spec: LossSpec, target: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the targets with 0 for a missing one, and which are there as 1 or 0; ``None`` where none can be missing.

    A comparison finds NaN and the number that stands for it alike, and every runtime has it.
    """
    if not spec.missing:
        return target, None
    valid = target > MISSING
    return torch.where(valid, target, torch.zeros_like(target)), valid.to(target.dtype)


def _mean_over_outputs(cost: Tensor, valid: Tensor | None) -> tuple[Tensor, Tensor | None]:
    if valid is not None:
        cost = cost * valid
    one = cost.shape[1] == 1
    mean = cost.squeeze(1) if one else cost.mean(1)
    return mean, None if valid is None else valid.squeeze(1) if one else valid.mean(1)


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": cross_entropy,
    "bce_with_logits": bce_with_logits,
    "mse": mse,
    "l1": l1,
    "huber": huber,
    "cumulative": cumulative,
    "pinball": pinball,
    "mixture_nll": mixture_nll,
}
"""The losses by name."""
