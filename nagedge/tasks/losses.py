"""The losses: per-sample values with their normalisers, and the weighted mean over a batch.

Everything here is elementwise arithmetic, comparison and reduction: no gather, no scatter, no branch on a value or on
the batch size. One trace of it, with a symbolic batch size, therefore runs on every runtime (TFLite cannot run the
scatter in the gradient of an indexed loss). The values equal those of :mod:`torch.nn.functional` with
``reduction="mean"``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from nagedge.specs import LossSpec, TaskSpec

__all__ = ["LOSSES", "ignored_label", "weighted_mean"]

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
    if sample_weight is not None:
        weight = sample_weight.to(loss.dtype)
        loss, normaliser = loss * weight, weight if normaliser is None else normaliser * weight
    if normaliser is None:
        return loss.mean()
    denominator = normaliser.sum()
    return loss.sum() / torch.where(denominator == 0, torch.ones_like(denominator), denominator)


def cross_entropy(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of logits ``[batch, size]`` and labels ``[batch]``, as torch defines it.

        l_i = valid_i ((1 - e) c_y (-log p_y) + e / size sum_k c_k (-log p_k)),   n_i = valid_i c_y

    with e the label smoothing (Szegedy et al. 2016), c the class weights and valid_i = (y != ignore_index). Labels
    select by comparison with 0 .. size-1, so a label outside that range selects nothing.
    """
    size = output.shape[1]
    labels = target.unsqueeze(1)
    one_hot = torch.arange(size, dtype=labels.dtype, device=labels.device) == labels
    valid = (labels != spec.ignore_index).squeeze(1).to(output.dtype)
    cost = -torch.log_softmax(output, dim=1)
    normaliser = valid
    if spec.class_weights is not None:
        class_weights = torch.tensor(spec.class_weights, dtype=output.dtype, device=output.device)
        cost = cost * class_weights
        normaliser = valid * (one_hot.to(output.dtype) * class_weights).sum(1)
    # where, not a product: the log-probability of a masked class may be -inf, and 0 * -inf is NaN
    loss = torch.where(one_hot, cost, torch.zeros_like(cost)).sum(1)
    if spec.label_smoothing:
        loss = (1 - spec.label_smoothing) * loss + spec.label_smoothing / size * cost.sum(1)
    return loss * valid, normaliser


def bce_with_logits(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, None]:
    """Return the mean over the labels of binary cross-entropy with logits.

        l = (1 - y) x - (1 + (pos_weight - 1) y) log_sigmoid(x)

    Args:
        output, target: ``[batch, size]``, targets in [0, 1].
    """
    cost = (1 - target) * output
    log_sigmoid = functional.logsigmoid(output)
    if spec.class_weights is None:
        return _mean_over_outputs(cost - log_sigmoid)
    pos_weight = torch.tensor(spec.class_weights, dtype=output.dtype, device=output.device)
    return _mean_over_outputs(cost - (1 + (pos_weight - 1) * target) * log_sigmoid)


def mse(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, None]:
    """Return the mean over the outputs of the squared difference; output, target ``[batch, size]``."""
    difference = output - target
    return _mean_over_outputs(difference * difference)


def l1(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, None]:
    """Return the mean over the outputs of the absolute difference; output, target ``[batch, size]``."""
    return _mean_over_outputs((output - target).abs())


def huber(spec: LossSpec, output: Tensor, target: Tensor) -> tuple[Tensor, None]:
    """Return the mean over the outputs of Huber's loss (1964): d^2 / 2 up to ``delta``, then linear."""
    difference = output - target
    size = difference.abs()
    return _mean_over_outputs(
        torch.where(size <= spec.delta, 0.5 * difference * difference, spec.delta * (size - 0.5 * spec.delta))
    )


def _mean_over_outputs(cost: Tensor) -> tuple[Tensor, None]:
    return cost.mean(1) if cost.shape[1] > 1 else cost.squeeze(1), None


LOSSES: Mapping[str, Loss] = {
    "cross_entropy": cross_entropy,
    "bce_with_logits": bce_with_logits,
    "mse": mse,
    "l1": l1,
    "huber": huber,
}
"""The losses by name."""
