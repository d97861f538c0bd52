"""How much the tasks pull the trunk in one direction: the cosines between their gradients."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nagedge.models import MultiTaskModel
from nagedge.specs import TaskSpec
from nagedge.tasks import has_labels, task_loss
from nagedge.training.batches import Batch

__all__ = ["gradient_cosines"]


def gradient_cosines(model: nn.Module, batch: Batch, tasks: Sequence[TaskSpec]) -> dict[str, float]:
    """Return ``"first, second"`` -> cosine between the gradients of two tasks' losses.

    Pairs without labels or without finite gradients are left out.

    The gradients are those with respect to the trunk's features; of a model whose features are not known, to all
    parameters that both losses reach. The model is in evaluation mode meanwhile and is left as it was.

    Args:
        model: on the device of the batch.
        batch: the examples. tasks: at least two, or there is nothing to compare.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.enable_grad():
            if isinstance(model, MultiTaskModel):
                features = model.trunk(batch.x).detach().requires_grad_()
                outputs = {name: head(features) for name, head in model.heads.items()}
                columns: list[Tensor] = [features]
            else:
                outputs = dict(model(batch.x))
                columns = [param for param in model.parameters() if param.requires_grad]
            rows = {
                task.name: _gradient(task, outputs[task.name], batch, columns)
                for task in tasks
                if bool(has_labels(task, batch.targets[task.name], batch.sample_weight))
            }
    finally:
        model.train(was_training)
    found = {
        f"{first}, {second}": float(nn.functional.cosine_similarity(rows[first], rows[second], dim=0))
        for first, second in itertools.combinations(rows, 2)
    }
    return {pair: cosine for pair, cosine in found.items() if math.isfinite(cosine)}


def _gradient(task: TaskSpec, output: Tensor, batch: Batch, columns: Sequence[Tensor]) -> Tensor:
    loss = task_loss(task, output, batch.targets[task.name], batch.sample_weight)
    parts: Sequence[Tensor | None] = torch.autograd.grad(
        loss, list(columns), retain_graph=True, allow_unused=True
    )
    return torch.cat([
        (torch.zeros_like(column) if part is None else part).reshape(-1)
        for column, part in zip(columns, parts, strict=True)
    ])  # fmt: skip
