"""What runs an artifact on an attached device: the choice, and what is said when there is none."""

from __future__ import annotations

from dataclasses import replace

import pytest

import nagedge
from nagedge.devices.names import parse_device
from nagedge.errors import RuntimeUnavailableError
from nagedge.profiling import attached
from nagedge.profiling.artifacts import Artifact, artifacts_of
from nagedge.profiling.on_app import app_runs
from nagedge.profiling.on_native import native_problem


@pytest.fixture
def artifacts(bundle: nagedge.Bundle) -> tuple[Artifact, Artifact]:
    infer, train = artifacts_of(bundle, None, ["infer", "train"], 1)
    return infer, train


def has(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(attached.android_app, "is_installed", lambda serial: "app" in names)
    monkeypatch.setattr(attached, "has_python", lambda serial: "python" in names)
    monkeypatch.setattr(attached, "has_native", lambda serial, artifact: "native" in names)


@pytest.mark.parametrize(
    ("there", "name", "chosen"),
    [
        (("app", "python", "native"), "adb:A1", "app"),
        (("python", "native"), "adb:A1", "python"),
        (("native",), "adb:A1", "native"),
        (("app", "python", "native"), "adb:A1/python", "python"),
        (("app", "python", "native"), "adb:A1/native/little", "native"),
    ],
)
def test_the_first_that_is_there_is_taken_unless_one_is_named(
    there: tuple[str, ...], name: str, chosen: str,
    bundle: nagedge.Bundle, artifacts: tuple[Artifact, Artifact], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    has(monkeypatch, *there)
    for artifact in artifacts:
        assert attached._chosen(bundle, artifact, parse_device(name)) == chosen


def test_the_app_takes_the_files_of_its_target_or_the_same_content_elsewhere(
    bundle: nagedge.Bundle, artifacts: tuple[Artifact, Artifact]
) -> None:
    infer, train = artifacts
    assert app_runs(bundle, infer)
    assert app_runs(bundle, train)
    assert app_runs(bundle, replace(infer, target="a-copy"))
    assert not app_runs(bundle, replace(infer, name="params.safetensors"))
    assert not app_runs(bundle, replace(infer, name="a.mlpackage"))


def test_what_is_lacking_is_said(
    bundle: nagedge.Bundle, artifacts: tuple[Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch)
    other = replace(artifacts[0], backend="coreml", name="a.mlpackage")
    with pytest.raises(RuntimeUnavailableError) as caught:
        attached._chosen(bundle, other, parse_device("adb:A1"))
    assert str(caught.value) == (
        "'a.mlpackage' cannot be timed on device 'A1': the app runs the float32 files of one target that trains on "
        "ONNX Runtime only; its runtime takes arrays through files, which would be timed with it; there is no "
        "benchmark program for its runtime."
    )


def test_benchmark_model_is_for_inference_of_one_example(artifacts: tuple[Artifact, Artifact]) -> None:
    infer, train = (replace(one, backend="litert") for one in artifacts)
    assert native_problem(infer) == ""
    assert "random numbers" in native_problem(train)
    assert "batch of 1, not 4" in native_problem(replace(infer, batch=4))
    assert native_problem(artifacts[1]) == "", "onnxruntime_perf_test gets inputs of its own"
