"""From a checkpoint to every target: export, verify with held-out metrics, fine-tune on each runtime."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import nagedge
from nagedge.cli.app import app
from nagedge.evaluation import evaluate, examples_of
from nagedge.runtimes import open_training
from nagedge.targets import available_targets, load_target

RUN = """
batch_size = 32

[data]
source = "arrays"
path = "shapes.npz"
input = "image"

[model]
trunk = "cnn"
channels = [8, 16]

[tasks.shape]
kind = "classification"
size = 3

[tasks.brightness]
kind = "regression"

[optimizer]
lr = 0.05

[schedule]
epochs = 6
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_shapes(path: Path, count: int, seed: int) -> None:
    """Write bars and crosses of some brightness on noise, ``[n, 1, 16, 16]``."""
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 0.1, (count, 1, 16, 16)).astype(np.float32)
    shape = rng.integers(0, 3, count)
    brightness = rng.uniform(0.5, 1.5, count).astype(np.float32)
    for i in range(count):
        place = int(rng.integers(3, 12))
        if shape[i] != 1:
            image[i, 0, place] += brightness[i]
        if shape[i] != 0:
            image[i, 0, :, place] += brightness[i]
    np.savez(path, image=image, shape=shape, brightness=brightness)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("lanes")
    write_shapes(path / "shapes.npz", 600, 0)
    write_shapes(path / "held_out.npz", 200, 1)
    (path / "run.toml").write_text(RUN)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        trained = run("train", "run.toml", "--out", "checkpoint")
        assert trained.exit_code == 0, trained.output
        exported = run("export", "checkpoint", "--target", "all", "--out", "bundle")
        assert exported.exit_code == 0, exported.output
    return path


def test_all_targets_are_exported_verified_and_their_metrics_compared(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    result = run("verify", "bundle", "--steps", "5", "--data", "held_out.npz")
    assert result.exit_code == 0, result.output
    manifest = nagedge.load(folder / "bundle").manifest
    assert set(manifest.targets) == set(available_targets())
    assert manifest.refused == {}
    assert manifest.notes == []  # calibrated on the checkpoint's own data
    for name in available_targets():
        for entry in manifest.verification[name]:
            assert entry.within_tolerance, name
            assert set(entry.checks) == {"inference"} | ({"training"} if load_target(name).train else set())
            assert name in result.stdout
            accuracy = [m for m in entry.metrics if m.metric == "accuracy"]
            assert len(accuracy) == (load_target(name).precision != "fp32")
            for m in accuracy:
                assert m.reference > 0.9, "the model has learnt something"
                # 16 values a weight table cost a tiny net more than 8 bits do
                assert m.target >= m.reference - (
                    0.1 if load_target(name).precision == "palette4" else 0.03
                ), name


def test_fine_tuning_gives_the_same_on_every_runtime(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    bundle = nagedge.load("bundle")
    examples = examples_of(bundle, "held_out.npz")
    learnt = {}
    for name in ["torch", *(t for t in available_targets() if load_target(t).train)]:
        options = {"runtime": "torch"} if name == "torch" else {"target": name}
        result = nagedge.finetune(
            bundle, examples.take(range(64)), evaluation=examples, epochs=1, out=f"tuned-{name}", **options
        )
        learnt[name] = result
        for key, value in result.bundle.params().items():
            np.testing.assert_allclose(value, learnt["torch"].bundle.params()[key], rtol=1e-3, atol=1e-5)
    tuned = nagedge.load("tuned-torch")
    changed = [k for k, v in tuned.params().items() if not np.array_equal(v, bundle.params()[k])]
    assert changed
    expected = evaluate(tuned, examples, runtime="torch")
    for name in available_targets():
        got = evaluate(tuned, examples, target=name)
        close = 0.1 if load_target(name).precision == "palette4" else 0.03
        assert got["shape"]["accuracy"] == pytest.approx(expected["shape"]["accuracy"], abs=close), name
    state = open_training(tuned, "android-arm64-ort_training-fp32-train").state()
    for key in changed:
        np.testing.assert_array_equal(state.params[key], tuned.params()[key])
        np.testing.assert_array_equal(state.momentum[key], tuned.momentum()[key])
    verified = nagedge.verify(tuned, steps=2)
    assert all(c.within_tolerance for c in verified)
