"""A step of a balancer without a training loop."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nagedge.models import MultiTaskModel
from nagedge.specs import TaskSpec
from nagedge.training.balancing import Context
from nagedge.training.batches import Batch

TASKS = (
    TaskSpec("kind", "classification", size=3),
    TaskSpec("level", "regression", size=1, weight=0.5),
    TaskSpec("tags", "multilabel", size=2),
)


def make_context(seed: int = 0) -> Context:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh())
        module = MultiTaskModel(trunk, {task.name: nn.Linear(4, task.size) for task in TASKS})
    return Context(
        Fabric(accelerator="cpu", devices=1), TASKS, module, module, dict(module.named_parameters())
    )


def make_batch(seed: int = 0, size: int = 12, *, unlabelled: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(size, 5, generator=generator)
    kinds = x[:, :3].argmax(1)
    targets: dict[str, Tensor] = {
        "kind": torch.full_like(kinds, -100) if unlabelled else kinds,
        "level": 3 * x[:, 0] - x[:, 1],
        "tags": (x[:, 3:] > 0).float(),
    }
    return Batch(x, targets, None)


def gradients_of(context: Context) -> dict[str, Tensor]:
    return {
        name: torch.zeros_like(param) if param.grad is None else param.grad.clone()
        for name, param in context.params.items()
    }


@pytest.fixture
def context() -> Context:
    return make_context()


@pytest.fixture
def batch_of() -> Callable[..., Batch]:
    return make_batch


@pytest.fixture
def context_of() -> Callable[..., Context]:
    return make_context


@pytest.fixture
def gradients() -> Callable[[Context], dict[str, Tensor]]:
    return gradients_of
