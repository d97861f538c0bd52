"""The runtime ``mil``: exported Core ML bundles beside PyTorch, trained and predicted from the saved programs."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mil_harness import quiet
from models_for_tests import CASES, KIND, numpy_batch
from runtime_harness import SETTINGS, Factory, arrays, bundle_factory

from nagedge.bundle import Bundle
from nagedge.errors import BundleError, DataError
from nagedge.export import export
from nagedge.runtimes import open_inference, open_training
from nagedge.runtimes.mil import available
from nagedge.runtimes.mil_program import load_program
from nagedge.targets import Target, load_target

TRAIN = load_target("ios-arm64-coreml-fp32-train")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return bundle_factory(tmp_path_factory.mktemp("mil"), TRAIN)


def compressed(precision: str) -> Target:
    return dataclasses.replace(TRAIN, name=f"test-{precision}", precision=precision, train=False)


def assert_close(got: Any, expected: Any, rtol: float = 1e-5) -> None:
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        scale = float(np.abs(value).max()) if np.size(value) else 0.0
        np.testing.assert_allclose(got[key], value, rtol=rtol, atol=rtol * scale + 1e-7, err_msg=key)


def test_it_says_that_it_is_not_apples_runtime() -> None:
    assert re.fullmatch(
        r"evaluated from the ML Program, not by Apple's runtime \(coremltools \d.* protobuf, torch \d.*\)",
        available(),
    )


@pytest.mark.parametrize(
    ("name", "options"), [(name, {}) for name in CASES] + [("conv", {"batch_norm": "train"})]
)
def test_a_trajectory_is_torchs(name: str, options: dict[str, Any], bundles: Any) -> None:
    bundle = bundles(name, **options)
    mine, reference = open_training(bundle, runtime="mil"), open_training(bundle, runtime="torch")
    for step in range(4):
        inputs, targets = numpy_batch(bundle, 3 + step % 2, seed=step)
        weight = np.float32([1.0, 0.5, 0.0, 2.0][: 3 + step % 2])
        got = mine.step(inputs, targets, weight, **SETTINGS)
        assert_close(got, reference.step(inputs, targets, weight, **SETTINGS), 1e-4)
    assert_close(arrays(mine.state()), arrays(reference.state()), 1e-4)


@pytest.mark.parametrize("name", CASES)
def test_predictions_are_torchs(name: str, bundles: Any) -> None:
    bundle = bundles(name)
    for rows in (1, 5):
        inputs, _ = numpy_batch(bundle, rows)
        expected = open_inference(bundle, runtime="torch").predict(inputs)
        assert_close(open_inference(bundle, runtime="mil").predict(inputs), expected, 1e-4)


def wide(precision: str, out: Path) -> Bundle:
    """A model whose weights are large enough to be compressed."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(32, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3)).eval()
    return export(
        model, tasks=(KIND,), example_input=torch.randn(4, 32), targets=compressed(precision), out=out
    )


@pytest.mark.parametrize(("precision", "rtol"), [("fp16", 0.005), ("int8", 0.03), ("palette4", 0.2)])
def test_compressed_programs_compute_what_their_decompressed_weights_do(
    precision: str, rtol: float, tmp_path: Path
) -> None:
    bundle = wide(precision, tmp_path / "b")
    inputs, _ = numpy_batch(bundle, 4)
    got = open_inference(bundle, runtime="mil").predict(inputs)
    assert all(value.dtype == np.float32 for value in got.values())
    assert_close(got, open_inference(bundle, runtime="torch").predict(inputs), rtol)
    folder = bundle.file(bundle.manifest.targets[f"test-{precision}"].artifacts["infer"])
    with quiet():
        import coremltools as ct

        model = ct.optimize.coreml.decompress_weights(ct.models.MLModel(str(folder), skip_model_load=True))
        model.save(str(tmp_path / "plain.mlpackage"))
    plain = load_program(tmp_path / "plain.mlpackage").run(inputs)
    for name, value in got.items():
        np.testing.assert_allclose(plain[name], value, rtol=2e-3, atol=2e-4)


def test_trained_parameters_replace_the_stored_ones(bundles: Any) -> None:
    bundle = bundles("conv")
    session = open_training(bundle, runtime="mil")
    inputs, targets = numpy_batch(bundle, 4)
    for _ in range(3):
        session.step(inputs, targets, **SETTINGS)
    params = session.state().params
    got = open_inference(bundle, runtime="mil", params=params).predict(inputs)
    assert_close(got, open_inference(bundle, runtime="torch", params=params).predict(inputs), 1e-4)
    before = open_inference(bundle, runtime="mil").predict(inputs)
    assert any(np.abs(got[key] - before[key]).max() > 1e-3 for key in got)


def test_compressed_parameters_cannot_be_replaced(tmp_path: Path) -> None:
    bundle = wide("int8", tmp_path / "b")
    params = {"0.weight": np.zeros((64, 32), np.float32)}
    with pytest.raises(
        BundleError, match=re.escape("has no plain constant '0.weight' to replace: it is compressed")
    ):
        open_inference(bundle, runtime="mil", params=params)


def test_the_state_goes_on_where_it_stopped(bundles: Any) -> None:
    bundle = bundles("mlp")
    inputs, targets = numpy_batch(bundle, 4)
    whole = open_training(bundle, runtime="mil")
    first = open_training(bundle, runtime="mil")
    for _ in range(2):
        whole.step(inputs, targets, **SETTINGS)
        first.step(inputs, targets, **SETTINGS)
    second = open_training(bundle, runtime="mil", state=first.state())
    kept = arrays(first.state())
    for _ in range(2):
        whole.step(inputs, targets, **SETTINGS)
        second.step(inputs, targets, **SETTINGS)
    assert_close(arrays(second.state()), arrays(whole.state()), 1e-7)
    assert_close(arrays(first.state()), kept, 1e-9)


def test_threads_are_as_before_afterwards(bundles: Any) -> None:
    bundle = bundles("mlp")
    before = torch.get_num_threads()
    open_inference(bundle, runtime="mil", threads=before + 1).predict(numpy_batch(bundle, 2)[0])
    assert torch.get_num_threads() == before


def test_a_fixed_batch_takes_no_other(bundles: Any) -> None:
    bundle = bundles("mlp", dataclasses.replace(TRAIN, name="fixed", batch=4))
    inputs, targets = numpy_batch(bundle, 4)
    open_training(bundle, runtime="mil").step(inputs, targets, **SETTINGS)
    with pytest.raises(DataError, match="the batch has 3 rows, target 'fixed' takes exactly 4"):
        open_inference(bundle, runtime="mil").predict(numpy_batch(bundle, 3)[0])


@pytest.mark.parametrize("role", ["infer", "train_step"])
def test_a_damaged_program_is_one_clear_error(role: str, tmp_path: Path) -> None:
    bundle = bundle_factory(tmp_path, TRAIN)("mlp")
    folder = bundle.file(bundle.manifest.targets[TRAIN.name].artifacts[role])
    weights = folder / "Data/com.apple.CoreML/weights/weight.bin"
    damaged = weights if weights.exists() else folder / "Data/com.apple.CoreML/model.mlmodel"
    damaged.write_bytes(damaged.read_bytes()[:100])
    with pytest.raises(BundleError, match=r"weight file .* is|is no Core ML specification"):
        (open_inference if role == "infer" else open_training)(bundle, runtime="mil")
