"""LiteRT: exported signatures against PyTorch, their state, their precisions, their size and their refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import CASES, KIND, numpy_batch
from runtime_harness import SETTINGS, Factory, arrays, assert_close, bundle_factory
from torch import Tensor, nn

from nagedge.backends import litert as backend
from nagedge.bundle import Bundle
from nagedge.data.examples import Examples
from nagedge.errors import BundleError, ConfigurationError, DataError, UnsupportedOperatorError
from nagedge.export import export
from nagedge.runtimes import litert, litert_training, open_inference, open_training
from nagedge.targets import Target, load_target

TRAIN, INFER = "android-arm64-litert-fp32-train", "android-arm64-litert-fp32"


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Factory:
    return bundle_factory(tmp_path_factory.mktemp("bundles"), TRAIN)


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in CASES]
    + [
        ("conv", {"batch_norm": "train"}),
        ("conv", {"batch_norm": "freeze", "trainable": "norm"}),
        ("attention", {"trainable": "lora:2"}),
    ],
    ids=str,
)
def test_it_steps_as_torch_does(bundles: Factory, name: str, options: dict[str, Any]) -> None:
    bundle = bundles(name, **options)
    runtime, reference = (
        open_training(bundle, TRAIN, runtime="litert"),
        open_training(bundle, runtime="torch"),
    )
    before = arrays(runtime.state())
    for step in range(10):
        inputs, targets = numpy_batch(bundle, (5, 5, 3)[step % 3], seed=step)
        rows = len(next(iter(inputs.values())))
        weight = np.random.default_rng(step).uniform(0.2, 2, rows).astype(np.float32)
        got = runtime.step(inputs, targets, weight, **SETTINGS)
        expected = reference.step(inputs, targets, weight, **SETTINGS)
        assert list(got) == ["loss", *(task.name for task in bundle.manifest.tasks)]
        assert_close(got, expected, rtol=1e-3, atol=1e-5)
        assert_close(arrays(runtime.state()), arrays(reference.state()), rtol=1e-3, atol=1e-5)
    changed = arrays(runtime.state())
    assert any(not np.array_equal(changed[key], before[key]) for key in before)


@pytest.mark.parametrize("name", CASES)
def test_it_infers_as_torch_does_at_any_batch_size(bundles: Factory, name: str) -> None:
    bundle = bundles(name, [INFER, TRAIN])
    for target in (INFER, TRAIN):
        runtime = open_inference(bundle, target, runtime="litert")
        reference = open_inference(bundle, runtime="torch")
        for rows in (1, 4, 4, 7, 4):
            inputs, _ = numpy_batch(bundle, rows, seed=rows)
            assert_close(runtime.predict(inputs), reference.predict(inputs))


def test_the_same_step_from_the_same_state_is_the_same_at_every_call(bundles: Factory) -> None:
    bundle = bundles("conv")
    inputs, targets = numpy_batch(bundle, 8)
    runtime = open_training(bundle, TRAIN, runtime="litert")
    losses = [runtime.step(inputs, targets, lr=0.0, momentum=0.0, weight_decay=0.0) for _ in range(4)]
    assert losses == [losses[0]] * 4


def test_inference_of_a_training_target_runs_with_what_was_learnt(bundles: Factory) -> None:
    bundle = bundles("conv", batch_norm="train")
    training = open_training(bundle, TRAIN, runtime="litert")
    inputs, targets = numpy_batch(bundle, 6)
    for _ in range(3):
        training.step(inputs, targets, **SETTINGS)
    state = training.state()
    learnt = {**state.params, **state.buffers}
    got = open_inference(bundle, TRAIN, runtime="litert", params=learnt).predict(inputs)
    assert_close(got, open_inference(bundle, runtime="torch", params=learnt).predict(inputs))
    assert not np.allclose(
        got["kind"], open_inference(bundle, TRAIN, runtime="litert").predict(inputs)["kind"]
    )


def test_an_inference_file_refuses_other_parameters(bundles: Factory) -> None:
    bundle = bundles("mlp", [INFER, TRAIN])
    with pytest.raises(ConfigurationError, match="holds its parameters as constants"):
        open_inference(bundle, INFER, runtime="litert", params={"0.weight": np.zeros((8, 5), np.float32)})


def test_the_session_keeps_its_own_copy_of_the_state(bundles: Factory) -> None:
    bundle = bundles("mlp")
    first = open_training(bundle, TRAIN, runtime="litert")
    inputs, targets = numpy_batch(bundle, 4)
    first.step(inputs, targets, **SETTINGS)
    kept = first.state()
    copies = {key: np.array(value) for key, value in arrays(kept).items()}
    second = open_training(bundle, TRAIN, runtime="litert", state=kept)
    second.step(inputs, targets, **SETTINGS)
    first.step(inputs, targets, **SETTINGS)
    assert_close(arrays(kept), copies, rtol=0, atol=0)
    assert_close(arrays(first.state()), arrays(second.state()), rtol=0, atol=0)


def test_a_step_that_is_refused_leaves_the_state_as_it_was(
    bundles: Factory, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundles("conv", batch_norm="train")
    runtime = open_training(bundle, TRAIN, runtime="litert")
    assert isinstance(runtime, litert_training.LitertTraining)
    inputs, targets = numpy_batch(bundle, 4)
    runtime.step(inputs, targets, **SETTINGS)
    before = arrays(runtime.state())

    def refuse() -> None:
        raise RuntimeError("out of memory")

    invoke = runtime._function.invoke
    for rows in (4, 6):  # with and without new sizes
        monkeypatch.setattr(runtime._function, "invoke", refuse)
        other, wanted = numpy_batch(bundle, rows, seed=1)
        with pytest.raises(BundleError, match=r"LiteRT refuses to run .*: out of memory"):
            runtime.step(other, wanted, **SETTINGS)
        assert_close(arrays(runtime.state()), before, rtol=0, atol=0)
    monkeypatch.setattr(runtime._function, "invoke", invoke)
    runtime.step(inputs, targets, **SETTINGS)
    after = arrays(runtime.state())
    reference = open_training(bundle, TRAIN, runtime="litert")
    for _ in range(2):
        reference.step(inputs, targets, **SETTINGS)
    assert_close(after, arrays(reference.state()), rtol=0, atol=0)


def test_both_signatures_lie_in_one_file_under_the_names_of_the_specs(bundles: Factory) -> None:
    bundle = bundles("two_inputs", batch_norm="fold")
    entry = bundle.manifest.targets[TRAIN]
    assert entry.artifacts["infer"] == entry.artifacts["train_step"] == f"targets/{TRAIN}/model.tflite"
    signatures = litert.load_interpreter(bundle.file(entry.artifacts["infer"])).get_signature_list()
    trained = bundle.manifest.training.parameters
    assert set(signatures) == {"infer", "train"}
    assert set(signatures["infer"]["inputs"]) == {"image", "sensors", *(f"params.{name}" for name in trained)}
    assert set(signatures["infer"]["outputs"]) == {"kind"}
    assert {"target.kind", "sample_weight", "lr", "momentum", "weight_decay", "image"} <= set(
        signatures["train"]["inputs"]
    )
    assert set(signatures["train"]["outputs"]) == {"loss", "loss.kind"} | {
        f"next.{role}.{name}" for role in ("params", "momentum") for name in trained
    }


def test_a_target_may_fix_the_batch(tmp_path: Path) -> None:
    case = CASES["conv"]()
    fixed = replace(load_target(TRAIN), name="fixed", batch=3)
    bundle = export(
        case.model, tasks=case.tasks, example_input=case.example, targets=fixed, out=tmp_path / "bundle"
    )
    runtime, reference = (
        open_training(bundle, "fixed", runtime="litert"),
        open_training(bundle, runtime="torch"),
    )
    inputs, targets = numpy_batch(bundle, 3)
    assert_close(runtime.step(inputs, targets, **SETTINGS), reference.step(inputs, targets, **SETTINGS))
    inputs, targets = numpy_batch(bundle, 4)
    with pytest.raises(DataError, match="takes exactly 3"):
        runtime.step(inputs, targets, **SETTINGS)


def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    damaged = tmp_path / "model.tflite"
    damaged.write_bytes(b"\x20\x00\x00\x00TFL3" + bytes(64))
    with pytest.raises(BundleError, match="LiteRT refuses"):
        litert.load_interpreter(damaged)
    with pytest.raises(BundleError, match="LiteRT refuses"):
        litert.load_interpreter(tmp_path / "absent.tflite")


def test_the_runtime_says_what_it_is() -> None:
    assert litert.available().startswith("litert 2.")


class Wide(nn.Module):
    """Convolutions and a matrix large enough that the file is about them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.depthwise = nn.Conv2d(32, 32, 5, padding=2, groups=32)
        self.wide = nn.Conv2d(32, 128, 3, stride=2, padding=1)
        self.head = nn.Linear(128, 64)
        self.last = nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = torch.nn.functional.hardswish(self.depthwise(x))
        x = torch.relu(self.wide(x)).mean((2, 3))
        result: Tensor = self.last(torch.relu(self.head(x)))
        return result


@pytest.fixture(scope="module")
def precisions(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    examples = Examples(
        {"x": generator.standard_normal((64, 3, 16, 16)).astype(np.float32)},
        {"kind": generator.integers(0, 3, 64)},
    )
    return export(
        Wide().eval(),
        tasks=(KIND,),
        example_input=torch.randn(4, 3, 16, 16),
        targets=[INFER, *(f"android-arm64-litert-{p}" for p in ("fp16", "int8", "int8_dynamic"))],
        out=tmp_path_factory.mktemp("precisions") / "bundle",
        calibration=examples,
    )


@pytest.mark.parametrize(
    ("precision", "share", "error"),
    [("fp32", 1.0, 1e-6), ("fp16", 0.5, 1e-3), ("int8_dynamic", 0.25, 0.02), ("int8", 0.25, 0.05)],
)  # fmt: skip
def test_a_file_is_about_its_weights_and_agrees(
    precisions: Bundle, precision: str, share: float, error: float
) -> None:
    target = f"android-arm64-litert-{precision}"
    weights = sum(array.nbytes for array in precisions.params().values())
    path = precisions.file(precisions.manifest.targets[target].artifacts["infer"])
    assert path.stat().st_size <= 1.1 * share * weights + 8_000
    runtime = open_inference(precisions, target, runtime="litert")
    inputs, _ = numpy_batch(precisions, 6)
    expected = open_inference(precisions, runtime="torch").predict(inputs)["kind"]
    for _ in range(2):
        got = runtime.predict(inputs)["kind"]
        assert got.dtype == np.float32
        assert np.abs(got - expected).max() <= error * np.abs(expected).max()


def test_trained_parameters_are_not_stored_in_a_training_file(bundles: Factory) -> None:
    bundle = bundles("mlp")
    path = bundle.file(bundle.manifest.targets[TRAIN].artifacts["infer"])
    content = path.read_bytes()
    for array in bundle.params().values():
        assert array.tobytes() not in content


def test_static_quantisation_asks_for_calibration_data() -> None:
    target = load_target("android-arm64-litert-int8")
    from nagedge.backends.tflite_quantization import quantized

    with pytest.raises(ConfigurationError, match="needs calibration data"):
        quantized(b"", target, ())


def test_a_quantizer_that_fails_is_one_clear_error() -> None:
    from nagedge.backends.tflite_quantization import quantized

    target = load_target("android-arm64-litert-int8_dynamic")
    with pytest.raises(UnsupportedOperatorError, match=f"quantising for target '{target.name}' failed"):
        quantized(b"no model", target, ())


@pytest.mark.parametrize(
    ("trunk", "operator", "says"),
    [
        (nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten()), "aten.convolution", "over three axes"),
        (nn.Sequential(nn.Conv3d(1, 2, 2), nn.Flatten()), "aten.convolution", r"module '0\.0'"),
    ],
)
def test_an_operator_without_a_lowering_is_named(
    tmp_path: Path, trunk: nn.Module, operator: str, says: str
) -> None:
    model = nn.Sequential(trunk, nn.Linear(16, 3)).eval()
    with pytest.raises(UnsupportedOperatorError, match=says) as caught:
        export(
            model, tasks=(KIND,), example_input=torch.randn(2, 1, 3, 3, 3), targets=INFER, out=tmp_path / "b"
        )
    text = str(caught.value)
    assert text.startswith(f"backend 'litert' cannot lower {operator!r}")
    assert INFER in text
    assert "onnxruntime target" in text


def test_both_backends_share_one_lowering() -> None:
    assert backend.DECOMPOSITIONS
    names = ["android-arm64-litert-fp32", "linux-arm64-tflite_runtime-fp32"]
    targets: list[Target] = [load_target(name) for name in names]
    assert {t.backend for t in targets} == {"litert", "tflite_runtime"}
