"""Balancing and restarts inside exported steps: every runtime against PyTorch and TorchJD, and the state's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from runtime_harness import arrays, assert_close
from torch import Tensor, nn

from nagedge.bundle import Bundle
from nagedge.errors import ConfigurationError
from nagedge.export import export
from nagedge.runtimes import open_inference, open_training
from nagedge.specs import LossSpec, TaskSpec
from nagedge.step_rules import BALANCING, StepRules
from nagedge.training.nesterov import nesterov_step
from nagedge.training.stepper import turns_back

ONNX, LITERT = "any-any-onnxruntime-fp32-train", "android-arm64-litert-fp32-train"
ORT_TRAINING, COREML = "android-arm64-ort_training-fp32-train", "ios-arm64-coreml-fp32-train"
TARGETS = (ONNX, LITERT, ORT_TRAINING, COREML)
SETTINGS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
TASKS = (
    TaskSpec("kind", "classification", size=3),
    TaskSpec("level", "regression", size=2, loss=LossSpec("mse", missing=True), weight=0.5),
    TaskSpec("sign", "binary", size=1),
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 12), nn.Tanh(), nn.Linear(12, 8), nn.Tanh())
        self.heads = nn.ModuleDict({task.name: nn.Linear(8, task.size) for task in TASKS})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.trunk(x)
        return {name: head(features) for name, head in self.heads.items()}


def made(folder: Path, targets: Any = ONNX, **options: Any) -> Bundle:
    torch.manual_seed(3)
    return export(
        Model(),
        tasks=TASKS,
        example_input=torch.randn(4, 5),
        targets=targets,
        out=folder / "bundle",
        **options,
    )


def batch(step: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return a batch whose tasks disagree; every third has no levels, every fifth no kinds."""
    rng = np.random.default_rng(step)
    x = rng.normal(size=(6, 5)).astype(np.float32)
    kind = (x[:, 0] > 0).astype(np.int64) + (x[:, 1] > 0)
    level = np.stack([3 * x[:, 0], -2 * x[:, 0] * x[:, 1]], 1).astype(np.float32)
    if step % 3 == 2:
        level[:] = np.nan
    if step % 5 == 4:
        kind[:] = -100
    return {"x": x}, {"kind": kind, "level": level, "sign": (x[:, 0] < 0).astype(np.float32)}


@pytest.mark.parametrize("balancing", [name for name in BALANCING if name != "static"])
def test_every_runtime_balances_as_torchjd_does(balancing: str, tmp_path: Path) -> None:
    targets = [t for t in TARGETS if not (balancing == "famo" and t == ORT_TRAINING)]
    bundle = made(tmp_path, targets, balancing=balancing)
    reference = open_training(bundle, runtime="torch")
    sessions = [open_training(bundle, target) for target in targets]
    plain = open_training(made(tmp_path / "plain"), runtime="torch")
    for step in range(24):  # more than two of DWA's windows
        inputs, wanted = batch(step)
        expected = reference.step(inputs, wanted, **SETTINGS)
        plain.step(inputs, wanted, **SETTINGS)
        for session in sessions:
            assert_close(session.step(inputs, wanted, **SETTINGS), expected)
            assert_close(arrays(session.state()), arrays(reference.state()), rtol=1e-3, atol=2e-5)
    unlike = plain.state().params["trunk.0.weight"] - reference.state().params["trunk.0.weight"]
    assert np.abs(unlike).max() > 1e-3  # the method does something


def test_a_step_with_balancing_remembers_by_name(tmp_path: Path) -> None:
    bundle = made(tmp_path, balancing="uncertainty", restart="gradient")
    training = bundle.manifest.training
    assert training is not None
    assert training.buffers == ["balancing.last", "balancing.log_variance", "restart.count"]
    assert (training.balancing, training.restart) == ("uncertainty", "gradient")
    session = open_training(bundle)
    for step in range(5):
        session.step(*batch(step), **SETTINGS)
    state = session.state()
    again = open_training(bundle, state=state)
    inputs, wanted = batch(5)
    assert session.step(inputs, wanted, **SETTINGS) == again.step(inputs, wanted, **SETTINGS)
    assert_close(arrays(session.state()), arrays(again.state()), rtol=0, atol=0)
    learnt = state.params | state.buffers  # inference takes what was learnt, and does not mind the rest
    assert open_inference(bundle, params=learnt).predict(inputs)["kind"].shape == (6, 3)


@pytest.mark.parametrize("restart", ["gradient", "loss"])
def test_every_runtime_restarts_when_the_reference_does(restart: str, tmp_path: Path) -> None:
    bundle = made(tmp_path, [t for t in TARGETS if t != ORT_TRAINING], restart=restart)
    reference = open_training(bundle, runtime="torch")
    sessions = [open_training(bundle, target) for target in bundle.manifest.targets]
    for _ in range(40):
        inputs, wanted = batch(0)  # one batch: at this momentum it overshoots
        settings = {"lr": 0.2, "momentum": 0.99, "weight_decay": 0.0}
        reference.step(inputs, wanted, **settings)
        for session in sessions:
            session.step(inputs, wanted, **settings)
    expected = reference.state()
    assert expected.buffers["restart.count"][0] >= 1
    for session in sessions:
        assert session.state().buffers["restart.count"][0] == expected.buffers["restart.count"][0]
        assert_close(arrays(session.state()), arrays(expected), rtol=1e-3, atol=1e-4)


def test_the_reference_restarts_as_the_host_does() -> None:
    """The readable update with the host's own test gives what a quadratic's step in the graph gives."""
    from nagedge.graphs.restart import RestartTest
    from nagedge.graphs.update import nesterov_update

    curvature = torch.tensor([1.0, 0.01], dtype=torch.float64)
    param, velocity = torch.tensor([1.0, 1.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    host = [param.clone(), velocity.clone()]
    lr, momentum = torch.tensor(0.9, dtype=torch.float64), torch.tensor(0.98, dtype=torch.float64)
    count, restarts = 0, torch.zeros(1)
    for _ in range(300):
        gradient = curvature * host[0]
        if turns_back([gradient], [host[1]], 0.98):
            host[1] = torch.zeros(2, dtype=torch.float64)
            count += 1
        host = list(nesterov_step(host[0], gradient, host[1], lr=0.9, momentum=0.98))
        test = RestartTest(StepRules(restart="gradient"), momentum, torch.tensor(0.0), {"count": restarts})
        (param,), (velocity,) = nesterov_update(
            ["p"], [param], [curvature * param], [velocity], decayed=(), lr=lr, momentum=momentum,
            weight_decay=torch.tensor(0.0), restarts=test,
        )  # fmt: skip
        restarts = test.state()["count"]
        torch.testing.assert_close(param, host[0])
    assert count == int(restarts) >= 2


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            {"balancing": "uncertain"},
            "balancing of an exported step is 'uncertain'.*Did you mean 'uncertainty'",
        ),
        (
            {"restart": "often"},
            "restart of an exported step is 'often', expected one of none, gradient, loss",
        ),
        ({"balancing": "pcgrad", "trainable": "heads"}, "balancing 'pcgrad' has nothing to compare"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, str], text: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=text):
        made(tmp_path, **options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"speed": 1.0}, "has no option 'speed'; it has: temperature, window"),
        ({"temperature": 0.0}, "is 0.0, expected a finite number > 0"),
        ({"window": float("nan")}, "expected a finite number >= 1"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, float], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        StepRules("dwa", options)


def test_ort_training_refuses_what_it_cannot_hold(tmp_path: Path) -> None:
    bundle = made(tmp_path, [ONNX, ORT_TRAINING], restart="loss")
    assert "computes gradients and update in two models" in bundle.manifest.refused[ORT_TRAINING]
