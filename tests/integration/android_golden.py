"""What the tests of the Android app's `core` compare with: bundles, and what Python computes with them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors.numpy
import torch
from torch import Tensor, nn

import nagedge
from nagedge.bundle import Bundle
from nagedge.data.preprocessing import Preprocessing
from nagedge.profiling import statistics
from nagedge.runtimes import open_inference, open_training
from nagedge.runtimes.batches import random_batch

Arrays = dict[str, npt.NDArray[Any]]

TARGET = "any-any-onnxruntime-fp32-train"
STEPS = 50
SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
TASKS = (
    nagedge.TaskSpec("digit", "classification", size=10),
    nagedge.TaskSpec("slant", "regression", size=1, weight=0.5, unit="degrees"),
    nagedge.TaskSpec("tags", "multilabel", size=2),
    nagedge.TaskSpec("crossed", "binary", size=1),
)


class Model(nn.Module):
    """Convolutions, whose learnt weights an add_initializer would lose, and a head for every kind of task."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2, bias=False), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 3, groups=8),
            nn.SiLU(), nn.Conv2d(8, 16, 1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        )  # fmt: skip
        self.heads = nn.ModuleList(nn.Linear(64, task.size) for task in TASKS)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        features = self.trunk(image)
        return tuple(head(features) for head in self.heads)


CASES: dict[str, dict[str, Any]] = {
    "folded": {},
    "norm-learns": {"batch_norm": "train"},
    "fixed-batch": {"batch": 6},
    "heads": {"trainable": "heads"},
}


def write_golden(folder: Path) -> None:
    """Write everything that the tests in Kotlin read."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, options in CASES.items():
        torch.manual_seed(0)
        bundle = nagedge.export(
            Model().eval(), tasks=TASKS, example_input=torch.randn(6, 1, 14, 14), targets=TARGET,
            out=folder / name / "bundle", **options,
        )  # fmt: skip
        _write_trajectory(bundle, folder / name)
    _write_preprocessing(folder)
    _write_statistics(folder)


def _write_trajectory(bundle: Bundle, folder: Path) -> None:
    """50 steps of the training step in Python's ONNX Runtime, and inference before and after."""
    rng = np.random.default_rng(0)
    training = open_training(bundle, runtime="onnxruntime")
    losses = []
    for step in range(STEPS):
        inputs, targets = random_batch(bundle.manifest, bundle.manifest.batch or 5, rng)
        weight = np.ones(len(inputs["image"]), np.float32)
        weight[-1] = 0.0 if step % 2 else 0.5
        arrays = {f"input.{key}": value for key, value in inputs.items()}
        arrays |= {f"target.{key}": value for key, value in targets.items()}
        _save(folder / f"batch-{step}.safetensors", {**arrays, "sample_weight": weight})
        found = training.step(inputs, targets, weight, **SETTINGS)
        losses.append({key if key == "loss" else f"loss.{key}": float(value) for key, value in found.items()})
    state = training.state()
    _save(
        folder / "state.safetensors",
        {
            f"{role}.{name}": array
            for role in ("params", "momentum", "buffers")
            for name, array in getattr(state, role).items()
        },
    )
    first = {"image": safetensors.numpy.load_file(folder / "batch-0.safetensors")["input.image"]}
    for name, params in {"before": None, "after": {**state.params, **state.buffers}}.items():
        outputs = open_inference(bundle, runtime="onnxruntime", params=params).predict(first)
        _save(folder / f"{name}.safetensors", outputs)
    content = {"settings": SETTINGS, "losses": losses, "hash": bundle.manifest.content_hash()}
    (folder / "golden.json").write_text(json.dumps(content))


def _write_preprocessing(folder: Path) -> None:
    """Images of bytes, and what Python makes of them."""
    rng = np.random.default_rng(0)
    document = {
        "input": "image",
        "steps": [
            {"step": "resize", "height": 14, "width": 9},
            {"step": "scale", "factor": 1 / 255},
            {"step": "normalise", "mean": [0.1, 0.2, 0.3], "std": [0.3, 0.31, 0.29]},
        ],
        "targets": {"slant": {"mean": [7.168864727020264], "std": [14.818902969360352]}},
        "layout": {
            "columns": [],
            "targets": {},
            "classes": {"digit": ["zero", "one"]},
            "colour": "RGB",
            "labels": "",
        },
    }
    preprocessing = Preprocessing.from_json(document)
    raw = rng.integers(0, 256, (1, 3, 28, 20)).astype(np.uint8)
    prepared = preprocessing.apply({"image": raw})["image"]
    _save(folder / "preprocessing.safetensors", {"raw": raw.astype(np.float32), "prepared": prepared})
    (folder / "preprocessing.json").write_text(json.dumps(document))


def _write_statistics(folder: Path) -> None:
    """Series of latencies, and what Python's statistics say of them."""
    rng = np.random.default_rng(0)
    steady = rng.lognormal(0.0, 0.05, 400)
    series = {
        "steady": steady,
        "few": steady[:12],
        "warming up": np.concatenate([np.linspace(3, 1.2, 60), steady]),
        "two modes": np.where(rng.random(400) < 0.4, 1.5, 1.0) * steady,
        "drifting": steady * np.linspace(1.0, 1.4, 400),
        "ties": np.round(steady, 2),
        "outliers": np.where(rng.random(400) < 0.02, 4.0, 1.0) * steady,
    }
    content = {}
    for name, samples in series.items():
        warm_up = statistics.detect_warm_up(samples)
        content[name] = {
            "samples": samples.tolist(),
            "warm_up": asdict(warm_up),
            "quantiles": [asdict(quantile) for quantile in statistics.quantiles(samples)],
            "outliers": asdict(statistics.find_outliers(samples)),
            "drift": asdict(statistics.detect_drift(samples)),
            "modes": asdict(statistics.detect_modes(samples)),
        }
    (folder / "statistics.json").write_text(json.dumps(content))


def _save(path: Path, arrays: Arrays) -> None:
    safetensors.numpy.save_file({key: np.ascontiguousarray(value) for key, value in arrays.items()}, path)
