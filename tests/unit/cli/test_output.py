from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING

import pytest

from nagedge.cli.output import print_paths, print_table, progress_bar, write_json

if TYPE_CHECKING:
    from pathlib import Path


def test_a_table_shows_every_kind_of_cell_and_markup_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Losses", ["task", "value", "ok"], [["[red]digit", 0.123456, True], ["slant", None, False]])
    title, header, _, first, second = [
        line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()
    ]
    assert title.strip() == "Losses"
    assert header.split() == ["task", "value", "ok"]
    assert first.split() == ["[red]digit", "0.1235", "yes"]
    assert second.split() == ["slant", "no"]


def test_a_long_name_is_not_wrapped_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    name = "params." + "trunk.block." * 6 + "weight"
    print_table("Tensors", ["tensor", "step"], [[name, 3]])
    assert name in capsys.readouterr().out


def test_paths_stand_below_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    print_paths({"bundle": tmp_path / "b", "a report": tmp_path / "r.html"})
    assert capsys.readouterr().out == f"bundle    {tmp_path}/b\na report  {tmp_path}/r.html\n"


def test_progress_is_silent_away_from_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar() as report:
        report("training", 1, 2)
        report("training", 2, 2)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.strip() == ""


def test_progress_draws_a_bar_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar() as report:
        report("training", 3, 20)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "training" in captured.err
    assert "3/20" in captured.err


def test_json_is_written_complete_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "profile.json"
    write_json(path, {"p50_ms": 1.5})
    assert json.loads(path.read_text()) == {"p50_ms": 1.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"p50_ms": math.nan})
    assert json.loads(path.read_text()) == {"p50_ms": 1.5}
    assert [file.name for file in path.parent.iterdir()] == ["profile.json"]
