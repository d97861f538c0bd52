"""The Core ML runtime: sessions over a fake predictor that evaluates the same files, and what it says elsewhere."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import KIND, LEVEL, TwoHeads
from torch import nn

import nagedge
from nagedge.bundle import Bundle
from nagedge.errors import BundleError, ConfigurationError, DataError, RuntimeUnavailableError
from nagedge.runtimes import coreml, open_inference, open_training
from nagedge.runtimes.mil_program import load_program
from nagedge.runtimes.ml_program_features import features, named_results

TARGET = "ios-arm64-coreml-fp32-train"


class Tokens(nn.Module):
    """Whole numbers in, so that they are converted on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.net = TwoHeads(nn.Identity(), 4)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = self.net(self.embedding(x).mean(1))
        return found


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    return nagedge.export(
        Tokens().eval(), tasks=[KIND, LEVEL], example_input=torch.randint(0, 7, (4, 5)), targets=TARGET,
        out=tmp_path_factory.mktemp("coreml") / "bundle",
    )  # fmt: skip


class FakeMLModel:
    """Has what :class:`coremltools.models.MLModel` is used for; predicts by evaluating the package."""

    def __init__(self, path: str, compute_units: Any) -> None:
        assert compute_units == "cpu"
        self._program = load_program(Path(path))
        self.user_defined_metadata = dict(self._program.metadata)

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        for value in inputs.values():
            assert value.dtype in (np.float32, np.int32)
            assert value.ndim >= 1
            assert value.flags["C_CONTIGUOUS"]
        return self._program.run(inputs)


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Pretend to be macOS with a coremltools whose MLModel is the given class."""
    real = sys.modules.get("coremltools")

    def pretend(model: Any) -> None:
        import coremltools

        fake = types.SimpleNamespace(
            __version__="9.0", models=types.SimpleNamespace(MLModel=model),
            ComputeUnit=types.SimpleNamespace(CPU_ONLY="cpu"), real=real or coremltools,
        )  # fmt: skip
        monkeypatch.setattr(coreml.platform, "mac_ver", lambda: ("15.1", ("", "", ""), "arm64"))
        monkeypatch.setattr(coreml, "_coremltools", lambda: fake)

    return pretend


def batch(rows: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(rows)
    targets = {
        "kind": rng.integers(0, 3, rows),
        "level": rng.standard_normal((rows, 1)).astype(np.float32)[:, 0],
    }
    return {"x": rng.integers(0, 7, (rows, 5))}, targets, rng.uniform(0.5, 1.5, rows).astype(np.float32)


def test_training_and_inference_agree_with_pytorch(bundle: Bundle, mac: Callable[[Any], None]) -> None:
    mac(FakeMLModel)
    assert coreml.available() == "coreml (macOS 15.1, coremltools 9.0)"
    session, reference = coreml.open_training(bundle, TARGET), open_training(bundle, runtime="torch")
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}
    for rows in (4, 3, 4):
        inputs, targets, weight = batch(rows)
        got = session.step(inputs, targets, weight, **settings)
        expected = reference.step(inputs, targets, weight, **settings)
        assert got == pytest.approx(expected, rel=1e-5)
    state, wanted = session.state(), reference.state()
    for role in ("params", "momentum"):
        for name, array in getattr(wanted, role).items():
            np.testing.assert_allclose(getattr(state, role)[name], array, rtol=1e-5, atol=1e-6)
    outputs = coreml.open_inference(bundle).predict(batch(4)[0])
    for name, array in open_inference(bundle, runtime="torch").predict(batch(4)[0]).items():
        np.testing.assert_allclose(outputs[name], array, rtol=1e-5, atol=1e-6)


def test_a_returned_state_is_a_copy(bundle: Bundle, mac: Callable[[Any], None]) -> None:
    mac(FakeMLModel)
    session = coreml.open_training(bundle)
    name = next(iter(session.state().params))
    session.state().params[name][:] = 99.0
    assert not (session.state().params[name] == 99.0).any()


def test_other_systems_say_what_to_do(bundle: Bundle) -> None:
    if sys.platform == "darwin":
        pytest.skip("this is macOS")
    for call in (
        coreml.available,
        lambda: coreml.open_training(bundle),
        lambda: coreml.open_inference(bundle),
    ):
        with pytest.raises(
            RuntimeUnavailableError, match=r"needs macOS, this is \w+: verify with runtime 'mil'"
        ):
            call()


def test_other_parameters_are_refused(bundle: Bundle, mac: Callable[[Any], None]) -> None:
    mac(FakeMLModel)
    with pytest.raises(ConfigurationError, match="has its parameters as constants"):
        coreml.open_inference(bundle, params={"net.kind.bias": np.zeros(3, np.float32)})


def test_what_core_ml_refuses_becomes_one_error(bundle: Bundle, mac: Callable[[Any], None]) -> None:
    class Refuses(FakeMLModel):
        def __init__(self, path: str, compute_units: Any) -> None:
            raise RuntimeError("Error compiling model: unknown op.\nmore")

    mac(Refuses)
    with pytest.raises(
        BundleError, match=r"Core ML refuses .*infer\.mlpackage.*: Error compiling model: unknown op\. E"
    ):
        coreml.open_inference(bundle)

    class Fails(FakeMLModel):
        def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
            raise RuntimeError("Unable to compute the prediction.")

    mac(Fails)
    with pytest.raises(BundleError, match=r"Core ML cannot run .*: Unable to compute the prediction\."):
        coreml.open_inference(bundle).predict(batch(2)[0])

    class Damaged(FakeMLModel):
        def __init__(self, path: str, compute_units: Any) -> None:
            super().__init__(path, compute_units)
            self.user_defined_metadata["nagedge.names"] = "{"

    mac(Damaged)
    with pytest.raises(BundleError, match="the names of its features are damaged"):
        coreml.open_inference(bundle)


def test_features_fit_core_ml() -> None:
    names = {"a__b": "a.b"}
    given = features(
        {"a.b": np.asarray(1.5, np.float64), "n": np.asarray([True, False]), "k": np.arange(3)}, names
    )
    assert {key: (value.dtype, value.shape) for key, value in given.items()} == {
        "a__b": (np.float32, (1,)), "n": (np.int32, (2,)), "k": (np.int32, (3,)),
    }  # fmt: skip
    assert list(named_results({"a__b": np.zeros(1)}, names)) == ["a.b"]
    with pytest.raises(DataError, match=r"'k' holds numbers from 0 to 4294967296; Core ML has int32 only"):
        features({"k": np.asarray([0, 2**32])}, names)


def test_names_travel_in_the_package(bundle: Bundle) -> None:
    entry = bundle.manifest.targets[TARGET]
    program = load_program(bundle.file(entry.artifacts["train_step"]))
    names = json.loads(program.metadata["nagedge.names"])
    assert names["params__net__kind__weight"] == "params.net.kind.weight"
    assert set(program.inputs) | set(program.outputs) <= set(names)


def test_tasks_may_be_named_as_words_of_the_program_s_language(tmp_path: Path) -> None:
    tasks = [
        nagedge.TaskSpec("state", "classification", size=2),
        nagedge.TaskSpec("list", "regression", size=1),
    ]

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList(nn.Linear(3, task.size) for task in tasks)

        def forward(self, string: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return tuple(head(string) for head in self.heads)

    named = nagedge.export(
        Named(), tasks=tasks, example_input=torch.randn(2, 3), targets=TARGET, out=tmp_path / "bundle"
    )
    assert all(comparison.within_tolerance for comparison in nagedge.verify(named, steps=2))
