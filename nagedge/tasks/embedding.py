"""Embedding: a vector of length 1 in which samples of one class are near each other.

Trained as Zhai & Wu (2019) do: cross-entropy of the cosines with one learnt vector a class, which matches pairwise
losses and needs no pairs. The output is ``[batch, dimension + size]``: the embedding, then the logits of the ``size``
classes. Classes that training never saw are compared by the embedding alone.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.tasks.kind import Array, TaskKind, check_labels, check_shape
from nagedge.tasks.losses import ignored_label

__all__ = ["KIND", "EmbeddingHead"]

TEMPERATURE = 0.1
"""Zhai & Wu use 0.05 for networks trained on ImageNet before; small ones from scratch learn more evenly with 0.1."""


class EmbeddingHead(nn.Module):
    """A linear layer to the unit sphere, and one direction a class.

    Args:
        in_features: channels of the features. dimension: of the embedding. size: classes.
    """

    def __init__(self, in_features: int, dimension: int, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, dimension)
        self.directions = nn.Parameter(torch.randn(size, dimension) / dimension**0.5)

    def forward(self, features: Tensor) -> Tensor:
        """Return ``[batch, dimension + size]`` from ``[batch, in_features]``."""
        embedding = _unit(self.layer(features))
        return torch.cat([embedding, embedding @ _unit(self.directions).T / TEMPERATURE], dim=1)


def _unit(rows: Tensor) -> Tensor:
    # a product with ones, not a sum: coremltools 9 cannot fold a sum of constants under NumPy 2
    squares = (rows * rows) @ torch.ones(rows.shape[1], 1, dtype=rows.dtype, device=rows.device)
    return rows / torch.sqrt(squares + 1e-12)


def head(in_features: int, task: TaskSpec) -> nn.Module:
    """Return the head from ``[batch, in_features]`` to ``[batch, dimension + size]``."""
    return EmbeddingHead(in_features, task.shape[0], task.size)


def target_spec(task: TaskSpec) -> TensorSpec:
    """Return the spec of the labels: int64 ``[batch]``."""
    return TensorSpec(task.name, "int64", (BATCH,))


def output_shape(task: TaskSpec) -> tuple[int, ...]:
    """Return the embedding and the logits."""
    return (task.shape[0] + task.size,)


def metrics(output: Array, target: Array, task: TaskSpec) -> dict[str, float]:
    """Return ``recall_at_1`` (the nearest other sample has the same label) and ``accuracy`` of the logits."""
    labels = target.reshape(-1)
    labelled = labels != ignored_label(task)
    if not labelled.any():
        return {}
    labels, rows = labels[labelled], output[labelled].astype(np.float64)
    embedding, logits = rows[:, : task.shape[0]], rows[:, task.shape[0] :]
    hits = 0
    for start in range(0, len(rows), 1024):
        cosines = embedding[start : start + 1024] @ embedding.T
        here = np.arange(len(cosines))
        cosines[here, start + here] = -np.inf
        hits += int((labels[cosines.argmax(axis=1)] == labels[start : start + 1024]).sum())
    return {
        "recall_at_1": hits / len(rows) if len(rows) > 1 else 0.0,
        "accuracy": float((logits.argmax(axis=1) == labels).mean()),
    }


def check_targets(task: TaskSpec, targets: Array, where: str) -> None:
    """Refuse labels that are not integers ``[n]`` in 0 .. size-1."""
    check_shape(task, targets, where, row=())
    check_labels(task, targets, where)


KIND = TaskKind(
    name="embedding",
    answers="labels",
    losses=("cross_entropy",),
    default_loss="cross_entropy",
    target_spec=target_spec,
    head=head,
    metrics=metrics,
    check_targets=check_targets,
    output_shape=output_shape,
)
