"""The report of a run, the TensorBoard log, and the cosines in both."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nagedge.data.cleaning import CleaningReport
from nagedge.data.examples import DataSplits, Examples
from nagedge.data.preprocessing import Preprocessing
from nagedge.models import MultiTaskModel
from nagedge.specs import TaskSpec, TensorSpec
from nagedge.training.batches import Batch
from nagedge.training.cosines import gradient_cosines
from nagedge.training.fit import train
from nagedge.training.run import parse_run
from nagedge.training.tensorboard import tensorboard_log
from nagedge.training_report import write_training_report


def examples(count: int, seed: int) -> Examples:
    x = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    return Examples({"x": x}, {"kind": x[:, :3].argmax(1), "yes": (x[:, 3] > 0).astype(np.float32)})


RUN = parse_run(
    {
        "data": {"source": "arrays", "path": "unused.npz", "input": "x"},
        "model": {"trunk": "mlp", "hidden": [16]},
        "tasks": {"kind": {"kind": "classification", "size": 3}, "yes": {"kind": "binary"}},
        "balancing": {"method": "imtl_g"},
        "schedule": {"epochs": 3},
        "batch_size": 20,
    },
    where="test",
)
DATA = DataSplits(
    examples(200, 0), examples(40, 1), examples(50, 2), TensorSpec("x", "float32", ("batch", 4)),
    Preprocessing("x"), CleaningReport("made up", 290, 290),
)  # fmt: skip


def test_cosines_are_those_of_the_gradients() -> None:
    torch.manual_seed(0)
    tasks = [TaskSpec("a", "regression", size=1), TaskSpec("b", "regression", size=1)]
    heads = {"a": nn.Linear(3, 1, bias=False), "b": nn.Linear(3, 1, bias=False)}
    model = MultiTaskModel(nn.Linear(4, 3), heads)
    batch = Batch(torch.randn(6, 4), {"a": torch.randn(6), "b": torch.randn(6)}, None)
    rows = []
    for task in tasks:
        features = model.trunk(batch.x).detach().requires_grad_()
        loss = ((heads[task.name](features)[:, 0] - batch.targets[task.name]) ** 2).mean()
        rows.append(torch.autograd.grad(loss, features)[0].flatten())
    expected = float(nn.functional.cosine_similarity(*rows, dim=0))
    assert gradient_cosines(model, batch, tasks) == {"a, b": pytest.approx(expected)}
    with torch.no_grad():
        heads["b"].weight.copy_(heads["a"].weight)
    same = Batch(batch.x, {"a": batch.targets["a"], "b": batch.targets["a"]}, None)
    assert gradient_cosines(model, same, tasks)["a, b"] == pytest.approx(1.0)


def test_the_report_and_the_log_hold_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    checkpoint = train(RUN, out=tmp_path / "c", data=DATA, progress=tensorboard_log(tmp_path / "log"))
    assert set(checkpoint.state.history[-1].cosines) == {"kind, yes"}
    page = write_training_report(checkpoint, tmp_path / "report.html", test=DATA.test).read_text()
    for text in (
        "Confusion: kind",
        "Confusion: yes",
        "weight of kind",
        "cosine: kind, yes",
        "imtl_g",
        "50 test examples",
    ):
        assert text in page
    assert page.count("<svg") >= 6
    log = EventAccumulator(str(tmp_path / "log"))
    log.Reload()
    tags = log.Tags()["scalars"]
    assert {"loss/kind", "weight/yes", "cosine/kind-yes", "accuracy/kind", "test_accuracy/yes", "lr"} <= set(
        tags
    )
    weights = [event.value for event in log.Scalars("weight/yes")]
    assert weights == pytest.approx([epoch.weights["yes"] for epoch in checkpoint.state.history])
    test = log.Scalars("test_accuracy/yes")[0]
    assert (test.step, test.value) == (30, pytest.approx(checkpoint.state.test["yes"]["accuracy"]))


def test_confusions_add_up_to_the_accuracy(tmp_path: Path) -> None:
    checkpoint = train(RUN, out=tmp_path / "c", data=DATA)
    from nagedge.training_report import _confusions

    for section, task in zip(_confusions(checkpoint, DATA.test), ("kind", "yes"), strict=True):
        counts = np.array([[int(cell) for cell in row[1:]] for row in section.rows])
        assert counts.sum() == 50
        assert np.trace(counts) / 50 == pytest.approx(checkpoint.state.test[task]["accuracy"])
