"""The search from end to end, on made-up images of which the upper half tells the class."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nagedge.cli.app import app
from nagedge.data.load import load_data
from nagedge.errors import ConfigurationError
from nagedge.fitting import Tried, fit_device, parse_budgets
from nagedge.fitting.candidates import Candidate, Choices, candidates_of
from nagedge.fitting.search import pareto
from nagedge.fitting.short_run import Score, shortened
from nagedge.models.config import ModelConfig
from nagedge.specs import TensorSpec
from nagedge.training.run import Run, load_run, parse_run

RUN = """
output = "runs/first"
batch_size = 16
[data]
source = "arrays"
path = "images.npz"
input = "image"
[model]
trunk = "cnn"
channels = [4, 8]
[tasks.bright]
kind = "classification"
size = 2
[tasks.light]
kind = "regression"
[optimizer]
lr = 0.05
[schedule]
epochs = 4
warmup = 1
"""


@pytest.fixture
def run_file(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    image = rng.standard_normal((200, 1, 8, 8)).astype(np.float32)
    bright = rng.integers(0, 2, 200)
    image[:, 0, :4] += bright[:, None, None]
    np.savez(tmp_path / "images.npz", image=image, bright=bright, light=image.mean((1, 2, 3)))
    path = tmp_path / "run.toml"
    path.write_text(RUN, encoding="utf-8")
    return path


def test_candidates_vary_what_the_run_has() -> None:
    run = parse_run(
        {
            "data": {
                "source": "audio", "path": "x", "labels": "y",
                "preprocessing": {"log_mel": {"mels": 40}},
            },
            "model": {"trunk": "ds_cnn", "channels": [16, 32], "dropout": 0.2},
            "tasks": {"letter": {"kind": "classification", "size": 3}},
        },
        where="test",
    )  # fmt: skip
    spec = TensorSpec("sound", "float32", ("batch", 1, 49, 40))
    found = candidates_of(run, spec, Choices(widths=(0.5, 1.0)))
    assert [candidate.name for candidate in found] == [
        "ds_cnn channels 8-16 batch-norm", "ds_cnn channels 8-16 group-norm", "ds_cnn channels 16-32 batch-norm",
        "ds_cnn channels 16-32 group-norm", "bc_resnet width 0.5 batch-norm", "bc_resnet width 0.5 group-norm",
        "bc_resnet width 1 batch-norm", "bc_resnet width 1 group-norm",
    ]  # fmt: skip
    assert all(candidate.model.dropout == pytest.approx(0.2) for candidate in found)


def test_the_cheapest_that_learns_is_chosen_and_its_run_file_trains(run_file: Path, tmp_path: Path) -> None:
    outputs = {name: tmp_path / name for name in ("found.json", "plot.svg", "store.json")}
    arguments = [
        "fit-device", str(run_file), "--budget", "macs=12k", "--budget", "params=450", "--steps", "20",
        "--width", "0.5", "--width", "1", "--norm", "batch", "--json", str(outputs["found.json"]),
        "--plot", str(outputs["plot.svg"]), "--storage", str(outputs["store.json"]),
    ]  # fmt: skip
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(outputs["found.json"].read_text())
    by_name = {one["name"]: one for one in found["candidates"]}
    assert list(by_name) == sorted(by_name, key=lambda name: by_name[name]["costs"]["macs"])
    assert [one["costs"]["macs"] for one in by_name.values()] == sorted([
        16 * 18 + 4 * 72 + 12, 64 * 18 + 16 * 72 + 12, 16 * 36 + 4 * 288 + 24, 64 * 36 + 16 * 288 + 24
    ])  # fmt: skip
    assert [one["affordable"] for one in by_name.values()] == [True, True, True, True]
    losses = {name: one["validation_loss"] for name, one in by_name.items()}
    assert found["chosen"] == min(losses, key=losses.__getitem__)
    assert all(one["steps"] == 21 for one in by_name.values())  # three epochs of seven steps
    run = load_run(tmp_path / "run.fitted.toml")
    chosen = by_name[found["chosen"]]
    assert run.model == ModelConfig.model_validate(chosen["model"])
    assert list(run.data.preprocessing.resize or ()) == chosen["resolution"]
    assert load_data(run.data, run.task_specs()).input.shape[2:] == tuple(chosen["resolution"] or (8, 8))
    svg = outputs["plot.svg"].read_text()
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    assert "multiply-adds" in svg
    before = outputs["store.json"].read_text()
    again = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "again.toml")])
    assert again.exit_code == 0, again.output
    assert outputs["store.json"].read_text() == before  # nothing was done a second time
    assert json.loads(outputs["found.json"].read_text()) == found


def test_the_store_of_another_search_is_refused(run_file: Path, tmp_path: Path) -> None:
    store = tmp_path / "store.json"
    choices = Choices(widths=(0.5,), resolutions=(4,), norms=("batch",))
    budgets = parse_budgets(["params=1k"])
    fit_device(run_file, budgets, choices=choices, steps=2, storage=store)
    with pytest.raises(
        ConfigurationError, match="belongs to another search: run file, --steps, --batch or --core"
    ):
        fit_device(run_file, budgets, choices=choices, steps=3, storage=store)
    store.write_text("[]")
    with pytest.raises(ConfigurationError, match="cannot be gone on with: TypeError"):
        fit_device(run_file, budgets, choices=choices, steps=2, storage=store)


def test_nothing_that_fits_names_the_smallest(run_file: Path) -> None:
    result = CliRunner().invoke(app, ["fit-device", str(run_file), "--budget", "macs=100", "--norm", "group"])
    assert result.exit_code == 2
    assert (
        "none of 8 candidates fits the budget (macs 100). The smallest is 'cnn channels 1-2 at 4x4"
        in result.stderr
    )
    assert "Raise the budget, or allow a smaller --width or --resolution." in result.stderr
    assert not run_file.with_name("run.fitted.toml").exists()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "no budget was given"),
        (["--budget", "macs=1M", "--norm", "layer"], "norm is 'layer', expected one of batch, group."),
        (["--budget", "macs=1M", "--width", "-1"], "width is -1, expected factors above 0."),
        (["--budget", "macs=1M", "--resolution", "0"], "resolution is 0, expected pixels >= 1."),
        (
            ["--budget", "macs=1M", "--trunk", "cmn"],
            "trunk 'cmn' cannot be tried with this run: unknown trunk 'cmn'",
        ),
        (["--budget", "instructions=1M", "--core", "z80"], "unknown core 'z80'"),
    ],
)
def test_bad_choices_are_one_error(run_file: Path, arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(app, ["fit-device", str(run_file), *arguments])
    assert result.exit_code == 2
    assert text in result.stderr


def tried(cost: float, loss: float | None, *, affordable: bool = True) -> Tried:
    score = Score(loss, {}, 1) if affordable else None
    return Tried(Candidate(ModelConfig()), {"macs": cost}, affordable, score)


def test_the_front_holds_what_nothing_beats() -> None:
    ones = [
        tried(1, 9.0),
        tried(2, 9.0),
        tried(3, 5.0),
        tried(4, 6.0),
        tried(5, None),
        tried(0, None, affordable=False),
    ]
    assert [one.efficient for one in pareto(ones, "macs")] == [True, False, True, False, False, False]


@pytest.mark.parametrize(("steps", "taken"), [(1, 1), (8, 8), (9, 10), (20, 21)])
def test_short_runs_are_as_long_as_asked_for(run_file: Path, steps: int, taken: int) -> None:
    run: Run = load_run(run_file)
    data = load_data(run.data, run.task_specs())
    assert len(data.train) // 16 == 8
    short, part, count = shortened(run, data, steps)
    assert count == taken
    assert short.schedule.epochs * (len(part.train) // 16) == taken
    assert short.schedule.warmup == pytest.approx(short.schedule.epochs / 4)
    assert dataclasses.replace(part, train=data.train) == data
