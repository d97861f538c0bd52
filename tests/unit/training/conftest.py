"""A run that takes a second: 96 made-up rows, three tasks, an MLP with dropout."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from nagedge.data.cleaning import CleaningReport
from nagedge.data.examples import DataSplits, Examples
from nagedge.data.preprocessing import Preprocessing, StandardiseTarget
from nagedge.specs import TensorSpec
from nagedge.training.run import Run, parse_run

INPUT = TensorSpec("features", "float32", ("batch", 5))


def small_run(**changes: object) -> Run:
    document: dict[str, object] = {
        "data": {"source": "arrays", "path": "unused.npz"},
        "model": {"trunk": "mlp", "hidden": [16, 8], "dropout": 0.2},
        "tasks": {
            "kind": {"kind": "classification", "size": 3},
            "level": {"kind": "regression", "weight": 0.5},
            "tags": {"kind": "multilabel", "size": 2},
        },
        "optimizer": {"lr": 0.1, "weight_decay": 1e-3, "clip_norm": 2.0},
        "schedule": {"epochs": 3, "warmup": 0.5},
        "batch_size": 16,
        "seed": 5,
    }
    return parse_run(document | changes, where="test")


def rows(count: int, seed: int, *, weighted: bool = False) -> Examples:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((count, 5)).astype(np.float32)
    return Examples(
        inputs={"features": x},
        targets={
            "kind": x[:, :3].argmax(axis=1),
            "level": (x[:, 0] - x[:, 1]).astype(np.float32),
            "tags": (x[:, 3:] > 0).astype(np.float32),
        },
        sample_weight=np.linspace(0.5, 1.5, count, dtype=np.float32) if weighted else None,
    )


def small_data(count: int = 96, *, weighted: bool = False) -> DataSplits:
    return DataSplits(
        train=rows(count, 0, weighted=weighted),
        validation=rows(24, 1),
        test=rows(24, 2),
        input=INPUT,
        preprocessing=Preprocessing("features", targets={"level": StandardiseTarget((2.0,), (3.0,))}),
        report=CleaningReport("made up", rows_read=count + 48, rows_kept=count + 48),
    )


@pytest.fixture
def make_run() -> Callable[..., Run]:
    return small_run


@pytest.fixture
def make_data() -> Callable[..., DataSplits]:
    return small_data
