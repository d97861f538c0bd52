"""``nagedge devices`` and the gate of ``nagedge profile``, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nagedge
from nagedge.cli.app import app
from nagedge.devices.device_profiles import device_profile_file


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, list(arguments))
    return result.exit_code, result.output


def test_devices_are_listed_with_what_they_can_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAGEDGE_CACHE", str(tmp_path))
    code, output = run("devices", "ls")
    assert code == 0
    for text in (
        "host",
        "emulated:cortex-a53",
        "emulated-count",
        "ios-simulator",
        "not available",
        "raspberry-pi-4b",
    ):
        assert text in output


def test_a_device_profile_is_printed() -> None:
    assert run("devices", "cat", "pixel-6-big") == (0, device_profile_file("pixel-6-big").read_text())
    code, output = run("devices", "cat", "pixel")
    assert (code, "unknown device profile 'pixel'" in output) == (2, True)


def test_only_what_can_be_set_up_is_set_up() -> None:
    code, output = run("devices", "setup", "riscv")
    assert (code, "cannot set up 'riscv'; expected arm64" in output) == (2, True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    path = tmp_path_factory.mktemp("gate")
    torch.manual_seed(0)
    nagedge.export(
        torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 3)),
        tasks=[nagedge.TaskSpec("state", "classification", size=3)],
        example_input=torch.randn(4, 16),
        targets=["any-any-onnxruntime-fp32"],
        out=path / "bundle",
    )
    return path


def test_a_baseline_that_is_missed_ends_with_1(folder: Path) -> None:
    bundle, kept = str(folder / "bundle"), folder / "kept.json"
    assert run("profile", bundle, "--what", "infer", "--json", str(kept))[0] == 0
    code, output = run("profile", bundle, "--what", "infer", "--baseline", str(kept), "--fail-above", "500%")
    assert (code, "Against the baseline" in output) == (0, True)
    document = json.loads(kept.read_text())
    document["workloads"][0]["target"] = "another"
    kept.write_text(json.dumps(document))
    code, output = run(
        "profile", bundle, "--what", "infer", "--baseline", str(kept), "--fail-above", "500%", "--markdown"
    )
    assert code == 1
    assert "| missing | infer | host | another | p50\\_ms |" in output.replace("p50_ms", "p50\\_ms")


def test_what_was_not_asked_for_is_not_missed(folder: Path) -> None:
    bundle, kept = str(folder / "bundle"), folder / "more.json"
    assert run("profile", bundle, "--what", "infer", "--json", str(kept))[0] == 0
    document = json.loads(kept.read_text())
    document["workloads"].append({**document["workloads"][0], "name": "train"})
    kept.write_text(json.dumps(document))
    code, output = run("profile", bundle, "--what", "infer", "--baseline", str(kept), "--fail-above", "500%")
    assert (code, "missing" in output) == (0, False)


def test_a_bundle_as_baseline_is_measured_in_turns(folder: Path) -> None:
    bundle = str(folder / "bundle")
    code, output = run(
        "profile", bundle, "--what", "infer", "--baseline", bundle, "--fail-above", "500%", "--html",
        str(folder / "report.html"),
    )  # fmt: skip
    assert (code, "taken in turns" in output) == (0, True)
    assert "Against the baseline" in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--fail-above", "1"], "expected a percentage such as 1%"),
        (["--baseline", "none.json"], "none.json"),
        (["--device", "emulated:z80"], "unknown core 'z80'"),
    ],
)
def test_bad_options_are_refused_before_anything_is_measured(
    folder: Path, arguments: list[str], text: str
) -> None:
    code, output = run("profile", str(folder / "bundle"), "--what", "infer", *arguments)
    assert (code, text in output.replace("\n", " ")) == (2, True)


def test_an_emulator_that_is_not_set_up_says_how(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAGEDGE_CACHE", str(tmp_path))
    code, output = run(
        "profile", str(folder / "bundle"), "--what", "infer", "--device", "emulated:cortex-a53"
    )
    assert (code, "Run `nagedge devices setup arm64`" in output) == (2, True)
