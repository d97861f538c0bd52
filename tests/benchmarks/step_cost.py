"""Time a training step and inference of MobileNetV3-small on one thread, exported and in eager PyTorch.

Run it on an idle machine: ``uv run python tests/benchmarks/step_cost.py``.
"""

from __future__ import annotations

import copy
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before torch and onnxruntime are imported

import numpy as np
import timm
import torch
from torch import Tensor, nn

import nagedge
from nagedge.runtimes import open_inference, open_training

TARGET = "any-any-onnxruntime-fp32-train"
ROWS, SIZE = 8, 96
TASKS = (nagedge.TaskSpec("kind", "classification", size=5), nagedge.TaskSpec("level", "regression", size=1))


class TwoHeads(nn.Module):
    """``mobilenetv3_small_050`` of timm with a head a task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = timm.create_model("mobilenetv3_small_050", num_classes=0)
        self.kind, self.level = nn.Linear(1024, 5), nn.Linear(1024, 1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.trunk(image)
        return {"kind": self.kind(features), "level": self.level(features)}


def median_ms(call: Callable[[], object], *, calls: int = 40, warm_up: int = 10) -> float:
    durations = []
    for _ in range(warm_up + calls):
        started = time.perf_counter()
        call()
        durations.append(time.perf_counter() - started)
    return statistics.median(durations[warm_up:]) * 1e3


def exported_ms(model: nn.Module, image: Tensor, trainable: str) -> tuple[float, float]:
    """Return the time of a step and of inference in ONNX Runtime."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bundle"
        bundle = nagedge.export(
            model, tasks=TASKS, example_input=image, targets=TARGET, out=out, trainable=trainable
        )
        training, inference = open_training(bundle), open_inference(bundle)
    inputs = {"image": image.numpy()}
    targets = {"kind": np.arange(ROWS) % 5, "level": np.zeros(ROWS, np.float32)}

    def step() -> object:
        return training.step(inputs, targets, lr=1e-4, momentum=0.9, weight_decay=0.0)

    return median_ms(step), median_ms(lambda: inference.predict(inputs))


def eager_ms(model: nn.Module, image: Tensor, trainable: str) -> tuple[float, float]:
    """Return the time of a step, with the fused SGD, and of inference in eager PyTorch."""
    model = copy.deepcopy(model)
    if trainable == "heads":
        model.trunk.requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=1e-4, momentum=0.9, nesterov=True, fused=True)
    kind, level = torch.arange(ROWS) % 5, torch.zeros(ROWS, 1)

    def step() -> None:
        optimizer.zero_grad()
        outputs = model(image)
        loss = nn.functional.cross_entropy(outputs["kind"], kind)
        (loss + nn.functional.mse_loss(outputs["level"], level)).backward()
        optimizer.step()

    def infer() -> None:
        with torch.inference_mode():
            model(image)

    return median_ms(step), median_ms(infer)


def main() -> None:
    """Print one line for each choice of what is trainable."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model, image = TwoHeads().eval(), torch.randn(ROWS, 3, SIZE, SIZE)
    for trainable in ("all", "heads"):
        ours, infer = exported_ms(model, image, trainable)
        theirs, eager_infer = eager_ms(model, image, trainable)
        print(
            f"{trainable}: step {ours:.1f} ms exported, {theirs:.1f} ms eager; inference {infer:.1f} ms exported, "
            f"{eager_infer:.1f} ms eager"
        )


if __name__ == "__main__":
    main()
