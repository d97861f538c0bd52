"""The exported artifacts on onnxruntime-training 1.19.2 itself, against PyTorch."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import CASES, numpy_batch
from runtime_harness import SETTINGS, Factory, arrays, assert_close, bundle_factory

import nagedge
from nagedge.bundle import Bundle
from nagedge.errors import BundleError, ConfigurationError, DataError, RuntimeUnavailableError
from nagedge.ort_checkpoint import read_checkpoint
from nagedge.runtimes import available_runtime, open_inference, open_training
from nagedge.runtimes import ort_training as runtime
from nagedge.runtimes.isolation import ENVIRONMENTS, ensure
from nagedge.runtimes.worker import Worker

TARGET = "android-arm64-ort_training-fp32-train"
STOCK = "any-any-onnxruntime-fp32-train"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return bundle_factory(tmp_path_factory.mktemp("bundles"), [TARGET, STOCK])


# --- the same steps as PyTorch --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in CASES]
    + [
        ("conv", {"batch_norm": "train"}), ("conv", {"batch_norm": "freeze", "trainable": "norm"}),
        ("conv", {"trainable": "heads"}), ("attention", {"trainable": "lora:2"}), ("mlp", {"batch": 6}),
    ],
    ids=str,
)  # fmt: skip
def test_thirty_steps_agree_with_torch_within_the_targets_tolerances(
    bundles: Factory, name: str, options: dict[str, Any]
) -> None:
    bundle = bundles(name, **options)
    comparisons = nagedge.verify(bundle, steps=30, target=TARGET)
    assert comparisons[0].within_tolerance, comparisons[0]
    assert {c.step for c in comparisons} == set(range(31))
    training = bundle.manifest.training
    assert training is not None
    compared = {c.tensor for c in comparisons}
    assert {f"momentum.{p}" for p in training.parameters} < compared
    assert {f"buffers.{b}" for b in training.buffers} <= compared


@pytest.mark.parametrize("name", ["conv", "attention"])
def test_it_steps_as_torch_does_with_settings_that_change(bundles: Factory, name: str) -> None:
    bundle = bundles(name)
    session, reference = (
        open_training(bundle, TARGET, runtime="ort_training"),
        open_training(bundle, runtime="torch"),
    )
    before = arrays(session.state())
    for step, (momentum, decay) in enumerate(
        [(0.9, 0.0), (0.9, 0.1), (0.5, 0.1), (0.5, 0.1), (0.0, 0.3), (0.9, 0.0)]
    ):
        inputs, targets = numpy_batch(bundle, (5, 3)[step % 2], seed=step)
        weight = (
            np.random.default_rng(step).uniform(0.2, 2, len(next(iter(inputs.values())))).astype(np.float32)
        )
        settings = {"lr": 0.05 / (step + 1), "momentum": momentum, "weight_decay": decay}
        if momentum == 0.0:
            settings["momentum"] = 1e-9  # torch refuses Nesterov without momentum
        got, expected = (s.step(inputs, targets, weight, **settings) for s in (session, reference))
        assert list(got) == ["loss", *(task.name for task in bundle.manifest.tasks)]
        assert_close(got, expected, atol=1e-5)
        assert_close(arrays(session.state()), arrays(reference.state()), atol=1e-5)
    changed = arrays(session.state())
    assert all(not np.array_equal(before[key], changed[key]) for key in before)


def test_weight_decay_reaches_weights_and_leaves_vectors_alone(bundles: Factory) -> None:
    bundle = bundles("conv")
    inputs, targets = numpy_batch(bundle, 4)
    off = np.zeros(4, np.float32)  # no gradient: what moves is moved by the decay
    session = open_training(bundle, TARGET, runtime="ort_training")
    before = session.state().params
    session.step(inputs, targets, off, lr=0.1, momentum=0.5, weight_decay=0.2)
    for name, array in session.state().params.items():
        factor = 1 - 0.1 * 1.5 * 0.2 if array.ndim >= 2 else 1.0
        np.testing.assert_allclose(array, before[name] * factor, rtol=1e-6)


@pytest.mark.parametrize("count", [2, 3])
def test_accumulated_gradients_are_those_of_torch(bundles: Factory, count: int) -> None:
    """Skipping ``lazy_reset_grad`` adds up gradients; torch does it without ``zero_grad``."""
    bundle = bundles("mlp")
    session: Any = open_training(bundle, TARGET, runtime="ort_training")
    model = CASES["mlp"]().model
    optimizer = torch.optim.SGD(
        [
            {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.01},
            {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
        ],
        lr=0.05, momentum=0.9, nesterov=True,
    )  # fmt: skip
    for update in range(4):
        optimizer.zero_grad()
        for part in range(count):
            inputs, targets = numpy_batch(bundle, 5, seed=10 * update + part)
            got = session.step(inputs, targets, **SETTINGS, update=part == count - 1)
            loss = torch.nn.functional.cross_entropy(
                model(torch.tensor(inputs["input"])), torch.tensor(targets["kind"])
            )
            torch.autograd.backward(loss)
            assert got["loss"] == pytest.approx(float(loss.detach()), rel=1e-5)
        optimizer.step()
    state = session.state()
    for name, param in model.named_parameters():
        np.testing.assert_allclose(state.params[name], param.detach().numpy(), rtol=1e-4, atol=1e-6)
        buffer = optimizer.state[param]["momentum_buffer"].numpy()
        np.testing.assert_allclose(state.momentum[name], buffer, rtol=1e-4, atol=1e-6)


def test_a_saved_state_goes_on_to_the_same_bits(bundles: Factory) -> None:
    bundle = bundles("conv", batch_norm="train")
    batches = [numpy_batch(bundle, 4, seed=i) for i in range(4)]
    whole = open_training(bundle, TARGET, runtime="ort_training")
    losses = [whole.step(*batch, **SETTINGS) for batch in batches]
    first = open_training(bundle, TARGET, runtime="ort_training")
    for batch in batches[:2]:
        first.step(*batch, **SETTINGS)
    second = open_training(bundle, TARGET, runtime="ort_training", state=first.state())
    assert [second.step(*batch, **SETTINGS) for batch in batches[2:]] == losses[2:]
    expected = arrays(whole.state())
    for key, value in arrays(second.state()).items():
        assert np.array_equal(value, expected[key]), key


# --- evaluation and inference ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["fold", "train"])
def test_the_eval_model_gives_losses_and_outputs_of_the_learnt_parameters(
    bundles: Factory, policy: str
) -> None:
    bundle = bundles("conv", batch_norm=policy)
    session: Any = open_training(bundle, TARGET, runtime="ort_training")
    inputs, targets = numpy_batch(bundle, 6)
    weight = np.asarray([1, 0, 2, 0.5, 1, 1], np.float32)
    for _ in range(3):
        session.step(inputs, targets, weight, **SETTINGS)
    before = arrays(session.state())
    losses, outputs = session.evaluate(inputs, targets, weight)
    for key, value in arrays(session.state()).items():
        assert np.array_equal(value, before[key]), f"evaluation changed {key}"
    learnt = session.state().params | session.state().buffers
    expected = open_inference(bundle, runtime="torch", params=learnt).predict(inputs)
    assert_close(outputs, expected, atol=1e-5)
    by_task = {}
    for task in bundle.manifest.tasks:
        output, target = torch.tensor(expected[task.name]), torch.tensor(targets[task.name])
        by_task[task.name] = float(nagedge.tasks.task_loss(task.spec(), output, target, torch.tensor(weight)))
    total = sum(task.weight * by_task[task.name] for task in bundle.manifest.tasks)
    assert_close(losses, {"loss": total, **by_task}, atol=1e-5)


def test_inference_equals_torch_before_and_with_learnt_parameters(bundles: Factory) -> None:
    bundle = bundles("conv", batch_norm="train")
    inputs, targets = numpy_batch(bundle, 5)
    plain = open_inference(bundle, TARGET, runtime="ort_training").predict(inputs)
    assert_close(plain, open_inference(bundle, runtime="torch").predict(inputs), atol=1e-5)
    session = open_training(bundle, TARGET, runtime="ort_training")
    for _ in range(5):
        session.step(inputs, targets, **SETTINGS)
    learnt = session.state().params | session.state().buffers
    new = open_inference(bundle, TARGET, runtime="ort_training", params=learnt).predict(inputs)
    assert_close(new, open_inference(bundle, runtime="torch", params=learnt).predict(inputs), atol=1e-5)
    assert max(np.abs(new[task] - plain[task]).max() for task in new) > 0.01


# --- the files, in the hands of the stock API -----------------------------------------------------------------------

_STOCK_CLIENT = """
import json, sys
import numpy as np
from onnxruntime.capi import _pybind_state as ort
from onnxruntime import InferenceSession
folder, out = sys.argv[1:]
ort.set_default_logger_severity(3)
device = ort.OrtDevice(ort.OrtDevice.cpu(), ort.OrtDevice.default_memory(), 0)
options = ort.SessionOptions()
state = ort.load_checkpoint(folder + "/checkpoint")
module = ort.Module(folder + "/training_model.onnx", state, folder + "/eval_model.onnx", device, options)
optimizer = ort.Optimizer(folder + "/optimizer_model.onnx", state, device, options)
optimizer.set_learning_rate(0.05)
batch = dict(np.load(out + "/batch.npz"))
losses = []
for _ in range(3):
    results = ort.OrtValueVector()
    module.train_step([batch[name] for name in module.input_names(True)], results)
    losses.append([float(value.numpy()) for value in results])
    optimizer.optimizer_step()
    module.lazy_reset_grad()
ort.save_checkpoint(state, out + "/with_momentum", True)
module.export_model_for_inferencing(out + "/inferred.onnx", ["kind", "level"])
session = InferenceSession(out + "/inferred.onnx")
given = {i.name: batch[i.name] for i in session.get_inputs()}
np.savez(out + "/outputs.npz", **dict(zip(["kind", "level"], session.run(None, given))))
size = module.get_parameters_size(True)
nominal = ort.load_checkpoint(folder + "/nominal_checkpoint")
print(json.dumps({
    "inputs": module.input_names(True), "outputs": module.output_names(True), "eval": module.output_names(False),
    "losses": losses, "size": size, "nominal": nominal.parameter_names(), "names": state.parameter_names(),
}))
"""


def test_a_client_of_the_stock_api_trains_saves_and_exports(bundles: Factory, tmp_path: Path) -> None:
    bundle = bundles("conv")
    inputs, targets = numpy_batch(bundle, 5)
    given = {
        **inputs,
        **{f"target.{n}": t for n, t in targets.items()},
        "sample_weight": np.ones(5, np.float32),
    }
    np.savez(tmp_path / "batch.npz", **given)
    done = subprocess.run(
        [ensure(ENVIRONMENTS["ort_training"]), "-I", "-c", _STOCK_CLIENT, bundle.path / "targets" / TARGET, tmp_path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    said = json.loads(done.stdout)
    assert said["inputs"] == list(given)
    assert said["outputs"] == ["loss", "loss.kind", "loss.level"]
    assert said["eval"] == ["loss", "loss.kind", "loss.level", "kind", "level"]
    training = bundle.manifest.training
    assert training is not None
    assert said["size"] == sum(bundle.params()[name].size for name in training.parameters)
    assert (
        sorted(said["names"]) == sorted(said["nominal"]) == sorted(f"params.{p}" for p in training.parameters)
    )
    # the defaults of the bundle are what its constants say: momentum 0.9, no weight decay
    reference = open_training(bundle, runtime="torch")
    losses = [reference.step(inputs, targets, lr=0.05, momentum=0.9, weight_decay=0.0) for _ in range(3)]
    np.testing.assert_allclose(said["losses"], [list(loss.values()) for loss in losses], rtol=1e-4)
    saved = read_checkpoint((tmp_path / "with_momentum").read_bytes())
    assert saved.step == 3
    for name, array in reference.state().momentum.items():
        np.testing.assert_allclose(saved.momentum[f"params.{name}"], array, rtol=1e-4, atol=1e-6)
    expected = open_inference(bundle, runtime="torch", params=reference.state().params).predict(inputs)
    assert_close(dict(np.load(tmp_path / "outputs.npz")), expected, atol=1e-5)


def test_a_bundle_with_a_new_state_goes_on_from_it(bundles: Factory, tmp_path: Path) -> None:
    bundle = bundles("conv", batch_norm="train")
    session = open_training(bundle, TARGET, runtime="ort_training")
    batch = numpy_batch(bundle, 4)
    for _ in range(3):
        session.step(*batch, **SETTINGS)
    state = session.state()
    entry = bundle.manifest.targets[TARGET]
    contents = {role: bundle.file(path).read_bytes() for role, path in entry.artifacts.items()}
    changed = runtime.with_state(entry, contents, state.params | state.buffers, state.momentum)
    assert changed is not None
    assert set(changed) == {"infer", "checkpoint"}
    copy = tmp_path / "bundle"
    shutil.copytree(bundle.path, copy)
    personal = Bundle(copy, bundle.manifest)
    for role, content in changed.items():
        personal.file(entry.artifacts[role]).write_bytes(content)
    resumed = open_training(personal, TARGET, runtime="ort_training")
    for key, value in arrays(resumed.state()).items():
        assert np.array_equal(value, arrays(state)[key]), key
    assert resumed.step(*batch, **SETTINGS) == session.step(*batch, **SETTINGS)
    outputs = open_inference(personal, TARGET, runtime="ort_training").predict(batch[0])
    learnt = state.params | state.buffers
    assert_close(outputs, open_inference(bundle, runtime="torch", params=learnt).predict(batch[0]), atol=1e-5)


# --- refusals -------------------------------------------------------------------------------------------------------


def damaged(bundle: Bundle, folder: Path, name: str, content: bytes) -> Bundle:
    shutil.copytree(bundle.path, folder)
    (folder / "targets" / TARGET / name).write_bytes(content)
    return Bundle(folder, bundle.manifest)


@pytest.mark.parametrize(
    "name", ["training_model.onnx", "eval_model.onnx", "optimizer_model.onnx", "checkpoint"]
)
def test_a_file_that_the_runtime_refuses_is_a_clear_error(
    bundles: Factory, tmp_path: Path, name: str
) -> None:
    bundle = damaged(bundles("mlp"), tmp_path / "bundle", name, b"nonsense" * 20)
    with pytest.raises(BundleError) as caught:
        open_training(bundle, TARGET, runtime="ort_training")
    assert "\n" not in str(caught.value)
    assert "Export again" in str(caught.value)


def test_wrong_inputs_are_refused_before_they_reach_the_runtime(bundles: Factory) -> None:
    bundle = bundles("mlp", batch=6)
    session = open_training(bundle, TARGET, runtime="ort_training")
    inputs, targets = numpy_batch(bundle, 5)
    with pytest.raises(DataError, match="the batch has 5 rows, this bundle takes exactly 6"):
        session.step(inputs, targets, **SETTINGS)
    with pytest.raises(DataError, match=r"input 'input' is missing"):
        session.step({}, targets, **SETTINGS)
    with pytest.raises(DataError, match=r"'input' has shape"):
        open_inference(bundle, TARGET, runtime="ort_training").predict(
            {"input": np.zeros((6, 99), np.float32)}
        )


def test_a_process_that_is_killed_is_named(bundles: Factory) -> None:
    session: Any = open_training(bundles("mlp"), TARGET, runtime="ort_training")
    worker: Worker = session._file.worker
    worker._process.kill()
    with pytest.raises(
        BundleError, match=r"'ort_training' was killed by SIGKILL while it worked on 'training_model.onnx'"
    ):
        session.step(*numpy_batch(bundles("mlp"), 4), **SETTINGS)


def test_a_target_of_another_backend_has_no_such_files(bundles: Factory) -> None:
    with pytest.raises(ConfigurationError, match="has no 'optimizer_model' artifact"):
        runtime.open_training(bundles("mlp"), STOCK)


def test_without_its_environment_the_lane_says_what_to_do(
    bundles: Factory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NAGEDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UV_CACHE_DIR", str(tmp_path / "uv"))
    monkeypatch.setenv("UV_OFFLINE", "1")
    for action in (
        lambda: available_runtime("ort_training"),
        lambda: open_training(bundles("mlp"), TARGET, runtime="ort_training"),
    ):
        with pytest.raises(RuntimeUnavailableError, match="`nagedge doctor --make`"):
            action()


def test_it_says_what_it_is() -> None:
    assert available_runtime("ort_training") == "onnxruntime-training-cpu 1.19.2"
