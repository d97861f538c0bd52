"""Fine-tuning: what it learns is in the new bundle, what it cannot use is refused, and nothing is lost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import CASES, INFER, KIND, TRAIN, Case, exported
from torch import nn

from nagedge.bundle import Bundle
from nagedge.data.examples import Examples
from nagedge.errors import ConfigurationError, DataError, TrainingDivergedError
from nagedge.export import export
from nagedge.finetuning import evaluate, finetune
from nagedge.runtimes import open_inference, open_training


def examples(count: int = 60, seed: int = 0) -> Examples:
    """Return rows of five features whose class is the largest of the first three."""
    x = np.random.default_rng(seed).standard_normal((count, 5)).astype(np.float32)
    return Examples({"input": x}, {"kind": x[:, :3].argmax(1)})


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(CASES["mlp"](), tmp_path_factory.mktemp("tuned") / "bundle")


def test_it_learns_and_the_new_bundle_holds_what_was_learnt(bundle: Bundle, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    result = finetune(
        bundle,
        examples(),
        out=tmp_path / "new",
        epochs=30,
        lr=0.05,
        weight_decay=0.0,
        progress=lambda *r: seen.append(r),
    )
    assert (result.examples, result.evaluated, result.runtime, result.reports) == (48, 12, "onnxruntime", ())
    assert len(result.losses) == 30 * 3
    assert seen[-1] == ("fine-tuning", 90, 90)
    assert result.losses[-1]["loss"] < 0.5 * result.losses[0]["loss"]
    assert result.after["kind"]["accuracy"] > result.before["kind"]["accuracy"]

    new = Bundle.load(tmp_path / "new")
    assert new.manifest == result.bundle.manifest
    assert new.manifest.verification == {}
    changed = new.params()
    assert all(not np.array_equal(changed[name], value) for name, value in bundle.params().items())
    assert all(value.any() for value in new.momentum().values())
    inputs = examples(20, seed=5).inputs
    got, expected = open_inference(new).predict(inputs), open_inference(new, runtime="torch").predict(inputs)
    np.testing.assert_allclose(got["kind"], expected["kind"], rtol=1e-5, atol=1e-5)
    old = open_inference(bundle).predict(inputs)
    assert np.abs(got["kind"] - old["kind"]).max() > 0.1
    assert evaluate(new, examples(20, seed=5)) == evaluate(new, examples(20, seed=5), runtime="torch")


def test_a_convolutional_bundle_infers_with_what_it_learnt(tmp_path: Path) -> None:
    made = exported(CASES["conv"](), tmp_path / "b", batch_norm="train")
    rng = np.random.default_rng(0)
    data = Examples(
        {"x": rng.standard_normal((12, 1, 9, 9)).astype(np.float32)},
        {"kind": rng.integers(0, 3, 12), "level": rng.standard_normal(12).astype(np.float32)},
    )
    new = finetune(made, data, out=tmp_path / "new", epochs=4, lr=0.05, batch_size=4).bundle
    got, expected = (open_inference(new, runtime=r).predict(data.inputs) for r in ("onnxruntime", "torch"))
    for task in expected:
        np.testing.assert_allclose(got[task], expected[task], rtol=1e-4, atol=1e-5)
    assert not np.array_equal(new.params()["trunk.1.running_mean"], made.params()["trunk.1.running_mean"])


def test_both_runtimes_and_both_halves_of_a_run_give_the_same(bundle: Bundle, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 2, "lr": 0.05, "evaluation": examples(10, seed=9)}
    ours = finetune(bundle, examples(), out=tmp_path / "a", **options)
    again = finetune(bundle, examples(), out=tmp_path / "b", **options)
    torchs = finetune(bundle, examples(), out=tmp_path / "c", runtime="torch", **options)
    assert ours.losses == again.losses
    assert ours.examples == 60
    for name, value in ours.bundle.params().items():
        assert np.array_equal(value, again.bundle.params()[name])
        np.testing.assert_allclose(value, torchs.bundle.params()[name], rtol=1e-4, atol=1e-5)
    other = finetune(bundle, examples(), out=tmp_path / "d", seed=1, **options)
    assert other.losses != ours.losses


def test_it_goes_on_from_its_own_result_and_may_write_over_it(bundle: Bundle, tmp_path: Path) -> None:
    first = finetune(bundle, examples(), out=tmp_path / "new", epochs=1, lr=0.05)
    second = finetune(first.bundle, examples(), out=tmp_path / "new", epochs=1, lr=0.05)
    assert second.before == first.after
    state = open_training(second.bundle).state()
    assert all(
        np.array_equal(state.momentum[name], value) for name, value in second.bundle.momentum().items()
    )


def test_a_fixed_batch_uses_every_example_padding_counts_for_nothing(tmp_path: Path) -> None:
    free = exported(CASES["mlp"](), tmp_path / "free")
    fixed = exported(CASES["mlp"](), tmp_path / "fixed", batch=8)
    options: dict[str, Any] = {"epochs": 2, "lr": 0.05, "evaluation": examples(11, seed=2), "batch_size": 8}
    a = finetune(free, examples(20), out=tmp_path / "a", **options)
    b = finetune(fixed, examples(20), out=tmp_path / "b", **{**options, "batch_size": 3})
    assert len(a.losses) == len(b.losses) == 6
    np.testing.assert_allclose([x["loss"] for x in b.losses], [x["loss"] for x in a.losses], rtol=1e-5)
    assert a.after == b.after


def test_weights_of_examples_are_used(bundle: Bundle, tmp_path: Path) -> None:
    data = examples(20)
    weight = np.zeros(20, np.float32)
    result = finetune(
        bundle, Examples(data.inputs, data.targets, weight), out=tmp_path / "a", epochs=1, lr=0.5, weight_decay=0.0,
        evaluation=data,
    )  # fmt: skip
    assert all(np.array_equal(value, bundle.params()[name]) for name, value in result.bundle.params().items())


def test_a_last_batch_of_one_row_does_not_spoil_the_running_statistics(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 3)).eval()
    made = exported(Case(model, (KIND,), torch.randn(4, 5)), tmp_path / "b", batch_norm="train")
    result = finetune(
        made, examples(9), out=tmp_path / "new", epochs=1, lr=0.01, batch_size=4, evaluation=examples(4)
    )
    assert all(np.isfinite(value).all() for value in result.bundle.params().values())


def test_a_raw_file_is_read_as_the_manifest_says(bundle: Bundle, tmp_path: Path) -> None:
    data = examples(10)
    np.savez(tmp_path / "user.npz", input=data.inputs["input"], kind=data.targets["kind"])
    result = finetune(bundle, tmp_path / "user.npz", out=tmp_path / "new", epochs=1)
    assert (result.examples, result.evaluated, len(result.reports)) == (8, 2, 1)


# --- refusals -----------------------------------------------------------------------------------------------------


def test_divergence_stops_and_writes_nothing(bundle: Bundle, tmp_path: Path) -> None:
    before = {p: p.read_bytes() for p in bundle.path.rglob("*") if p.is_file()}
    with pytest.raises(TrainingDivergedError) as caught:
        finetune(bundle, examples(), out=tmp_path / "new", epochs=20, lr=1e38)
    assert str(caught.value).startswith("fine-tuning diverged: ")
    assert str(caught.value).endswith("with lr 1e+38. Nothing was written; use a smaller --lr.")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(TrainingDivergedError, match="fine-tuning diverged"):
        finetune(bundle, examples(5), out=bundle.path, epochs=1, lr=1e38, weight_decay=1e9)
    assert {p: p.read_bytes() for p in bundle.path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"epochs": 0}, "epochs is 0, expected a number >= 1."),
        ({"batch_size": 0}, "batch_size is 0, expected a number >= 1."),
        ({"lr": 0.0}, "lr is 0.0, expected a finite number > 0."),
        ({"lr": float("nan")}, "lr is nan, expected a finite number > 0."),
        ({"momentum": 1.0}, "momentum is 1.0, expected a number in [0, 1)."),
        ({"weight_decay": -1.0}, "weight_decay is -1.0, expected a finite number >= 0."),
        (
            {"runtime": "tflite"},
            "unknown runtime 'tflite'; expected one of onnxruntime, ort_training, litert,",
        ),
        ({"target": "phone"}, "has no target 'phone'"),
    ],
)
def test_an_argument_out_of_range_is_refused(
    bundle: Bundle, tmp_path: Path, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        finetune(bundle, examples(8), out=tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()


def changed(**arrays: Any) -> Examples:
    data = examples(8)
    inputs = {"input": arrays.get("input", data.inputs["input"])}
    return Examples(inputs, {"kind": arrays.get("kind", data.targets["kind"])})


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (changed(kind=np.full(8, 3)), "the examples: label 3 of task 'kind' in row 0 is out of range"),
        (
            changed(kind=np.full(8, 0.5)),
            "the examples: labels of classification task 'kind' have dtype float64",
        ),
        (
            changed(kind=np.zeros((8, 2), np.int64)),
            "the examples: targets of classification task 'kind' have shape [8, 2]",
        ),
        (
            changed(input=np.full((8, 5), np.nan, np.float32)),
            "input 'input' holds NaN or infinite values, first in row 0.",
        ),
        (changed(input=np.zeros((8, 4), np.float32)), "input 'input' has shape [4, 4], expected [batch, 5]"),
        (Examples({"image": np.zeros((8, 5))}, {}), "the examples lack the input 'input'; they have image."),
        (
            Examples(examples(8).inputs, {"level": np.zeros(8)}),
            "the examples lack targets of task 'kind'; they have level.",
        ),
        (examples(0), "there is no example"),
    ],
)
def test_examples_that_do_not_fit_are_refused(
    bundle: Bundle, tmp_path: Path, data: Examples, says: str
) -> None:
    with pytest.raises(DataError, match=re.escape(says)):
        finetune(bundle, data, out=tmp_path / "new", evaluation=examples(4), batch_size=4)
    if len(data) and "image" not in data.inputs:
        with pytest.raises(DataError):
            finetune(bundle, examples(4), out=tmp_path / "new", evaluation=data)
    assert not (tmp_path / "new").exists()


def test_one_example_cannot_also_be_the_evaluation(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the data has 1 usable example\(s\), fine-tuning needs 2 or more"):
        finetune(bundle, examples(1), out=tmp_path / "new")


def test_a_foreign_folder_is_refused_before_the_work(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    seen: list[tuple[str, int, int]] = []
    with pytest.raises(ConfigurationError, match="exists and is not a bundle: nothing was written"):
        finetune(bundle, examples(8), out=tmp_path / "photos", progress=lambda *r: seen.append(r))
    assert seen == []
    assert (tmp_path / "photos" / "cat.jpg").read_text() == "x"


def test_a_bundle_without_a_training_step_is_refused(tmp_path: Path) -> None:
    case = CASES["mlp"]()
    plain = export(
        case.model, tasks=case.tasks, example_input=case.example, targets=INFER, out=tmp_path / "b"
    )
    with pytest.raises(ConfigurationError, match=rf"has no .train_step. artifact in any target \({INFER}\)"):
        finetune(plain, examples(8), out=tmp_path / "new")


def test_a_file_cannot_feed_two_inputs(tmp_path: Path) -> None:
    made = exported(CASES["two_inputs"](), tmp_path / "b")
    with pytest.raises(
        ConfigurationError, match=r"has 2 inputs; a data file holds one. Give Examples from Python"
    ):
        finetune(made, "user.npz", out=tmp_path / "new")
    rng = np.random.default_rng(0)
    data = Examples(
        {
            "image": rng.standard_normal((6, 1, 6, 6)).astype(np.float32),
            "sensors": rng.standard_normal((6, 3)).astype(np.float32),
        },
        {"kind": rng.integers(0, 3, 6)},
    )
    assert finetune(made, data, out=tmp_path / "new", epochs=1).bundle.target()[0] == TRAIN
