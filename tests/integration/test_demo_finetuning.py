"""What fine-tuning reports must be what the bundle that it writes computes, convolutions included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import nagedge
from nagedge.data.examples import Examples
from nagedge.finetuning import evaluate
from nagedge.runtimes import open_inference

TARGET = "any-any-onnxruntime-fp32-train"


@pytest.fixture(scope="module")
def tuned(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[nagedge.Bundle, nagedge.Bundle, Examples, dict[str, object]]:
    folder = tmp_path_factory.mktemp("tuned")
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 1)
    )
    bundle = nagedge.export(
        model,
        tasks=[nagedge.TaskSpec("ink", "regression", size=1)],
        example_input=torch.randn(4, 1, 8, 8),
        targets=[TARGET],
        out=folder / "bundle",
    )
    rng = np.random.default_rng(0)
    image = rng.normal(size=(64, 1, 8, 8)).astype(np.float32)
    examples = Examples({"input": image}, {"ink": image.mean(axis=(1, 2, 3)) * 8}, None)
    result = nagedge.finetune(bundle, examples, evaluation=examples, epochs=5, lr=0.01, out=folder / "new")
    return bundle, result.bundle, examples, {"before": result.before, "after": result.after}


def test_the_metrics_after_are_those_of_the_new_bundle(tuned: tuple) -> None:
    old, new, examples, metrics = tuned
    assert metrics["before"]["ink"]["mae"] == pytest.approx(evaluate(old, examples)["ink"]["mae"])
    assert metrics["after"]["ink"]["mae"] == pytest.approx(evaluate(new, examples)["ink"]["mae"], rel=1e-4)
    assert metrics["after"]["ink"]["mae"] < metrics["before"]["ink"]["mae"]


def test_given_parameters_replace_those_of_the_file_in_every_runtime(tuned: tuple) -> None:
    old, new, examples, _ = tuned
    params = {name: new.params()[name] for name in new.manifest.training.parameters}
    expected = open_inference(new, runtime="torch").predict(examples.inputs)["ink"]
    for runtime in ("torch", "onnxruntime"):
        got = open_inference(old, runtime=runtime, params=params).predict(examples.inputs)["ink"]
        np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=runtime)
