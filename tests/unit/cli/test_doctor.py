from __future__ import annotations

import shutil
from importlib import metadata
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nagedge.cli import doctor
from nagedge.cli.app import app
from nagedge.runtimes.isolation import ENVIRONMENTS


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NAGEDGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def row(output: str, name: str) -> list[str]:
    return next(
        line.split() for line in output.splitlines() if line.split()[: len(name.split())] == name.split()
    )


def test_a_sound_machine_passes_and_every_version_is_shown() -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    for name in (*doctor._PACKAGES, "nagedge"):
        assert any(
            line.split() == [name, metadata.version(name), "ok"] for line in result.stdout.splitlines()
        )
    for runtime in ("onnxruntime", "torch"):
        assert row(result.stdout, f"runtime {runtime}")[-1] == "ok"


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


def test_isolated_runtimes_that_were_never_used_are_listed_and_not_made(cache: Path) -> None:
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 0, result.output
    for name, environment in ENVIRONMENTS.items():
        cells = row(result.stdout, f"runtime {name}")
        assert environment.version in " ".join(cells)
        assert cells[-3:] == ["not", "made", "yet"]
        assert "made on first use:" in " ".join(cells)
    assert not cache.exists()


def test_an_isolated_runtime_is_made_seen_broken_and_repaired(cache: Path) -> None:
    made = CliRunner().invoke(app, ["doctor", "--make"])
    assert made.exit_code == 0, made.output
    cells = row(made.stdout, "runtime tflite_runtime")
    assert cells[-1] == "ready"
    assert "MiB:" in cells
    package = next((cache / "environments").glob("tflite_runtime-*/**/tflite_runtime"))
    shutil.rmtree(package)
    broken = CliRunner().invoke(app, ["doctor"])
    assert broken.exit_code == 1
    assert row(broken.stdout, "runtime tflite_runtime")[-1] == "broken"
    assert "No module named 'tflite_runtime" in broken.stdout
    assert broken.stderr == "needs attention: runtime tflite_runtime\n"
    assert not package.exists(), "looking repairs nothing"
    repaired = CliRunner().invoke(app, ["doctor", "--make"])
    assert repaired.exit_code == 0, repaired.output
    assert package.exists()


def test_a_runtime_that_cannot_be_made_is_one_clear_line(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    result = CliRunner().invoke(app, ["doctor", "--make"])
    assert result.exit_code == 1
    lines = result.stderr.splitlines()
    assert len(lines) == len(ENVIRONMENTS)
    for line, (name, environment) in zip(lines, ENVIRONMENTS.items(), strict=True):
        assert line.startswith(f"runtime {name!r} needs {environment.version} in an environment of its own")
        assert "`nagedge doctor --make`" in line
        assert row(result.stdout, f"runtime {name}")[-3:] == ["not", "made", "yet"]
