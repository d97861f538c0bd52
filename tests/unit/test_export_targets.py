"""Several targets in one bundle: one trace, a reason for each that is refused, and nothing skipped that passes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import CASES, INFER, KIND, TRAIN, exported
from torch import nn
from typer.testing import CliRunner

from nagedge import lowering, tracing
from nagedge.bundle import Bundle
from nagedge.calibration import Calibrator, calibrated
from nagedge.cli.app import app
from nagedge.data.examples import Examples
from nagedge.errors import ConfigurationError, DataError, RuntimeUnavailableError, UnsupportedOperatorError
from nagedge.export import export
from nagedge.runtimes import choose_runtime, open_inference, open_training
from nagedge.sources import ExportSource
from nagedge.targets import Target, available_targets, load_target
from nagedge.verification import lanes, verify


def no_lowering(*args: Any, **keywords: Any) -> Any:
    raise UnsupportedOperatorError("backend 'litert' cannot lower 'aten.foo'. Replace it.")


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Target:
    """A target whose backend refuses every model."""
    module = SimpleNamespace(DECOMPOSITIONS={}, lower=no_lowering)
    monkeypatch.setitem(sys.modules, "a_backend_that_refuses", module)
    monkeypatch.setitem(lowering.BACKENDS, "litert", "a_backend_that_refuses")
    return replace(load_target(TRAIN), name="phone", backend="litert", opset=None)


def made(targets: list[Any], out: Path, **options: Any) -> Bundle:
    case = CASES["mlp"]()
    return export(
        case.model, tasks=case.tasks, example_input=case.example, targets=targets, out=out, **options
    )


def test_one_that_cannot_be_served_does_not_stop_the_others(broken: Target, tmp_path: Path) -> None:
    bundle = made([broken, TRAIN], tmp_path / "b")
    assert list(bundle.manifest.targets) == [TRAIN]
    assert bundle.manifest.refused == {"phone": "backend 'litert' cannot lower 'aten.foo'. Replace it."}
    assert Bundle.load(bundle.path).manifest.refused == bundle.manifest.refused
    for targets in ([broken], [broken, replace(broken, name="other")]):
        with pytest.raises(UnsupportedOperatorError, match=r"cannot lower 'aten\.foo'"):
            made(targets, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_every_target_shares_one_trace(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[str] = []
    for name in ("trace_forward", "trace_inference", "trace_train_step"):
        real = getattr(tracing, name)
        monkeypatch.setattr(
            tracing, name, lambda *a, _real=real, _name=name, **k: (calls.append(_name), _real(*a, **k))[1]
        )
    first = load_target(TRAIN)
    made([first, replace(first, name="second"), INFER], tmp_path / "b")
    assert calls == ["trace_forward", "trace_inference", "trace_train_step"]


def test_all_means_every_target_that_ships() -> None:
    from nagedge.export import _targets

    assert [target.name for target in _targets("all")] == list(available_targets())
    assert [target.name for target in _targets(["all"])] == list(available_targets())


def test_a_runtime_that_cannot_be_had_is_skipped_and_never_passed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bundle = exported(CASES["mlp"](), tmp_path / "b")

    def unavailable(runtime: str, progress: object) -> str:
        raise RuntimeUnavailableError(f"runtime {runtime!r} needs the network.")

    monkeypatch.setattr(lanes, "available_runtime", unavailable)
    assert verify(bundle, steps=2) == []
    (entry,) = Bundle.load(bundle.path).manifest.verification[TRAIN]
    assert {half: check.verdict for half, check in entry.checks.items()} == {
        "inference": "skipped", "training": "skipped",
    }  # fmt: skip
    assert not entry.within_tolerance
    result = CliRunner().invoke(app, ["verify", str(bundle.path), "--steps", "2"])
    assert result.exit_code == 2
    assert (
        f"error: target {TRAIN} was not verified: runtime 'onnxruntime' needs the network." in result.stderr
    )
    assert "skipped" in result.stdout
    assert "within tolerance" not in result.stdout


def test_a_runtime_runs_the_targets_made_for_it(tmp_path: Path) -> None:
    bundle = exported(CASES["mlp"](), tmp_path / "b")
    assert choose_runtime(bundle, None, None, role="train_step") == (TRAIN, "onnxruntime")
    assert choose_runtime(bundle, None, "torch", role="infer") == (TRAIN, "torch")
    with pytest.raises(
        ConfigurationError, match=r"runtime 'litert' cannot run target .*made for onnxruntime\."
    ):
        open_training(bundle, runtime="litert")


def test_a_target_may_fix_its_batch(tmp_path: Path) -> None:
    fixed = replace(load_target(TRAIN), name="fixed", batch=3)
    bundle = made([fixed, TRAIN], tmp_path / "b")
    assert (bundle.manifest.batch, bundle.manifest.batch_of("fixed"), bundle.manifest.batch_of(TRAIN)) == (
        None, 3, None,
    )  # fmt: skip
    rng = np.random.default_rng(0)
    name = bundle.manifest.inputs[0].name
    width = int(bundle.manifest.inputs[0].shape[1])
    assert len(open_inference(bundle, "fixed").predict({name: rng.normal(size=(3, width)).astype("f4")})) > 0
    with pytest.raises(DataError, match="the batch has 4 rows, target 'fixed' takes exactly 3: fill it up"):
        open_inference(bundle, "fixed").predict({name: rng.normal(size=(4, width)).astype("f4")})
    assert all(c.within_tolerance for c in verify(bundle, steps=2))
    assert [e.batch for e in Bundle.load(bundle.path).manifest.verification["fixed"]] == [3]


def source(**options: Any) -> ExportSource:
    torch.manual_seed(0)
    return ExportSource(nn.Linear(4, 3), (KIND,), torch.randn(6, 4), "tiny", **options)


def test_calibration_takes_what_is_given_then_the_training_data_then_the_example() -> None:
    rows = np.arange(40, dtype=np.float32).reshape(10, 4)
    given = Examples({"input": rows}, {"kind": np.zeros(10, np.int64)})
    trained_on = Examples({"input": -rows}, {"kind": np.zeros(10, np.int64)})
    calibrator = Calibrator(source(training_examples=lambda: trained_on), given)
    assert not calibrator.used
    (batch,) = calibrator.batches()
    np.testing.assert_array_equal(batch["input"], rows[:8])
    assert calibrator.used
    assert calibrator.notes == ()
    assert (calibrator.few()["input"].dtype, calibrator.few()["input"].shape) == (np.float16, (8, 4))
    (batch,) = Calibrator(source(training_examples=lambda: trained_on), None).batches()
    np.testing.assert_array_equal(batch["input"], -rows[:8])
    plain = Calibrator(source(), None)
    (batch,) = plain.batches()
    assert batch["input"].shape == (6, 4)
    assert "taken from the 6 rows of the example input" in plain.notes[0]


def test_training_data_that_are_gone_are_named() -> None:
    def gone() -> Examples:
        raise DataError("data.csv: cannot be read.")

    with pytest.raises(
        ConfigurationError, match=r"tiny was trained on cannot be read .*data\.csv.*--calibration"
    ):
        Calibrator(source(training_examples=gone), None).batches()


def test_only_static_quantisation_is_calibrated() -> None:
    of = {p: replace(load_target(TRAIN), precision=p) for p in ("fp32", "fp16", "int8", "int8_dynamic")}
    assert [calibrated(target) for target in of.values()] == [False, False, True, False]
    assert not calibrated(replace(of["int8"], backend="coreml"))


def test_the_schema_knows_the_verdicts(tmp_path: Path) -> None:
    bundle = exported(CASES["mlp"](), tmp_path / "b")
    verify(bundle, steps=1)
    stored = json.loads((bundle.path / "manifest.json").read_text())["verification"][TRAIN][0]["checks"]
    assert {half: check["verdict"] for half, check in stored.items()} == {
        "inference": "within tolerance", "training": "within tolerance",
    }  # fmt: skip
