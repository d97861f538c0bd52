from __future__ import annotations

import json
import tomllib
from typing import TYPE_CHECKING

import jsonschema
from typer.testing import CliRunner

from nagedge.cli.app import app
from nagedge.training.run import load_run

if TYPE_CHECKING:
    from pathlib import Path


def test_init_writes_a_run_file_that_loads_and_fits_its_schema(tmp_path: Path) -> None:
    run, schema = tmp_path / "run.toml", tmp_path / "schemas/run.schema.json"
    result = CliRunner().invoke(app, ["init", str(run), "--schema", str(schema)])
    assert (result.exit_code, result.output) == (
        0,
        f"wrote {run}\nwrote {schema}\nnext: nagedge train {run}\n",
    )
    assert [task.name for task in load_run(run).task_specs()] == ["digit", "slant", "stroke_mass"]
    document = json.loads(schema.read_text())
    jsonschema.Draft202012Validator.check_schema(document)
    jsonschema.validate(tomllib.loads(run.read_text()), document)


def test_init_keeps_what_is_there(tmp_path: Path) -> None:
    run = tmp_path / "run.toml"
    run.write_text("mine")
    result = CliRunner().invoke(app, ["init", str(run)])
    assert result.exit_code == 2
    assert result.stderr == f"error: {run} exists already and is kept; give another path.\n"
    assert run.read_text() == "mine"


def test_init_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["init", str(tmp_path / "none/run.toml")])
    assert result.exit_code == 2
    assert "No such file or directory; check the path" in result.stderr
