"""A head for a task on features of a given shape."""

from __future__ import annotations

from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.models.config import ModelConfig
from nagedge.models.multitask import MeanOverPlaces
from nagedge.specs import TaskSpec
from nagedge.tasks import TASK_KINDS

__all__ = ["FEATURES", "REMEDY", "head_on"]

FEATURES = {2: "[2, features]", 3: "[2, steps, features]", 4: "[2, features, height, width]"}
"""Rank of the features -> their shape for a batch of two, for errors."""

REMEDY = {
    2: "Pool and flatten at its end.",
    3: "Choose trunk 'tokens', or one of your own that keeps the steps.",
    4: "Choose trunk 'cnn', or one of your own that does not pool its map.",
}
"""Rank of the features -> what helps where they have another."""


def head_on(task: TaskSpec, features: Tensor, model: ModelConfig) -> nn.Module:
    """Return the task's head, after a mean over the places where it takes a vector and the features are none.

    Raises:
        ConfigurationError: the task needs a map or a sequence.
    """
    kind = TASK_KINDS[task.kind]
    channels = features.shape[2] if features.dim() == 3 else features.shape[1]
    head = kind.head(channels, task)
    if kind.features == features.dim():
        return head
    if kind.features == 2:
        return nn.Sequential(MeanOverPlaces(), head)
    raise ConfigurationError(
        f"task {task.name!r}: a {task.kind} task needs features {FEATURES[kind.features]}, but model trunk"
        f" {model.trunk!r} gives {list(features.shape)} for a batch of 2. {REMEDY[kind.features]}"
    )
