from __future__ import annotations

from importlib import metadata

import pytest
from typer.testing import CliRunner

from nagedge.cli import doctor
from nagedge.cli.app import app


def test_a_sound_machine_passes_and_every_version_is_shown() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    for name in (*doctor._PACKAGES, "nagedge"):
        assert any(
            line.split() == [name, metadata.version(name), "ok"] for line in result.stdout.splitlines()
        )
    assert "runtime onnxruntime" in result.stdout


def test_something_missing_is_named_and_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_PACKAGES", ("numpy", "no-such-package"))
    monkeypatch.setattr(doctor, "_OPTIONAL", ("no-such-option",))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert result.stderr == "needs attention: no-such-package\n"
    assert any(
        line.split() == ["no-such-option", "not", "installed", "optional"]
        for line in result.stdout.splitlines()
    )
