from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nagedge
from nagedge.cli.app import app
from nagedge.demo import STEPS, before_and_after, demo_files
from nagedge.errors import ConfigurationError


def test_the_demo_goes_the_whole_path(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    result = CliRunner().invoke(app, ["demo", "--out", str(out)])
    assert result.exit_code == 0, result.output
    titles = ("Training", "Test digits", "Bundle", "Worst of", "examples learnt", "Latency on")
    assert [title for title in titles if title not in result.stdout] == []
    files = {path.name for path in out.iterdir()}
    assert files == {
        "run.toml", "checkpoint", "bundle", "comparisons.json", "user.npz", "user-evaluation.npz", "tuned",
        "profile.json", "report.html",
    }  # fmt: skip
    assert all(str(out / name) in result.stdout for name in files)

    comparisons = json.loads((out / "comparisons.json").read_text())
    assert max(comparison["step"] for comparison in comparisons) == STEPS
    assert all(comparison["within_tolerance"] for comparison in comparisons)

    before, after = map(float, re.search(r"digit +accuracy +([0-9.]+) +([0-9.]+)", result.stdout).groups())
    assert after > before

    checkpoint = nagedge.Checkpoint.load(out / "checkpoint")
    assert checkpoint.state.test["digit"]["accuracy"] > 0.9
    assert nagedge.load(out / "tuned").manifest.training is not None

    report = (out / "report.html").read_text()
    assert "simulated user" in report
    assert re.findall(r"""(?:src|href)=["'](?:https?:)?//""", report) == []


def test_a_folder_with_files_is_refused_and_an_empty_one_is_used(tmp_path: Path) -> None:
    assert demo_files(tmp_path).bundle == tmp_path / "bundle"
    (tmp_path / "mine.txt").write_text("mine")
    for used in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(
            ConfigurationError, match=r"holds files already, which are kept; give a new folder"
        ):
            demo_files(used)
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_without_a_folder_the_next_free_name_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [demo_files(None).folder.name for _ in range(3)] == [
        "nagedge-demo",
        "nagedge-demo-2",
        "nagedge-demo-3",
    ]


def test_errors_are_better_when_lower_and_in_the_tasks_unit() -> None:
    before, after = {"slant": {"mae": 3.0, "r2": 0.9}}, {"slant": {"mae": 2.0, "r2": 0.8}}
    mae, r2 = before_and_after(before, after, {"slant": "degrees"})
    assert (mae.improved, mae.unit) == (True, "degrees")
    assert (r2.improved, r2.unit) == (False, "")
