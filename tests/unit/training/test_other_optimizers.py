"""SAM and schedule-free: what they compute, resuming to the same bits, BatchNorm at the average, refusals."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError
from nagedge.training.batches import DeviceExamples
from nagedge.training.checkpoint import Checkpoint
from nagedge.training.events import CheckpointWritten, Event
from nagedge.training.fit import make_fabric, train
from nagedge.training.other_optimizers import estimate_statistics
from nagedge.training.run import Run
from nagedge.training.step import set_up, training_step

MakeRun = Callable[..., Run]
MakeData = Callable[..., DataSplits]
OPTIMIZERS = {
    "schedule_free": {"lr": 0.1, "method": "schedule_free", "weight_decay": 1e-3},
    "sam": {"lr": 0.1, "sam": 0.1},
}
LIBRARIES = {"schedule_free": "schedulefree", "sam": "pytorch_optimizer"}


def with_norm() -> nn.Module:
    """A trunk with BatchNorm."""
    return nn.Sequential(nn.Linear(5, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8))


def needs(name: str) -> pytest.MarkDecorator:
    library = LIBRARIES[name]
    return pytest.mark.skipif(find_spec(library) is None, reason=f"{library} is not installed")


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=needs(name)) for name in OPTIMIZERS])
def test_a_killed_run_goes_on_to_the_same_bits(
    name: str, tmp_path: Path, make_run: MakeRun, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trunk_of_this_test", sys.modules[__name__])
    model = {"trunk": "trunk_of_this_test:with_norm"}
    run = make_run(optimizer=OPTIMIZERS[name], model=model, checkpoint_steps=4)
    whole = train(run, out=tmp_path / "whole", data=make_data())

    def kill(event: Event) -> None:
        if isinstance(event, CheckpointWritten) and event.step == 16:
            raise Killed

    with pytest.raises(Killed):
        train(run, out=tmp_path / "killed", data=make_data(), progress=kill)
    resumed = train(run, out=tmp_path / "killed", resume=True, data=make_data())
    for key, value in whole.params().items():
        assert torch.equal(value, resumed.params()[key]), key
    assert whole.state.test == resumed.state.test
    assert whole.state.history[-1].losses == resumed.state.history[-1].losses
    first, last = whole.state.history[0], whole.state.history[-1]
    assert last.validation_losses["loss"] < first.validation_losses["loss"]


@needs("schedule_free")
def test_what_is_kept_is_the_average_with_its_own_statistics(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the library's optimizer on the same gradients; the statistics are those of all training rows at x."""
    monkeypatch.setitem(sys.modules, "trunk_of_this_test", sys.modules[__name__])
    run = make_run(
        optimizer={"lr": 0.05, "method": "schedule_free"}, model={"trunk": "trunk_of_this_test:with_norm"},
        schedule={"epochs": 2}, batch_size=96,
    )  # fmt: skip
    kept = train(run, out=tmp_path / "c", data=make_data())
    assert set(kept.averaging()) == set(kept.momentum())
    assert not any(buffer.any() for buffer in kept.momentum().values())
    params, z = kept.params(), kept.averaging()
    assert any(not torch.equal(params[name], z[name]) for name in z)
    model = kept.build_model()
    x = torch.from_numpy(make_data().train.inputs["features"])
    hidden = model.trunk[0](x)
    torch.testing.assert_close(params["trunk.1.running_mean"], hidden.mean(0).detach(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(params["trunk.1.running_var"], hidden.var(0).detach(), rtol=1e-4, atol=1e-5)
    setup = set_up(make_fabric(1, "cpu", "auto"), run, tmp_path, run.task_specs(), make_data(), None)
    start = {name: param.detach().clone() for name, param in setup.params.items()}
    setup.model.train()
    training_step(setup, 0, torch.arange(96))
    with setup.as_it_is_kept():  # after one step x = z = x0 - lr g
        for name, param in setup.params.items():
            torch.testing.assert_close(param, start[name] - 0.05 * param.grad, rtol=1e-5, atol=1e-6)


@needs("sam")
def test_sam_steps_with_the_gradient_at_the_highest_loss_nearby(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    tasks = {"level": {"kind": "regression"}}
    plain = make_run(optimizer={"lr": 0.1}, tasks=tasks, model={"trunk": "mlp", "hidden": [4]})
    sharp = make_run(optimizer={"lr": 0.1, "sam": 0.3}, tasks=tasks, model={"trunk": "mlp", "hidden": [4]})
    rows = torch.arange(16)

    def setup_of(run: Run):  # noqa: ANN202
        setup = set_up(make_fabric(1, "cpu", "auto"), run, tmp_path, run.task_specs(), make_data(), None)
        setup.model.train()
        return setup

    first = setup_of(plain)
    training_step(first, 0, rows, rate=1e-30)
    gradient = {name: param.grad.clone() for name, param in first.params.items()}
    norm = torch.cat([g.flatten() for g in gradient.values()]).norm()
    there = setup_of(plain)
    with torch.no_grad():
        for name, param in there.params.items():
            param.add_(0.3 * gradient[name] / norm)
    training_step(there, 0, rows, rate=1e-30)
    got = setup_of(sharp)
    before = {name: param.detach().clone() for name, param in got.params.items()}
    training_step(got, 0, rows, rate=1e-30)
    for name, param in got.params.items():
        torch.testing.assert_close(param.grad, there.params[name].grad, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(param.detach(), before[name], rtol=0, atol=0)


def test_statistics_are_means_over_batches_without_dropout() -> None:
    model = nn.Sequential(nn.Dropout(0.5), nn.BatchNorm1d(3, momentum=0.1))
    x = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1
    model.eval()
    estimate_statistics(model, DeviceExamples(x, {}, None), 20)
    assert not model.training
    assert model[1].momentum == 0.1
    torch.testing.assert_close(model[1].running_mean, x.mean(0))
    torch.testing.assert_close(model[1].running_var, (x[:20].var(0) + x[20:].var(0)) / 2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("schedule_free", r"needs schedulefree \(Apache-2\.0\).*pip install 'nagedge\[schedule-free\]'"),
        ("sam", r"needs pytorch_optimizer \(Apache-2\.0\).*pip install 'nagedge\[sam\]'"),
    ],
)
def test_a_library_that_is_not_installed_is_named(
    name: str,
    text: str,
    tmp_path: Path,
    make_run: MakeRun,
    make_data: MakeData,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, LIBRARIES[name], None)
    with pytest.raises(ConfigurationError, match=text):
        train(make_run(optimizer=OPTIMIZERS[name]), out=tmp_path / "c", data=make_data())
    assert not (tmp_path / "c").exists()


def test_what_does_not_go_together(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    for key, value in (("restart", "gradient"), ("momentum_schedule", "nesterov"), ("sam", 0.1)):
        with pytest.raises(ConfigurationError, match=f"{key} does nothing for method 'schedule_free'"):
            make_run(optimizer={"method": "schedule_free", key: value})
    if find_spec("pytorch_optimizer") is not None:
        run = make_run(optimizer=OPTIMIZERS["sam"], balancing={"method": "pcgrad"})
        with pytest.raises(ConfigurationError, match="which balancing method 'pcgrad' does not have"):
            train(run, out=tmp_path / "c", data=make_data())
    plain = train(make_run(), out=tmp_path / "plain", data=make_data())
    assert Checkpoint.load(plain.path).averaging() == {}
    assert np.isfinite(plain.state.history[-1].losses["loss"])
