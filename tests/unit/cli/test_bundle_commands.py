"""export, verify and their refusals through the command line, on a model that takes a second."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nagedge.cli.app import app
from nagedge.cli.verify import refuse_disagreement, write_comparisons
from nagedge.errors import VerificationError
from nagedge.targets import target_file
from nagedge.verification import Comparison

TRAIN = "any-any-onnxruntime-fp32-train"
FACTORY = """
import torch
from torch import nn
import nagedge

def make():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return model, [nagedge.TaskSpec("state", "classification", size=3)], torch.randn(4, 4)
"""


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    module = f"model_{tmp_path.name}"
    (tmp_path / f"{module}.py").write_text(FACTORY)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def export(folder: Path, *options: str, target: str = TRAIN) -> Result:
    source = f"model_{folder.name}:make"
    return run("export", source, "--target", target, "--out", "bundle", *options)


def test_export_lists_the_files_and_verify_prints_the_worst_first(folder: Path) -> None:
    exported = export(folder)
    assert exported.exit_code == 0, exported.output
    assert f"targets/{TRAIN}/train_step.onnx" in exported.stdout
    assert "bundle  bundle\nnext: nagedge verify bundle\n" in exported.stdout
    verified = run("verify", "bundle", "--steps", "3", "--json", "comparisons.json")
    assert verified.exit_code == 0, verified.output
    comparisons = json.loads((folder / "comparisons.json").read_text())
    assert {comparison["step"] for comparison in comparisons} == {0, 1, 2, 3}
    assert f"all {len(comparisons)} comparisons over 3 steps are within tolerance" in verified.stdout
    assert json.loads((folder / "bundle/manifest.json").read_text())["verification"][TRAIN][0]["steps"] == 3


def test_export_within_a_memory_budget_or_not_at_all(folder: Path) -> None:
    refused = export(folder, "--memory-budget", "1kB")
    assert refused.exit_code == 2
    assert "cannot be kept within 1,000 bytes" in " ".join(refused.stderr.split())
    assert not (folder / "bundle").exists()
    unknown = export(folder, "--memory-budget", "32 parsecs")
    assert unknown.exit_code == 2
    assert "memory budget '32 parsecs' is no size" in " ".join(unknown.stderr.split())
    exported = export(folder, "--memory-budget", "32MB")
    assert exported.exit_code == 0, exported.output
    assert "is planned to hold" in " ".join(exported.stdout.split())


def test_verify_fails_with_the_first_tensor_out_of_tolerance(folder: Path) -> None:
    strict = (
        target_file(TRAIN).read_text().replace("1e-3", "0.0").replace("1e-5", "0.0").replace("1e-4", "0.0")
    )
    (folder / "exact.toml").write_text(strict)
    exported = export(folder, target="exact.toml")
    assert exported.exit_code == 1
    assert exported.stderr.endswith(
        "Nothing was exported; the artifacts are kept in bundle.out-of-tolerance.\n"
    )
    assert not (folder / "bundle").exists()
    result = run("verify", "bundle.out-of-tolerance", "--steps", "20", "--json", "comparisons.json")
    assert result.exit_code == 1
    assert result.stderr.startswith("error: bundle bundle.out-of-tolerance, target exact: ")
    assert "allowed are rtol 0 and atol 0." in result.stderr
    comparisons = json.loads((folder / "comparisons.json").read_text())
    first = min(entry["step"] for entry in comparisons if not entry["within_tolerance"])
    assert f"at step {first}:" in result.stderr


def test_the_text_of_a_disagreement() -> None:
    good = Comparison("loss", 1, 1e-9, 1e-9, 1e-3, 1e-5, within_tolerance=True, target="t")
    bad = Comparison("momentum.2.bias", 4, 0.25, 0.5, 1e-3, 1e-5, within_tolerance=False, target="t")
    refuse_disagreement(Path("b"), [good])
    with pytest.raises(VerificationError) as caught:
        refuse_disagreement(Path("b"), [good, bad])
    assert str(caught.value) == (
        "bundle b, target t: 1 of 2 tensors are out of tolerance, first 'momentum.2.bias' at step 4: it differs by "
        "0.25, allowed are rtol 0.001 and atol 1e-05. Do not ship it; report the model with this text."
    )


def test_a_damaged_bundle_is_refused_before_anything_is_parsed(folder: Path) -> None:
    assert export(folder).exit_code == 0
    step = folder / f"bundle/targets/{TRAIN}/train_step.onnx"
    step.write_bytes(step.read_bytes()[:-1] + b"x")
    for arguments in (["verify", "bundle"], ["profile", "bundle"]):
        result = run(*arguments)
        assert result.exit_code == 2, result.output
        assert "train_step.onnx" in result.stderr
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--trainable", "nothing-has-this-name"], "nothing-has-this-name"),
        (["--trainable", "lora:0"], "lora:0"),
        (["--target", "any-any-onnxruntime-fp23"], "unknown target 'any-any-onnxruntime-fp23'"),
        (["--target", "none.toml"], "target file none.toml: cannot be read"),
        (["--batch-norm", "thaw"], "thaw"),
        (["--batch", "0"], "greater than or equal to 1"),
    ],
)
def test_a_bad_option_is_refused_and_writes_nothing(folder: Path, options: list[str], text: str) -> None:
    result = export(folder, *options)
    assert result.exit_code == 2, result.output
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert not (folder / "bundle").exists()


@pytest.mark.parametrize("source", ["nowhere", "nowhere:make", "json:no_such_function"])
def test_a_source_that_is_none_is_refused(folder: Path, source: str) -> None:
    result = run("export", source, "--target", TRAIN, "--out", "bundle")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert source in result.stderr
    assert not (folder / "bundle").exists()


def test_a_bundle_that_is_not_there_is_refused(folder: Path) -> None:
    result = run("verify", "none")
    assert result.exit_code == 2
    assert "'none'" in result.stderr


def test_a_difference_that_is_not_finite_is_null_in_the_file(tmp_path: Path) -> None:
    broken = Comparison("loss", 1, math.inf, math.inf, 1e-3, 1e-5, within_tolerance=False, target=TRAIN)
    write_comparisons(tmp_path / "comparisons.json", [broken])
    assert json.loads((tmp_path / "comparisons.json").read_text()) == [
        {
            "tensor": "loss", "step": 1, "max_abs": None, "max_rel": None, "rtol": 1e-3, "atol": 1e-5,
            "within_tolerance": False, "target": TRAIN,
        }
    ]  # fmt: skip
