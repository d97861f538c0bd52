from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from nagedge.cli.app import app

RUN = """
output = "checkpoint"
batch_size = 16
[data]
source = "arrays"
path = "examples.npz"
[model]
trunk = "mlp"
[tasks.sign]
kind = "binary"
[schedule]
epochs = 2
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(80, 3)).astype(np.float32)
    np.savez(tmp_path / "examples.npz", input=values, sign=(values[:, 0] > 0).astype(np.float32))
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path


def test_train_prints_each_epoch_and_the_test_metrics(folder: Path) -> None:
    result = CliRunner().invoke(app, ["train", str(folder / "run.toml")])
    assert result.exit_code == 0, result.output
    assert (folder / "checkpoint/checkpoint.json").exists()
    rows = [line.split()[0] for line in result.stdout.splitlines() if line.strip()]
    assert rows.count("1") == rows.count("2") == 1
    assert f"checkpoint  {(folder / 'checkpoint').resolve()}" in result.stdout
    assert "next: nagedge export" in result.stdout


def test_train_refuses_to_overwrite_and_resumes_a_finished_run(folder: Path) -> None:
    arguments = ["train", str(folder / "run.toml"), "--out", str(folder / "elsewhere")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    before = (folder / "elsewhere/checkpoint.json").read_bytes()
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2
    assert refused.stderr.startswith("error: ")
    assert "resume" in refused.stderr
    assert CliRunner().invoke(app, [*arguments, "--resume"]).exit_code == 0
    assert (folder / "elsewhere/checkpoint.json").read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("batch_size", "batchsize", "unknown key 'batchsize'. Did you mean 'batch_size'?"),
        ('"examples.npz"', '"none.npz"', "none.npz"),
        ("[tasks.sign]", "[tasks.sing]", "'sing'"),
        ("epochs = 2", "epochs = ", "is not valid TOML"),
    ],
)
def test_bad_input_is_one_text_and_writes_nothing(folder: Path, old: str, new: str, text: str) -> None:
    run = folder / "run.toml"
    run.write_text(RUN.replace(old, new))
    result = CliRunner().invoke(app, ["train", str(run)])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "checkpoint").exists()
