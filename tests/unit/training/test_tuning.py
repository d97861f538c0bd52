"""The search: it finds better values, goes on where it stopped, and stops bad trials."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError, TrainingDivergedError
from nagedge.training.run import Run
from nagedge.training.tuning import Search, applied, tune

MakeRun = Callable[..., Run]
MakeData = Callable[..., DataSplits]
WIDE = Search(lr=(1e-5, 100.0), momentum=(0.5, 0.95))


def short(make_run: MakeRun) -> Run:
    return make_run(schedule={"epochs": 2}, model={"trunk": "mlp", "hidden": [8]})


def test_it_finds_values_and_stops_bad_trials(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    pytest.importorskip("optuna")
    seen: list[tuple[int, int]] = []
    tuned = tune(short(make_run), trials=14, search=WIDE, data=make_data(), report=lambda *n: seen.append(n))
    assert seen[-1] == (14, 14)
    states = [trial.state for trial in tuned.trials]
    assert len(states) == 14
    assert "pruned" in states
    scores = [trial.score for trial in tuned.trials if trial.state == "complete"]
    assert tuned.best.score == min(score for score in scores if score is not None)
    assert tuned.best.score < max(score for score in scores if score is not None)
    assert 1e-5 < tuned.best.values["lr"] < 10  # type: ignore[operator]
    assert 0.5 <= tuned.best.values["momentum"] <= 0.95  # type: ignore[operator]


def test_a_study_goes_on_in_its_file(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    pytest.importorskip("optuna")
    run, storage = short(make_run), tmp_path / "folder/study.log"
    search = Search(weight=(0.1, 10.0), methods=("sum", "imtl_g"))
    first = tune(run, trials=2, search=search, storage=storage, data=make_data())
    both = tune(run, trials=2, search=search, storage=storage, data=make_data())
    assert both.trials[:2] == first.trials
    assert [trial.number for trial in both.trials] == [0, 1, 2, 3]
    assert set(both.best.values) == {"lr", "momentum", "weight.level", "weight.tags", "method"}
    with pytest.raises(ConfigurationError, match="belongs to another run"):
        tune(make_run(seed=9), trials=1, search=search, storage=storage, data=make_data())


def test_the_values_of_a_trial_are_those_of_its_run(make_run: MakeRun) -> None:
    values: dict[str, float | str] = {"lr": 0.3, "momentum": 0.7, "weight.tags": 2.0, "method": "dwa"}
    run = applied(make_run(balancing={"method": "imtl_g"}), values)
    assert (run.optimizer.lr, run.optimizer.momentum, run.balancing.method) == (0.3, 0.7, "dwa")
    assert [task.weight for task in run.task_specs()] == [1.0, 0.5, 2.0]
    assert run.optimizer.clip_norm == 2.0


@pytest.mark.parametrize(
    ("search", "text"),
    [
        (Search(lr=(1.0, 0.1)), "range of lr is 1 to 0.1"),
        (Search(momentum=(0.5, 1.0)), "expected two rising numbers > 0, below 1"),
        (Search(methods=("pcgrd",)), "Did you mean 'pcgrad'"),
    ],
)
def test_an_empty_search_is_refused(
    search: Search, text: str, make_run: MakeRun, make_data: MakeData
) -> None:
    pytest.importorskip("optuna")
    with pytest.raises(ConfigurationError, match=text):
        tune(make_run(), search=search, data=make_data())


def test_when_all_trials_diverge(make_run: MakeRun, make_data: MakeData) -> None:
    pytest.importorskip("optuna")
    run = make_run(optimizer={"lr": 0.1}, model={"trunk": "mlp", "hidden": [16]})
    with pytest.raises(TrainingDivergedError, match="none of 2 trials"):
        tune(run, trials=2, search=Search(lr=(1e20, 1e21)), data=make_data())


def test_without_optuna_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, make_run: MakeRun) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'nagedge\[tune\]'"):
        tune(make_run())


def test_the_command(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    from nagedge.cli.app import app

    (tmp_path / "t.csv").write_text("x,y\n" + "".join(f"{i / 50},{2 * i / 50}\n" for i in range(100)))
    (tmp_path / "run.toml").write_text(
        '[data]\nsource = "table"\npath = "t.csv"\ncolumns = ["x"]\n[model]\ntrunk = "mlp"\nhidden = [4]\n'
        '[tasks.y]\nkind = "regression"\n[schedule]\nepochs = 2\n'
    )
    arguments = ["tune", str(tmp_path / "run.toml"), "--trials", "3", "--lr", "0.001", "0.1"]
    result = CliRunner().invoke(
        app, [*arguments, "--storage", str(tmp_path / "study")], catch_exceptions=False
    )
    assert result.exit_code == 0
    assert "[optimizer]" in result.output
    assert "3 trials" in result.output
