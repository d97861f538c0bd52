"""A .tflite on tflite-runtime 2.14.0 itself, against PyTorch. Its environment is made on first use."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_for_tests import numpy_batch
from runtime_harness import SETTINGS, Factory, arrays, assert_close, bundle_factory

from nagedge.bundle import Bundle
from nagedge.errors import BundleError, ConfigurationError, DataError, RuntimeUnavailableError
from nagedge.runtimes import available_runtime, open_inference, open_training
from nagedge.runtimes import tflite_runtime as runtime
from nagedge.targets import Target

TRAIN = Target("train", "linux", "arm64", "tflite_runtime", "fp32", 1e-3, 1e-5, 1e-4, 1e-5, train=True)
INFER = Target("infer", "linux", "arm64", "tflite_runtime", "fp32", 1e-3, 1e-5, 1e-4, 1e-5)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return bundle_factory(tmp_path_factory.mktemp("bundles"), [TRAIN, INFER])


@pytest.mark.parametrize(
    ("name", "options"),
    [("mlp", {}), ("conv", {"batch_norm": "train"}), ("conv", {"trainable": "heads"}), ("attention", {})],
    ids=str,
)
def test_it_steps_as_torch_does(bundles: Factory, name: str, options: dict[str, Any]) -> None:
    bundle = bundles(name, **options)
    session = runtime.open_training(bundle, "train")
    reference = open_training(bundle, runtime="torch")
    before = arrays(session.state())
    for step in range(6):
        inputs, targets = numpy_batch(bundle, (5, 3)[step % 2], seed=step)
        weight = np.random.default_rng(step).uniform(0.2, 2, (5, 3)[step % 2]).astype(np.float32)
        got, expected = (s.step(inputs, targets, weight, **SETTINGS) for s in (session, reference))
        assert list(got) == ["loss", *(task.name for task in bundle.manifest.tasks)]
        assert_close(got, expected, atol=1e-5)
        assert_close(arrays(session.state()), arrays(reference.state()), atol=1e-5)
    changed = arrays(session.state())
    assert all(not np.array_equal(before[key], changed[key]) for key in before)


def test_a_saved_state_goes_on_to_the_same_bits(bundles: Factory) -> None:
    bundle = bundles("conv", batch_norm="train")
    batches = [numpy_batch(bundle, 4, seed=i) for i in range(4)]
    whole = runtime.open_training(bundle, "train")
    losses = [whole.step(*batch, **SETTINGS) for batch in batches]
    first = runtime.open_training(bundle, "train")
    for batch in batches[:2]:
        first.step(*batch, **SETTINGS)
    second = runtime.open_training(bundle, "train", state=first.state())
    assert [second.step(*batch, **SETTINGS) for batch in batches[2:]] == losses[2:]


@pytest.mark.parametrize("target", ["train", "infer"])
def test_inference_equals_torch_at_two_batch_sizes(bundles: Factory, target: str) -> None:
    bundle = bundles("attention")
    session = runtime.open_inference(bundle, target)
    for size in (5, 2):
        inputs, _ = numpy_batch(bundle, size, seed=size)
        assert_close(
            session.predict(inputs), open_inference(bundle, runtime="torch").predict(inputs), atol=1e-5
        )


def test_a_training_file_predicts_with_learnt_parameters(bundles: Factory) -> None:
    bundle = bundles("conv", batch_norm="train")
    inputs, targets = numpy_batch(bundle, 5)
    session = runtime.open_training(bundle, "train")
    for _ in range(4):
        session.step(inputs, targets, **SETTINGS)
    learnt = session.state().params | session.state().buffers
    got = runtime.open_inference(bundle, "train", params=learnt).predict(inputs)
    assert_close(got, open_inference(bundle, runtime="torch", params=learnt).predict(inputs), atol=1e-5)
    plain = runtime.open_inference(bundle, "train").predict(inputs)
    assert max(np.abs(got[task] - plain[task]).max() for task in got) > 0.01


def test_a_file_with_constant_parameters_refuses_others(bundles: Factory) -> None:
    bundle = bundles("mlp")
    with pytest.raises(ConfigurationError, match="holds its parameters as constants"):
        runtime.open_inference(bundle, "infer", params=bundle.params())


def test_a_file_that_the_runtime_refuses_is_a_clear_error(bundles: Factory, tmp_path: Path) -> None:
    bundle = bundles("mlp")
    shutil.copytree(bundle.path, tmp_path / "bundle")
    bad = Bundle(tmp_path / "bundle", bundle.manifest)
    bad.file(bundle.manifest.targets["train"].artifacts["train_step"]).write_bytes(b"nonsense" * 9)
    with pytest.raises(BundleError, match=r"^tflite-runtime 2.14.0 refuses .*Export again\.$"):
        runtime.open_training(bad, "train")
    infer = bundle.file(bundle.manifest.targets["infer"].artifacts["infer"]).read_bytes()
    bad.file(bundle.manifest.targets["train"].artifacts["train_step"]).write_bytes(infer)
    with pytest.raises(BundleError, match="has no signature 'train'; it has infer"):
        runtime.open_training(bad, "train")


def test_wrong_inputs_are_refused_before_they_reach_the_runtime(bundles: Factory) -> None:
    session = runtime.open_inference(bundles("mlp"), "infer")
    with pytest.raises(DataError, match=r"'input' has shape \[6, 99\]"):
        session.predict({"input": np.zeros((6, 99), np.float32)})


def test_without_its_environment_the_lane_says_what_to_do(
    bundles: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAGEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    for action in (
        lambda: available_runtime("tflite_runtime"),
        lambda: runtime.open_training(bundles("mlp"), "train"),
    ):
        with pytest.raises(
            RuntimeUnavailableError, match=r"tflite-runtime 2.14.0 .* `nagedge doctor --make`"
        ):
            action()


def test_it_says_what_it_is() -> None:
    assert available_runtime("tflite_runtime") == "tflite-runtime 2.14.0"
