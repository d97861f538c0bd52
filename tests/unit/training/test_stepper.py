"""Momentum schedules, restarts, decoupled decay, the guard against NaN, the search for a learning rate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError, TrainingDivergedError
from nagedge.sources import load_source
from nagedge.training.events import CheckpointWritten, Event, StepSkipped
from nagedge.training.fit import train
from nagedge.training.lr_finder import find_lr
from nagedge.training.optimizer_config import OptimizerConfig
from nagedge.training.run import Run
from nagedge.training.schedule import momentum_at
from nagedge.training.stepper import Stepper, turns_back

MakeRun = Callable[..., Run]
MakeData = Callable[..., DataSplits]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def test_momentum_schedules() -> None:
    assert [momentum_at(k, momentum=0.9, schedule="constant") for k in (0, 100)] == [0.9, 0.9]
    rising = [momentum_at(k, momentum=0.9, schedule="nesterov") for k in range(40)]
    assert rising[:3] == [1 / 4, 2 / 5, 3 / 6]
    assert rising == sorted(rising)
    assert rising[-1] == 0.9
    steps = [momentum_at(k, momentum=0.99, schedule="sutskever") for k in (0, 249, 250, 750, 10**6)]
    assert steps == [0.5, 0.5, 0.75, 0.875, 0.99]


def minimise(steps: int, **options: object) -> tuple[list[float], Stepper]:
    """Distance from the minimum of an ill-conditioned bowl, after each step."""
    scales = torch.tensor([1.0, 1e-3])
    param = nn.Parameter(torch.tensor([1.0, 1.0]))
    optimizer = torch.optim.SGD([param], lr=1.0, momentum=0.9, nesterov=True)
    config = OptimizerConfig.model_validate({"lr": 1.0, **options})
    stepper = Stepper(config, optimizer, optimizer, {"p": param}, {}, {})
    seen = []
    for _ in range(steps):
        loss = 0.5 * (scales * param * param).sum()
        param.grad = (scales * param).detach()
        stepper.prepare(1.0)
        assert stepper.take(loss.detach(), param.grad.norm())
        seen.append(float(0.5 * (scales * param.detach() ** 2).sum()))
    return seen, stepper


@pytest.mark.parametrize("restart", ["gradient", "loss"])
def test_adaptive_restarts_beat_constant_and_scheduled_momentum_on_a_bowl(restart: str) -> None:
    plain, _ = minimise(500, momentum=0.999, momentum_schedule="nesterov")
    restarted, stepper = minimise(500, momentum=0.999, momentum_schedule="nesterov", restart=restart)
    assert stepper.restarts >= 1
    assert restarted[-1] < plain[-1] / 100
    assert restarted[-1] < minimise(500, momentum=0.9)[0][-1] / 100


def test_scheduled_restarts() -> None:
    _, stepper = minimise(100, momentum_schedule="nesterov", restart="scheduled", restart_every=30)
    assert stepper.restarts == 3
    assert stepper.state()["since_restart"] == 10


def test_the_gradient_test_is_the_sign_of_the_next_step() -> None:
    g = [torch.tensor([1.0, 0.0])]
    assert not turns_back(g, [torch.tensor([1.0, 5.0])], 0.9)
    assert turns_back(g, [torch.tensor([-2.0, 0.0])], 0.9)
    assert not turns_back(
        g, [torch.tensor([-1.0, 0.0])], 0.9
    )  # 0.9 of it is still outweighed by the gradient
    assert not turns_back([], [], 0.9)


def test_decoupled_decay_shrinks_matrices_and_leaves_gradients_alone(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    layer = nn.Linear(2, 2)
    before = {name: param.detach().clone() for name, param in layer.named_parameters()}
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0, momentum=0.9, nesterov=True)
    config = OptimizerConfig(lr=0.1, weight_decay=0.5, decoupled=True)
    stepper = Stepper(config, optimizer, optimizer, dict(layer.named_parameters()), {}, {})
    for param in layer.parameters():
        param.grad = torch.zeros_like(param)
    stepper.prepare(0.1)
    stepper.take(torch.tensor(0.0), torch.tensor(0.0))
    torch.testing.assert_close(layer.weight.detach(), before["weight"] * 0.95)
    torch.testing.assert_close(layer.bias.detach(), before["bias"])
    optimizer_table = {"lr": 0.1, "weight_decay": 1e-2, "decoupled": True}
    checkpoint = train(make_run(optimizer=optimizer_table), out=tmp_path / "c", data=make_data())
    assert load_source(checkpoint).weight_decay == 0  # a device's step has the other kind


@pytest.mark.parametrize(
    "optimizer",
    [
        {"momentum_schedule": "nesterov", "restart": "gradient"},
        {"momentum_schedule": "nesterov", "restart": "loss"},
        {"restart": "scheduled", "restart_every": 5},
        {"on_nan": "skip", "momentum_schedule": "sutskever"},
    ],
    ids=["gradient", "loss", "scheduled", "guarded"],
)
def test_a_killed_run_goes_on_to_the_same_bits(
    optimizer: dict[str, object], tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    run = make_run(optimizer={"lr": 0.1, **optimizer}, checkpoint_steps=4)
    whole = train(run, out=tmp_path / "whole", data=make_data())

    def kill(event: Event) -> None:
        if isinstance(event, CheckpointWritten) and event.step == 8:
            raise Killed

    with pytest.raises(Killed):
        train(run, out=tmp_path / "killed", data=make_data(), progress=kill)
    resumed = train(run, out=tmp_path / "killed", resume=True, data=make_data())
    assert resumed.state.optimizer == whole.state.optimizer
    for name, value in whole.params().items():
        assert torch.equal(value, resumed.params()[name]), name


def with_bad_rows(data: DataSplits, *rows: int) -> DataSplits:
    for row in rows:
        data.train.inputs["features"][row] = np.inf
    return data


@pytest.mark.parametrize("method", ["sum", "uncertainty", "upgrad", "accumulation", "db_mtl"])
def test_the_guard_skips_a_step_and_says_so(
    method: str, tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    events: list[Event] = []
    table = {"method": method}
    run = make_run(optimizer={"lr": 0.05, "on_nan": "skip"}, balancing=table, schedule={"epochs": 2})
    checkpoint = train(run, out=tmp_path / "c", data=with_bad_rows(make_data(), 7), progress=events.append)
    skips = [event for event in events if isinstance(event, StepSkipped)]
    assert [event.lr_factor for event in skips] == [0.5, 0.25]  # the bad row comes once an epoch
    assert checkpoint.finished
    assert checkpoint.state.optimizer["skipped"] == 2
    assert all(bool(value.isfinite().all()) for value in checkpoint.params().values())
    assert checkpoint.state.history[-1].losses["loss"] > 0


def test_without_the_guard_the_same_run_stops(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    with pytest.raises(TrainingDivergedError, match="became"):
        train(make_run(), out=tmp_path / "c", data=with_bad_rows(make_data(), 7))


def test_the_guard_gives_up_at_last(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    run = make_run(optimizer={"lr": 0.05, "on_nan": "skip"})
    with pytest.raises(TrainingDivergedError, match="in 10 steps up to step 10, which were skipped"):
        train(run, out=tmp_path / "c", data=with_bad_rows(make_data(), *range(96)))


def test_a_learning_rate_is_found(make_run: MakeRun, make_data: MakeData) -> None:
    run = make_run(model={"trunk": "mlp", "hidden": [16]}, optimizer={"lr": 1.0})
    sweep = find_lr(run, data=make_data(480))
    assert len(sweep.rates) == len(sweep.losses) > 50
    assert sweep.losses[-1] > 1.5 * min(sweep.losses)  # it went on until it was too much
    assert 1e-3 < sweep.suggestion < 1.0
    with pytest.raises(ConfigurationError, match="expected 0 < lowest < highest"):
        find_lr(run, lowest=1.0, highest=0.1, data=make_data())


def test_a_restart_without_its_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="expected restart_every >= 1"):
        OptimizerConfig(restart="scheduled")
