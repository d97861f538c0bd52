"""What `nagedge export --android-assets` puts into the app."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import nagedge
from nagedge.android_assets import write_android_assets
from nagedge.cli.app import app
from nagedge.errors import ConfigurationError
from nagedge.manifest import Manifest

TRAIN = "any-any-onnxruntime-fp32-train"
FACTORY = """
import torch
from torch import nn
import nagedge

def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return model, [nagedge.TaskSpec("digit", "classification", size=3)], torch.randn(4, 1, 4, 4)
"""


def _bundle(folder: Path, *targets: str) -> nagedge.Bundle:
    torch.manual_seed(0)
    return nagedge.export(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 3)),
        tasks=[nagedge.TaskSpec("digit", "classification", size=3)],
        example_input=torch.randn(4, 1, 4, 4),
        targets=targets,
        out=folder / "bundle",
    )


def test_the_command_fills_the_assets_with_the_exports_own_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = f"model_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    arguments = [
        "export", f"{module}:make", "--target", TRAIN, "--target", "any-any-onnxruntime-fp32", "--out", "exported",
        "--android-assets", "app/assets",
    ]  # fmt: skip
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "app/assets/bundle"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {
        "manifest.json", "params.safetensors", "momentum.safetensors", f"targets/{TRAIN}/infer.onnx",
        f"targets/{TRAIN}/train_step.onnx",
    }  # fmt: skip
    for name in found:
        assert (folder / name).read_bytes() == (tmp_path / "exported" / name).read_bytes(), name
    digest = nagedge.load(tmp_path / "exported").manifest.content_hash()
    assert Manifest.model_validate_json((folder / "manifest.json").read_text()).content_hash() == digest
    assert f"bundle hash {digest}" in done.output


def test_the_hash_is_of_all_files_and_not_of_what_verification_adds(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, TRAIN)
    before = bundle.manifest.content_hash()
    lines = sorted(
        (path.relative_to(bundle.path).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest())
        for path in bundle.path.rglob("*")
        if path.is_file() and path.name != "manifest.json"
    )
    text = "".join(f"{digest}  {name}\n" for name, digest in lines)
    assert before == hashlib.sha256(text.encode()).hexdigest()
    nagedge.verify(bundle, steps=1)
    assert json.loads((bundle.path / "manifest.json").read_text())["verification"]
    assert nagedge.load(bundle.path).manifest.content_hash() == before


def test_a_second_export_replaces_the_first_and_foreign_files_stay(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, TRAIN)
    assets = tmp_path / "assets"
    (assets / "fonts").mkdir(parents=True)
    assert write_android_assets(bundle, assets) == assets / "bundle"
    (assets / "bundle" / "params.safetensors").unlink()
    write_android_assets(bundle, assets)
    assert (assets / "bundle" / "params.safetensors").is_file()
    assert (assets / "fonts").is_dir()
    foreign = tmp_path / "other" / "bundle"
    foreign.mkdir(parents=True)
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(ConfigurationError, match="is not a bundle"):
        write_android_assets(bundle, tmp_path / "other")


def test_a_bundle_that_cannot_train_is_refused(tmp_path: Path) -> None:
    bundle = _bundle(tmp_path, "any-any-onnxruntime-fp32")
    with pytest.raises(ConfigurationError) as error:
        write_android_assets(bundle, tmp_path / "assets")
    assert str(error.value) == (
        f"bundle {str(bundle.path)!r} has no target that trains on ONNX Runtime in float32, which the Android app "
        f"needs (it has any-any-onnxruntime-fp32): export it with --target {TRAIN}. No assets were written."
    )
    assert not (tmp_path / "assets").exists()
