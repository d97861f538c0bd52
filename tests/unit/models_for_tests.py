"""Small models of every family, seeded, in evaluation mode, with tasks and an example input."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from nagedge.bundle import Bundle
from nagedge.export import export
from nagedge.specs import TaskSpec

TRAIN = "any-any-onnxruntime-fp32-train"
INFER = "any-any-onnxruntime-fp32"

KIND = TaskSpec("kind", "classification", size=3)
LEVEL = TaskSpec("level", "regression", size=1, weight=0.5)
TAGS = TaskSpec("tags", "multilabel", size=2)
ALARM = TaskSpec("alarm", "binary", size=1)


class Case(NamedTuple):
    """A model with what its export needs."""

    model: nn.Module
    tasks: Sequence[TaskSpec]
    example: Any


class TwoHeads(nn.Module):
    """A trunk and two linear heads; returns a dict."""

    def __init__(self, trunk: nn.Module, features: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.kind = nn.Linear(features, 3)
        self.level = nn.Linear(features, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {"kind": self.kind(features), "level": self.level(features)}


class Gru(nn.Module):
    """A recurrent net over ``[batch, time, 4]``; returns a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(4, 6, batch_first=True)
        self.head = nn.Linear(6, 3)

    def forward(self, signal: Tensor) -> Tensor:
        states, _ = self.gru(signal)
        result: Tensor = self.head(states[:, -1])
        return result


class Attention(nn.Module):
    """Embedded tokens ``[batch, time]`` through one encoder layer; returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(11, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.kind = nn.Linear(8, 3)
        self.tags = nn.Linear(8, 2)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        pooled = self.layer(self.tokens(tokens)).mean(1)
        return self.kind(pooled), self.tags(pooled)


class TwoInputs(nn.Module):
    """An image and some measurements; returns a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.image_part = nn.Conv2d(1, 4, 3)
        self.sensor_part = nn.Linear(3, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, image: Tensor, sensors: Tensor) -> dict[str, Tensor]:
        seen = torch.tanh(self.image_part(image)).mean((2, 3))
        return {"kind": self.head(seen + self.sensor_part(sensors))}


def settle_statistics(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm running statistics and an affine part that are not the trivial ones."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.normal_(0, 0.5, generator=generator)
                module.running_var.uniform_(0.3, 2.0, generator=generator)
            if module.affine:
                with torch.no_grad():
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                    module.bias.normal_(0, 0.3, generator=generator)
    return model


def mlp() -> Case:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).eval()
    return Case(model, (KIND,), torch.randn(4, 5))


def conv() -> Case:
    torch.manual_seed(1)
    trunk = nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(),
        nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), nn.Hardswish(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    return Case(settle_statistics(TwoHeads(trunk, 6)).eval(), (KIND, LEVEL), torch.randn(4, 1, 9, 9))


def gru() -> Case:
    torch.manual_seed(2)
    return Case(Gru().eval(), (KIND,), torch.randn(4, 5, 4))


def attention() -> Case:
    torch.manual_seed(3)
    return Case(Attention().eval(), (KIND, TAGS), torch.randint(0, 11, (4, 6)))


def two_inputs() -> Case:
    torch.manual_seed(4)
    return Case(TwoInputs().eval(), (KIND,), (torch.randn(4, 1, 6, 6), torch.randn(4, 3)))


CASES = {"mlp": mlp, "conv": conv, "gru": gru, "attention": attention, "two_inputs": two_inputs}


def exported(case: Case, out: Path, **options: Any) -> Bundle:
    """Export a case for the training target."""
    return export(case.model, tasks=case.tasks, example_input=case.example, targets=TRAIN, out=out, **options)


def numpy_batch(bundle: Bundle, rows: int, seed: int = 0) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return inputs and targets that fit the bundle's manifest."""
    from nagedge.runtimes.batches import random_batch

    return random_batch(bundle.manifest, rows, np.random.default_rng(seed))
