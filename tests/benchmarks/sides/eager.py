"""Eager PyTorch on one thread, with its fused SGD."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from nagedge.graphs.lora import add_lora
from nagedge.training.nesterov import parameter_groups
from tests.benchmarks.workloads import Workload

__all__ = ["available", "prepare", "stepper", "trained_model"]


def available() -> str:
    return f"torch {torch.__version__}"


def trained_model(workload: Workload, model: nn.Module | None = None) -> nn.Module:
    """Return a copy of the model with the same parameters frozen, or branches added, as in the export."""
    model = copy.deepcopy(model or workload.model)
    trainable = workload.trainable
    if trainable == "all":
        return model
    model.requires_grad_(False)
    model.heads.requires_grad_(True)
    if trainable.startswith("lora:"):
        heads = {f"heads.{name}" for name in model.heads}
        branches = set(add_lora(model, int(trainable.removeprefix("lora:")), skip=heads))
        for name, parameter in model.named_parameters():
            if name in branches:
                parameter.requires_grad_(True)
    return model


def stepper(
    workload: Workload, model: nn.Module, forward: Callable[[Tensor], dict[str, Tensor]] | None = None
) -> Callable[[], None]:
    """Return a step of ``model``: zero the gradients, forward, mean losses, backward, update."""
    forward = model if forward is None else forward  # a compiled module has no length, so no truth
    optimizer = torch.optim.SGD(
        parameter_groups(model, 1e-4), lr=1e-4, momentum=0.9, nesterov=True, fused=True
    )
    targets = {name: torch.from_numpy(value) for name, value in workload.targets.items()}

    def step() -> None:
        optimizer.zero_grad()
        outputs = forward(workload.example)
        loss = nn.functional.cross_entropy(outputs["kind"], targets["kind"])
        if "level" in outputs:
            loss = loss + nn.functional.mse_loss(
                outputs["level"].reshape(targets["level"].shape), targets["level"]
            )
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def prepare(workload: Workload, folder: Path) -> Callable[[], None]:
    del folder
    return stepper(workload, trained_model(workload))
