"""onnxruntime-web, as published, trains as PyTorch does: losses, parameters and momentum over 20 steps, in Node."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import Tensor, nn

import nagedge
from nagedge.runtimes import TrainingState, open_inference, open_training
from nagedge.runtimes.batches import random_batch
from nagedge.web.npm import node_command
from nagedge.web.page import model_files
from nagedge.web.runtime import VERSION, web_runtime

TARGET = "any-any-onnxruntime-fp32-train"
STEPS = 20
SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
KIND = nagedge.TaskSpec("kind", "classification", size=3)
LEVEL = nagedge.TaskSpec("level", "regression", size=1, weight=0.5)
TAGS = nagedge.TaskSpec("tags", "multilabel", size=2)
ALARM = nagedge.TaskSpec("alarm", "binary", size=1)


class Heads(nn.Module):
    """A trunk and one linear head for each kind of task."""

    def __init__(self, trunk: nn.Module, features: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.heads = nn.ModuleList(nn.Linear(features, size) for size in (3, 1, 2, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        features = self.trunk(x)
        return tuple(head(features) for head in self.heads)


class Tokens(nn.Module):
    """Embedded tokens through a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        states, _ = self.gru(self.embedding(tokens))
        result: Tensor = self.head(states[:, -1])
        return result


class TwoInputs(nn.Module):
    """An image and some measurements."""

    def __init__(self) -> None:
        super().__init__()
        self.seen, self.measured, self.head = nn.Conv2d(3, 4, 3), nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, image: Tensor, sensors: Tensor) -> Tensor:
        pooled = torch.tanh(self.seen(image)).mean((2, 3))
        result: Tensor = self.head(pooled + self.measured(sensors))
        return result


def _convolutions() -> nn.Module:
    trunk = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 3, groups=8),
        nn.SiLU(), nn.MaxPool2d(2), nn.Flatten(),
    )  # fmt: skip
    return Heads(trunk, 32)


@dataclass(frozen=True)
class Case:
    make: Callable[[], nn.Module]
    tasks: tuple[nagedge.TaskSpec, ...]
    example: Callable[[], Any]
    options: dict[str, Any]


ALL = (KIND, LEVEL, TAGS, ALARM)
CASES = {
    "convolutions, four kinds of task": Case(_convolutions, ALL, lambda: torch.randn(4, 1, 14, 14), {}),
    "BatchNorm that learns": Case(
        _convolutions, ALL, lambda: torch.randn(4, 1, 14, 14), {"batch_norm": "train"}
    ),
    "a fixed batch": Case(_convolutions, ALL, lambda: torch.randn(6, 1, 14, 14), {"batch": 6}),
    "heads only": Case(_convolutions, ALL, lambda: torch.randn(4, 1, 14, 14), {"trainable": "heads"}),
    "token ids": Case(Tokens, (KIND,), lambda: torch.randint(0, 11, (4, 7)), {}),
    "two inputs": Case(TwoInputs, (KIND,), lambda: (torch.randn(4, 3, 6, 6), torch.randn(4, 5)), {}),
}


def _assert_close(got: np.ndarray, expected: np.ndarray, rtol: float, atol: float, what: str) -> None:
    """The tolerance of a target: relative to the largest value of the tensor."""
    assert got.shape == expected.shape, what
    difference = np.abs(got.astype(np.float64) - expected).max(initial=0)
    assert difference <= atol + rtol * np.abs(expected).max(initial=0), f"{what}: {difference}"


def _roles(state: TrainingState) -> dict[str, np.ndarray]:
    return {
        f"{role}.{name}": array
        for role in ("params", "momentum", "buffers")
        for name, array in getattr(state, role).items()
    }


@pytest.mark.parametrize("name", CASES)
def test_the_browsers_runtime_trains_as_pytorch_does(name: str, tmp_path: Path) -> None:
    case = CASES[name]
    torch.manual_seed(0)
    bundle = nagedge.export(
        case.make().eval(), tasks=case.tasks, example_input=case.example(), targets=TARGET, out=tmp_path / "bundle",
        **case.options,
    )  # fmt: skip
    folder = tmp_path / "node"
    folder.mkdir()
    for file, content in model_files(bundle, TARGET).items():
        (folder / file).write_bytes(content)
    rng = np.random.default_rng(0)
    batches = []
    for step in range(STEPS):
        inputs, targets = random_batch(bundle.manifest, bundle.manifest.batch or 5, rng)
        weight = np.ones(len(next(iter(inputs.values()))), np.float32)
        weight[-1] = 0.0 if step % 2 else 0.5
        batches.append((inputs, targets, weight))
        arrays = {f"input.{key}": value for key, value in inputs.items()}
        arrays |= {f"target.{key}": value for key, value in targets.items()}
        arrays["sample_weight"] = weight
        safetensors.numpy.save_file(
            {key: np.ascontiguousarray(value) for key, value in arrays.items()},
            folder / f"batch-{step}.safetensors",
        )
    (folder / "task.json").write_text(json.dumps({"steps": STEPS, "settings": SETTINGS}))

    runtime = web_runtime()
    script = Path(__file__).parent / "web_training.mjs"
    done = subprocess.run(
        [*node_command(), str(script), str(runtime.module), str(runtime.wasm), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((folder / "result.json").read_text())
    assert result["version"]["web"] == VERSION

    target = bundle.manifest.targets[TARGET]
    reference = open_training(bundle, runtime="torch")
    first = safetensors.numpy.load_file(folder / "state-0.safetensors")
    for step, (inputs, targets, weight) in enumerate(batches):
        losses = reference.step(inputs, targets, weight, **SETTINGS)
        for key, value in losses.items():
            got = result["losses"][step]["loss" if key == "loss" else f"loss.{key}"]
            _assert_close(
                np.array(got), np.array(value), target.rtol, target.atol, f"loss {key} of step {step}"
            )
        expected = _roles(reference.state())
        state = safetensors.numpy.load_file(folder / f"state-{step}.safetensors")
        assert state.keys() == expected.keys()
        for key, array in expected.items():
            _assert_close(state[key], array, target.rtol, target.atol, f"{key} after step {step}")
    moved = [key for key in first if key.startswith("params.") and not np.array_equal(first[key], state[key])]
    assert moved, "nothing was trained"

    learnt = {key.partition(".")[2]: value for key, value in state.items() if not key.startswith("momentum.")}
    for file, params in {"before": None, "after": learnt}.items():
        got = safetensors.numpy.load_file(folder / f"{file}.safetensors")
        outputs = open_inference(bundle, runtime="torch", params=params).predict(batches[0][0])
        for task, output in outputs.items():
            _assert_close(
                got[task], output, target.inference_rtol, target.inference_atol, f"{task} {file} learning"
            )
