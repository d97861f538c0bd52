from __future__ import annotations

from typing import TYPE_CHECKING

from typer.testing import CliRunner

from nagedge.cli.app import app
from nagedge.targets import available_targets, load_target, target_file

if TYPE_CHECKING:
    from pathlib import Path

NAME = "any-any-onnxruntime-fp32-train"


def test_ls_names_every_target() -> None:
    result = CliRunner().invoke(app, ["targets", "ls"])
    assert result.exit_code == 0
    assert all(f" {name} " in result.output for name in available_targets())


def test_cat_prints_the_file_as_it_is() -> None:
    assert CliRunner().invoke(app, ["targets", "cat", NAME]).output == target_file(NAME).read_text()


def test_cp_copies_to_a_file_or_into_a_folder_and_keeps_what_is_there(tmp_path: Path) -> None:
    for destination, copy in (
        (tmp_path / "mine.toml", tmp_path / "mine.toml"),
        (tmp_path, tmp_path / f"{NAME}.toml"),
    ):
        result = CliRunner().invoke(app, ["targets", "cp", NAME, str(destination)])
        assert (result.exit_code, result.output) == (0, f"wrote {copy}\n")
        assert load_target(copy).train
    copy.write_text("mine")
    result = CliRunner().invoke(app, ["targets", "cp", NAME, str(copy)])
    assert result.exit_code == 2
    assert result.stderr == f"error: {copy} exists already and is kept; give another path.\n"
    assert copy.read_text() == "mine"


def test_an_unknown_target_is_refused(tmp_path: Path) -> None:
    for arguments in (["cat", "any-any"], ["cp", "any-any", str(tmp_path / "x")]):
        result = CliRunner().invoke(app, ["targets", *arguments])
        assert result.exit_code == 2
        assert result.stderr.startswith("error: unknown target 'any-any'; `nagedge targets ls` lists the ")
    assert not list(tmp_path.iterdir())
