"""A fine-tuned bundle: its float16, int8 and ORT-format artifacts hold what was learnt, converted again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from models_for_tests import CASES, TRAIN
from precision_harness import difference, session

from nagedge.data.examples import Examples
from nagedge.export import export
from nagedge.finetuning import finetune
from nagedge.runtimes import open_inference

TARGETS = tuple(f"android-arm64-onnxruntime-{p}" for p in ("fp32", "fp16", "int8", "int8_dynamic"))
ALLOWED = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1, "int8_dynamic": 0.1}


def test_every_precision_holds_what_was_learnt(tmp_path: Path) -> None:
    case = CASES["mlp"]()
    rng = np.random.default_rng(0)
    x = rng.standard_normal((80, 5)).astype(np.float32)
    examples = Examples({"input": x}, {"kind": x[:, :3].argmax(1)})
    bundle = export(
        case.model, tasks=case.tasks, example_input=case.example, targets=[TRAIN, *TARGETS], calibration=examples,
        out=tmp_path / "bundle",
    )  # fmt: skip
    tuned = finetune(bundle, examples, out=tmp_path / "tuned", epochs=5, lr=0.2).bundle
    inputs = examples.take(np.arange(16)).inputs
    before = open_inference(bundle, runtime="torch").predict(inputs)["kind"]
    after = open_inference(tuned, runtime="torch").predict(inputs)["kind"]
    assert difference(after, before) > 0.5
    for target in TARGETS:
        entry = tuned.manifest.targets[target]
        got = open_inference(tuned, target).predict(inputs)["kind"]
        assert difference(got, after) < ALLOWED[entry.precision], target
        if "infer_ort" in entry.artifacts:
            model = tuned.file(entry.artifacts["infer_ort"]).read_bytes()
            (in_ort,) = session(model).run(
                None, {name: value.astype(np.float32) for name, value in inputs.items()}
            )
            assert difference(in_ort, after) < ALLOWED[entry.precision], target
