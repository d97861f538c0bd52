"""ONNX Runtime's own format: the same predictions and the same steps, and the operators that they need."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models_for_tests import CASES, TRAIN, numpy_batch
from precision_harness import difference, inference_of, lowered, rows, session, target

from nagedge.backends.onnxruntime import lower
from nagedge.errors import ConfigurationError
from nagedge.export import export
from nagedge.targets import load_target


@pytest.mark.parametrize("precision", ["fp32", "int8", "int8_dynamic"])
@pytest.mark.parametrize("name", ["cnn", "residual", "gru", "encoder"])
def test_predictions_are_those_of_the_onnx_file(name: str, precision: str) -> None:
    artifacts = lowered(name, precision, ort_format=True)
    assert {role: file for role, (file, _) in artifacts.items()} == {
        "infer": "infer.onnx", "infer_ort": "infer.ort", "required_operators": "required_operators.config",
    }  # fmt: skip
    assert artifacts["infer_ort"][1][4:8] == b"ORTM"  # the identifier of the flatbuffer
    ours, theirs = session(artifacts["infer_ort"][1]), session(artifacts["infer"][1])
    for batch in (8, 3):
        inputs = rows(name, batch, seed=9)
        (got,), (expected,) = ours.run(None, inputs), theirs.run(None, inputs)
        # int8 kernels differ by a rounding: this machine takes unsigned bytes, the file is for arm64: signed ones
        assert difference(got, expected) < (1e-5 if precision == "fp32" else 1e-2)


def test_the_operators_are_those_of_the_file_with_their_types() -> None:
    config = lowered("cnn", "int8", ort_format=True)["required_operators"][1].decode()
    lines = [line for line in config.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z.]+;\d+;.+", line) for line in lines)
    assert 'QLinearConv{"inputs": {"0": ["int8_t"]}}' in config
    assert "QGemm" in config
    assert "FusedConv" not in config
    floating = lowered("cnn", "fp32", ort_format=True)["required_operators"][1].decode()
    assert "FusedConv" in floating
    assert "QLinearConv" not in floating
    assert "/" not in floating.replace("model/s", "")  # no path of a temporary folder


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_the_same_model_gives_files_that_compute_the_same(precision: str) -> None:
    """Equal bytes but for the .ort file, in which ONNX Runtime writes lists in the order of addresses."""
    first, second = (lowered("cnn", precision, ort_format=True) for _ in range(2))
    assert first["infer"] == second["infer"]
    assert first["required_operators"] == second["required_operators"]
    inputs = rows("cnn", 4, seed=9)
    (one,), (other,) = (session(files["infer_ort"][1]).run(None, inputs) for files in (first, second))
    np.testing.assert_array_equal(one, other)


def test_nothing_in_the_file_is_for_this_processor_alone() -> None:
    config = lowered("cnn", "fp32", ort_format=True)["required_operators"][1].decode()
    assert "nchwc" not in config


def test_a_training_step_is_written_too_and_computes_the_same(tmp_path: Path) -> None:
    case = CASES["conv"]()
    wanted = replace(load_target(TRAIN), ort_format=True)
    bundle = export(
        case.model, tasks=case.tasks, example_input=case.example, targets=wanted, out=tmp_path / "b"
    )
    artifacts = bundle.manifest.targets[TRAIN].artifacts
    assert {"infer", "train_step", "infer_ort", "train_step_ort", "required_operators"} <= set(artifacts)
    config = bundle.text(artifacts["required_operators"])
    assert "ConvTranspose" in config or "Conv" in config
    ours, theirs = (
        session(bundle.file(artifacts[role]).read_bytes()) for role in ("train_step_ort", "train_step")
    )
    inputs, targets = numpy_batch(bundle, 5)
    params, momentum = bundle.params(), bundle.momentum()
    fed = {
        **inputs,
        **{f"target.{key}": value for key, value in targets.items()},
        **{f"params.{key}": value for key, value in params.items()},
        **{f"momentum.{key}": value for key, value in momentum.items()},
        "sample_weight": np.ones(5, np.float32),
        **{key: np.float32(value) for key, value in (("lr", 0.1), ("momentum", 0.9), ("weight_decay", 0.01))},
    }
    names = {info.name for info in theirs.get_inputs()}
    assert names == {info.name for info in ours.get_inputs()}
    fed = {key: np.asarray(value) for key, value in fed.items() if key in names}
    outputs = [info.name for info in theirs.get_outputs()]
    for name, got, expected in zip(outputs, ours.run(outputs, fed), theirs.run(outputs, fed), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-6, err_msg=name)


def test_half_precision_in_the_format_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"asks for the ORT format in fp16.*Set ort_format = false"):
        lower(inference_of("mlp")[1], None, target("fp16", ort_format=True))
