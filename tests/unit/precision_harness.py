"""Small networks of every awkward kind, traced for inference, and what ONNX Runtime makes of their artifacts."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from nagedge.backends.onnxruntime import lower
from nagedge.graphs.forward import trace_forward
from nagedge.graphs.inference import InferenceGraph, trace_inference
from nagedge.runtimes.onnxruntime import import_onnxruntime
from nagedge.specs import TaskSpec
from nagedge.targets import Target, load_target

__all__ = ["MODELS", "difference", "inference_of", "lowered", "rows", "run", "session", "target"]

Arrays = dict[str, npt.NDArray[Any]]

TARGETS = {
    precision: f"android-arm64-onnxruntime-{precision}"
    for precision in ("fp32", "fp16", "int8", "int8_dynamic")
}


def target(precision: str, **changes: Any) -> Target:
    return replace(load_target(TARGETS[precision]), **{"ort_format": False, **changes})


class Shared(nn.Module):
    """One square linear layer used three times, and its weight once more in an elementwise product."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.linear(x))
        result: Tensor = self.head(x * self.linear.weight[0])
        return result


class Tied(nn.Module):
    """A table of embeddings that is the weight of the last layer too: looked up, and multiplied by."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(12, 16)
        self.inner = nn.Linear(16, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        mean = torch.relu(self.inner(self.table(tokens))).mean(1)
        return mean @ self.table.weight.T


class Swapped(nn.Module):
    """Time before batch, right before a matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.head = nn.Parameter(torch.randn(5, 8) / 2), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.tanh(x.transpose(0, 1) @ self.weight).mean(0))
        return result


class Experts(nn.Module):
    """A weight for each of four positions: a constant of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 6, 5) / 2)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(torch.matmul(x.transpose(0, 1), self.weight).sum(0))
        return result


class Gru(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru = nn.GRU(5, 8, num_layers=2, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.gru(x)[0][:, -1])
        return result


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Embedding(20, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, activation="gelu")
        self.head = nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.layer(self.tokens(tokens)).mean(1))
        return result


class Residual(nn.Module):
    """Two convolutions around a sum, squeeze and excitation, and a concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.gate, self.head = nn.Conv2d(8, 8, 1), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        a = nn.functional.hardswish(self.first(x))
        b = torch.relu(self.second(a)) + a
        b = b * nn.functional.hardsigmoid(self.gate(b.mean((2, 3), keepdim=True)))
        result: Tensor = self.head(torch.cat([a, b], 1).amax((2, 3)))
        return result


def _cnn() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding=1, groups=4), nn.ReLU(), nn.AvgPool2d(3), nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip


def _one_dimensional() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(3, 8, 5, padding=2), nn.GELU(), nn.Conv1d(8, 8, 3, dilation=2, groups=2), nn.GroupNorm(2, 8),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def _transposed(groups: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.ConvTranspose2d(8, 4, 4, 2, 1, groups=groups),
        nn.Upsample(scale_factor=2, mode="nearest"), nn.PReLU(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(4, 3),
    )  # fmt: skip


class Twice(nn.Module):
    """One tensor is read by two grouped convolutions, which stay float32 where others are float16."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = (nn.Conv2d(4, 4, 3, padding=1, groups=2) for _ in range(2))
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.sigmoid(x * 2)
        scores: Tensor = self.head((self.left(x) * self.right(x)).mean((2, 3)))
        return scores


class Units(nn.Module):
    """Three outputs in very different units: one scale for the whole weight would lose the smallest."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 3, bias=False))
        with torch.no_grad():
            self.net[2].weight.mul_(torch.tensor([1e-3, 1.0, 1e3])[:, None])

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.net(x)
        return result


IMAGE, SIGNAL, VECTOR = (3, 12, 12), (3, 24), (10,)

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "cnn": (_cnn, IMAGE, 0),
    "residual": (Residual, IMAGE, 0),
    "one-dimensional": (_one_dimensional, SIGNAL, 0),
    "transposed": (lambda: _transposed(1), IMAGE, 0),
    "transposed in groups": (lambda: _transposed(2), IMAGE, 0),
    "three-dimensional": (
        lambda: nn.Sequential(nn.Conv3d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3)), (2, 4, 4, 4), 0,
    ),
    "mlp": (lambda: nn.Sequential(nn.Linear(10, 16), nn.SiLU(), nn.Linear(16, 3)), VECTOR, 0),
    "units": (Units, VECTOR, 0),
    "no bias": (lambda: nn.Sequential(nn.Linear(10, 8, bias=False), nn.Tanh(), nn.Linear(8, 3, bias=False)), VECTOR, 0),
    "shared": (Shared, (8,), 0),
    "tied": (Tied, (7,), 12),
    "experts": (Experts, (4, 6), 0),
    "swapped": (Swapped, (6, 5), 0),
    "twice": (Twice, (4, 5, 5), 0),
    "gru": (Gru, (6, 5), 0),
    "encoder": (Encoder, (7,), 20),
}  # fmt: skip
"""Name -> what makes it, the shape of a row, and the number of tokens (0: rows of normal floats)."""


def rows(name: str, count: int, seed: int = 0) -> Arrays:
    """Return inputs for a model by name."""
    _, shape, tokens = MODELS[name]
    rng = np.random.default_rng(seed)
    if tokens:
        return {"x": rng.integers(0, tokens, (count, *shape))}
    return {"x": rng.standard_normal((count, *shape)).astype(np.float32)}


@functools.cache
def inference_of(name: str, *, batch: int | None = None) -> tuple[nn.Module, InferenceGraph]:
    """Return a model of :data:`MODELS` and its graph, with input ``x`` and output ``kind``."""
    torch.manual_seed(0)
    model = MODELS[name][0]().eval()
    example = torch.from_numpy(rows(name, batch or 4)["x"])
    forward = trace_forward(
        model, example, (TaskSpec("kind", "classification", size=_size(name)),), batch=batch
    )
    own = replace(forward, inputs=(replace(forward.inputs[0], name="x"),))
    full = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {
        key: (own.constants[key] if key in own.constants else full[key]).detach().contiguous()
        for key in own.state_names
    }
    return model, trace_inference(own, state)


def _size(name: str) -> int:
    return 12 if name == "tied" else 3


def lowered(name: str, precision: str, **changes: Any) -> Mapping[str, tuple[str, bytes]]:
    """Lower a model, calibrated on 64 rows."""
    calibration = [rows(name, 32, seed=1), rows(name, 32, seed=2)]
    return lower(inference_of(name)[1], None, target(precision, **changes), calibration=calibration)


def session(model: bytes) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(model: bytes, inputs: Arrays) -> Arrays:
    opened = session(model)
    names = [output.name for output in opened.get_outputs()]
    return dict(zip(names, opened.run(None, inputs), strict=True))


def difference(got: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return the largest difference over the largest expected value."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())
