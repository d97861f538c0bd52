"""The reference workloads: small models as one fine-tunes them on a device, with a batch of random data each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import timm
import torch
from torch import Tensor, nn

from nagedge import TaskSpec

__all__ = ["WORKLOADS", "Workload"]


@dataclass(frozen=True)
class Workload:
    """A model, what of it is trained, and one batch.

    Attributes:
        name: short, for tables.
        model: in evaluation mode: BatchNorm normalises with its running statistics on every side.
        tasks: in the order of the model's outputs.
        example: ``[rows, ...]``, the model's only input.
        targets: by task.
        trainable: as :func:`nagedge.export` takes it.
    """

    name: str
    model: nn.Module
    tasks: tuple[TaskSpec, ...]
    example: Tensor
    targets: dict[str, npt.NDArray[np.generic]]
    trainable: str = "all"


class Heads(nn.Module):
    """A trunk and one linear layer a task."""

    def __init__(self, trunk: nn.Module, features: int, sizes: dict[str, int]) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleDict({name: nn.Linear(features, size) for name, size in sizes.items()})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}


class LastState(nn.Module):
    """Two layers of a GRU over embedded tokens: their last state."""

    def __init__(self, words: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width // 2)
        self.recurrent = nn.GRU(width // 2, width, num_layers=2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.recurrent(self.embedding(tokens))
        return states[:, -1]


def _block(inputs: int, outputs: int, kernel: tuple[int, int], **options: object) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, bias=False, **options)  # type: ignore[arg-type]
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]


def _ds_cnn(width: int = 64) -> nn.Module:
    """The small DS-CNN of Zhang et al. 2017 (arXiv:1711.07128), for 49 frames of 10 features."""
    layers = _block(1, width, (10, 4), stride=2, padding=(5, 1))
    for _ in range(4):
        layers += _block(width, width, (3, 3), padding=1, groups=width) + _block(width, width, (1, 1))
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 7 * 7, 64), nn.ReLU(),
    )  # fmt: skip


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU())


def _make(
    name: str,
    trunk: nn.Module,
    features: int,
    example: Tensor,
    *,
    classes: int = 10,
    numbers: int = 0,
    trainable: str = "all",
) -> Workload:
    rows = example.shape[0]
    random = np.random.default_rng(0)
    sizes: dict[str, int] = {"kind": classes}
    kinds: dict[str, str] = {"kind": "classification"}
    targets: dict[str, npt.NDArray[np.generic]] = {"kind": random.integers(0, classes, rows)}
    if numbers:
        sizes["level"], kinds["level"] = numbers, "regression"
        shape = (rows, numbers) if numbers > 1 else (rows,)
        targets["level"] = random.standard_normal(shape).astype(np.float32)
    tasks = tuple(TaskSpec(task, kinds[task], size=size) for task, size in sizes.items())
    return Workload(name, Heads(trunk, features, sizes).eval(), tasks, example, targets, trainable)


def _mobilenet(name: str, model: str, trainable: str) -> Workload:
    trunk = timm.create_model(model, num_classes=0)
    image = torch.randn(8, 3, 96, 96)
    with torch.no_grad():
        features = trunk.eval()(image).shape[1]
    return _make(name, trunk, features, image, classes=5, numbers=1, trainable=trainable)


_MAKERS: dict[str, Callable[[str], Workload]] = {
    "mlp": lambda name: _make(name, _mlp(), 256, torch.randn(16, 1, 28, 28), numbers=2),
    "cnn": lambda name: _make(name, _cnn(), 64, torch.randn(16, 1, 28, 28), numbers=2),
    "mobilenetv3": lambda name: _mobilenet(name, "mobilenetv3_small_050", "all"),
    "mobilenetv3-heads": lambda name: _mobilenet(name, "mobilenetv3_small_050", "heads"),
    "mobilenetv4-lora": lambda name: _mobilenet(name, "mobilenetv4_conv_small", "lora:4"),
    "ds-cnn": lambda name: _make(name, _ds_cnn(), 64, torch.randn(16, 1, 49, 10), classes=12),
    "gru": lambda name: _make(name, LastState(1000, 64), 64, torch.randint(0, 1000, (16, 32)), classes=4),
}

WORKLOADS = tuple(_MAKERS)
"""Their names, in the order of the table."""


def workload(name: str) -> Workload:
    """Make a workload, with the same random weights and data every time."""
    torch.manual_seed(0)
    return _MAKERS[name](name)
