"""Losses and metrics of a model on examples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from nagedge.data.preprocessing import Preprocessing
from nagedge.specs import TaskSpec
from nagedge.tasks import measure, total_loss
from nagedge.training.batches import DeviceExamples

__all__ = ["evaluate"]


def evaluate(
    model: nn.Module,
    examples: DeviceExamples,
    tasks: Sequence[TaskSpec],
    preprocessing: Preprocessing,
    *,
    batch_size: int = 512,
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """Return the losses and the metrics of a model in evaluation mode (its mode is restored).

    Args:
        model: ``forward(x)`` gives task name -> outputs.
        examples: on the model's device, >= 1.
        tasks: what to measure.
        preprocessing: takes regression outputs and targets back to the tasks' units for the metrics.
        batch_size: examples in one forward pass.

    Returns:
        ``{"loss": weighted sum, task name: loss}``, computed as on one batch of all examples, and
        ``{task name: {metric: value}}``.
    """
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            parts = [model(x) for x in torch.split(examples.x, batch_size)]
            outputs = {task.name: torch.cat([part[task.name] for part in parts]) for task in tasks}
            total, losses = total_loss(tasks, outputs, examples.targets, examples.sample_weight)
    finally:
        model.train(was_training)
    predicted = preprocessing.invert_outputs({name: value.cpu().numpy() for name, value in outputs.items()})
    true = preprocessing.invert_outputs(
        {name: value.cpu().numpy() for name, value in examples.targets.items()}
    )
    metrics = {task.name: measure(task, predicted[task.name], true[task.name]) for task in tasks}
    return {"loss": total.item(), **{name: loss.item() for name, loss in losses.items()}}, metrics
