"""Balancing in a run: it trains, resumes to the same bits, and what it ended with is what is exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError
from nagedge.sources import load_source
from nagedge.training.checkpoint import Checkpoint
from nagedge.training.events import CheckpointWritten, Event
from nagedge.training.fit import train
from nagedge.training.run import Run

MakeRun = Callable[..., Run]
MakeData = Callable[..., DataSplits]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


@pytest.mark.parametrize(
    "balancing",
    [
        {"method": "dwa"},
        {"method": "famo"},
        {"method": "uncertainty"},
        {"method": "gradvac"},
        {"method": "pcgrad", "scope": "trunk"},
        {"method": "excess_mtl", "scope": "trunk"},
        {"method": "db_mtl", "scope": "trunk", "options": {"beta": 0.9}},
        {"method": "gradnorm"},
        {"method": "accumulation", "options": {"every": 2}},
    ],
    ids=lambda table: table["method"],
)
def test_a_killed_run_goes_on_to_the_same_bits(
    balancing: dict[str, object], tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    run = make_run(balancing=balancing, checkpoint_steps=4)
    whole = train(run, out=tmp_path / "whole", data=make_data())

    def kill(event: Event) -> None:
        if isinstance(event, CheckpointWritten) and event.step == 16:  # 6 steps an epoch: within the third
            raise Killed

    with pytest.raises(Killed):
        train(run, out=tmp_path / "killed", data=make_data(), progress=kill)
    resumed = train(run, out=tmp_path / "killed", resume=True, data=make_data())
    for name, value in whole.params().items():
        assert torch.equal(value, resumed.params()[name]), name
    assert whole.state.history[-1].weights == resumed.state.history[-1].weights
    assert whole.state.history[-1].losses == resumed.state.history[-1].losses


def test_the_weights_that_balancing_ended_with_are_exported(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    checkpoint = train(make_run(balancing={"method": "imtl_g"}), out=tmp_path / "c", data=make_data())
    ended = checkpoint.state.history[-1].weights
    assert set(ended) == {"kind", "level", "tags"}
    exported = {task.name: task.weight for task in load_source(checkpoint).tasks}
    assert exported == {name: max(0.0, weight) for name, weight in ended.items()}
    assert exported != {task.name: task.weight for task in checkpoint.tasks}
    plain = train(make_run(), out=tmp_path / "plain", data=make_data())
    assert {task.name: task.weight for task in load_source(plain).tasks} == {
        "kind": 1,
        "level": 0.5,
        "tags": 1,
    }
    assert plain.state.history[-1].weights == {"kind": 1, "level": 0.5, "tags": 1}


def test_a_state_file_goes_when_it_is_no_longer_named(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    train(make_run(balancing={"method": "uncertainty"}), out=tmp_path / "c", data=make_data())
    assert len(list((tmp_path / "c").glob("balancer-*.safetensors"))) == 1
    assert Checkpoint.load(tmp_path / "c").balancer().tensors.keys() == {"last", "module//log_var"}


def test_a_model_of_one_piece_is_balanced_on_its_parameters_only(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "one_piece.py").write_text(
        "import torch\n"
        "class Whole(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.body, self.a = torch.nn.Linear(5, 6), torch.nn.Linear(6, 3)\n"
        "        self.b, self.c = torch.nn.Linear(6, 1), torch.nn.Linear(6, 2)\n"
        "    def forward(self, x):\n"
        "        z = torch.tanh(self.body(x))\n"
        "        return {'kind': self.a(z), 'level': self.b(z), 'tags': self.c(z)}\n"
    )
    monkeypatch.chdir(tmp_path)
    model = {"trunk": "one_piece:Whole"}
    with pytest.raises(ConfigurationError, match=r"Set balancing\.scope to 'trunk'"):
        train(make_run(model=model, balancing={"method": "upgrad"}), out=tmp_path / "f", data=make_data())
    table = {"method": "upgrad", "scope": "trunk"}
    checkpoint = train(make_run(model=model, balancing=table), out=tmp_path / "t", data=make_data())
    assert checkpoint.state.history[-1].losses["loss"] < checkpoint.state.history[0].losses["loss"]


def test_a_task_whose_turn_comes_late_trains(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    """Its head has no gradient in the first steps, when the others' momentum begins."""
    table = {
        "method": "accumulation",
        "preference": {"kind": 1.0, "level": 1.0, "tags": 0.1},
        "options": {"importance": "preference", "micro_batches": 2},
    }
    checkpoint = train(make_run(balancing=table), out=tmp_path / "c", data=make_data())
    assert checkpoint.finished
    head = next(name for name in checkpoint.momentum() if "heads.tags" in name and "weight" in name)
    assert checkpoint.momentum()[head].any()
