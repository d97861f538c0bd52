"""Verification: right artifacts pass, every kind of wrong one is found and named, and the verdicts are stored."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models_for_tests import ALARM, CASES, INFER, KIND, LEVEL, TAGS, TRAIN, Case, exported
from torch import nn

from nagedge.bundle import Bundle
from nagedge.errors import ConfigurationError
from nagedge.export import export
from nagedge.runtimes import TrainingState, open_training
from nagedge.verification import Comparison, compare, trajectory, verify, worst_first
from nagedge.verification.batches import batch_sizes, batches

Change = Callable[[int, TrainingState, TrainingState, dict[str, float]], TrainingState]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(CASES["mlp"](), tmp_path_factory.mktemp("verified") / "bundle")


class Wrong:
    """A session of the ONNX Runtime whose result is changed after every step, as a wrong artifact would."""

    def __init__(
        self, bundle: Bundle, change: Change, settings: Callable[[dict[str, float]], dict[str, float]]
    ) -> None:
        self.bundle, self.change, self.settings, self.steps = bundle, change, settings, 0
        self.session = open_training(bundle)

    def step(self, inputs: Any, targets: Any, weight: Any = None, **settings: float) -> dict[str, float]:
        self.steps += 1
        before = self.session.state()
        losses = self.session.step(inputs, targets, weight, **self.settings(settings))
        state = self.change(self.steps, before, self.session.state(), settings)
        self.session = open_training(self.bundle, state=state)
        return losses

    def state(self) -> TrainingState:
        return self.session.state()


def verify_wrong(
    monkeypatch: pytest.MonkeyPatch,
    bundle: Bundle,
    change: Change = lambda step, before, after, settings: after,
    settings: Callable[[dict[str, float]], dict[str, float]] = lambda given: given,
    steps: int = 8,
) -> list[Comparison]:
    def opened(of: Bundle, *arguments: Any, runtime: str | None = None, **keywords: Any) -> Any:
        if runtime == "torch":
            return open_training(of, *arguments, runtime=runtime, **keywords)
        return Wrong(of, change, settings)

    monkeypatch.setattr(trajectory, "open_training", opened)
    return verify(bundle, steps=steps)


# --- right artifacts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_right_artifact_is_within_tolerance_at_every_step(tmp_path: Path, name: str) -> None:
    made = exported(CASES[name](), tmp_path / "b")
    found = verify(made, steps=6)
    assert all(c.within_tolerance and c.excess <= 1 for c in found)
    training = made.manifest.training
    assert training is not None
    tensors = {f"{role}.{p}" for role in ("params", "momentum") for p in training.parameters}
    tensors |= {"loss", *(f"loss.{t.name}" for t in made.manifest.tasks)}
    assert {(c.tensor, c.step) for c in found if c.step} == {(t, s) for t in tensors for s in range(1, 7)}
    assert made.manifest.training is not None
    updates = {f"update.{name}" for name in made.manifest.training.parameters}
    assert {c.tensor for c in found if not c.step} == {
        f"infer.{t.name}" for t in made.manifest.tasks
    } | updates
    assert {c.target for c in found} == {TRAIN}


def test_every_kind_of_task_and_the_running_statistics_are_compared(tmp_path: Path) -> None:
    class Four(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh())
            self.heads = nn.ModuleList([nn.Linear(6, n) for n in (3, 1, 2, 1)])

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            features = self.trunk(x)
            return tuple(head(features) for head in self.heads)

    torch.manual_seed(0)
    made = exported(
        Case(Four().eval(), (KIND, LEVEL, TAGS, ALARM), torch.randn(4, 4)), tmp_path / "b", batch_norm="train"
    )
    found = verify(made, steps=4)
    assert all(c.within_tolerance for c in found)
    assert {"buffers.trunk.1.running_mean", "buffers.trunk.1.running_var", "loss.alarm", "infer.tags"} <= {
        c.tensor for c in found
    }


def test_the_same_seed_gives_the_same_result_and_another_other_batches(bundle: Bundle) -> None:
    assert verify(bundle, steps=2) == verify(bundle, steps=2)
    assert verify(bundle, steps=2) != verify(bundle, steps=2, seed=1)


# --- wrong artifacts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tensor", "size"), [("momentum.2.weight", 0.01), ("params.0.bias", 0.01), ("momentum.0.bias", math.nan)]
)
def test_one_corrupted_value_is_named_first_with_its_step(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, tensor: str, size: float
) -> None:
    role, _, name = tensor.partition(".")

    def corrupt(
        step: int, before: TrainingState, after: TrainingState, settings: dict[str, float]
    ) -> TrainingState:
        if step == 3:
            getattr(after, role)[name].reshape(-1)[1] += size
        return after

    found = verify_wrong(monkeypatch, bundle, corrupt)
    assert (found[0].tensor, found[0].step) == (tensor, 3)
    assert not found[0].within_tolerance
    assert all(c.within_tolerance for c in found if c.step < 3)
    if math.isnan(size):
        assert math.isinf(found[0].max_abs)
        assert math.isinf(found[0].excess)
    else:
        assert found[0].max_abs == pytest.approx(size, rel=1e-2)
    assert worst_first(found)[0] == found[0]


def rescaled(name: str, factor: float) -> Change:
    """Return a step whose gradient of one tensor is scaled."""

    def change(
        step: int, before: TrainingState, after: TrainingState, settings: dict[str, float]
    ) -> TrainingState:
        lr, m = settings["lr"], settings["momentum"]
        d = factor * (after.momentum[name] - m * before.momentum[name])
        after.momentum[name] = (m * before.momentum[name] + d).astype(np.float32)
        after.params[name] = (before.params[name] - lr * (d + m * after.momentum[name])).astype(np.float32)
        return after

    return change


@pytest.mark.parametrize("name", ["0.weight", "0.bias", "2.weight", "2.bias"])
def test_a_gradient_off_by_a_hundredth_is_found(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, name: str
) -> None:
    found = verify_wrong(monkeypatch, bundle, rescaled(name, 1.01))
    assert not found[0].within_tolerance
    assert (found[0].tensor, found[0].step) == (f"momentum.{name}", 1)
    assert all(c.within_tolerance for c in verify_wrong(monkeypatch, bundle, rescaled(name, 1.0)))


def heavy_ball(
    step: int, before: TrainingState, after: TrainingState, settings: dict[str, float]
) -> TrainingState:
    """``p' = p - lr b'``: momentum, but not Nesterov's."""
    for name in after.params:
        after.params[name] = (before.params[name] - settings["lr"] * after.momentum[name]).astype(np.float32)
    return after


def dampened(
    step: int, before: TrainingState, after: TrainingState, settings: dict[str, float]
) -> TrainingState:
    """``b' = m b + (1 - m) d``."""
    lr, m = settings["lr"], settings["momentum"]
    for name in after.params:
        d = after.momentum[name] - m * before.momentum[name]
        after.momentum[name] = (m * before.momentum[name] + (1 - m) * d).astype(np.float32)
        after.params[name] = (before.params[name] - lr * (d + m * after.momentum[name])).astype(np.float32)
    return after


def everything_decays(
    step: int, before: TrainingState, after: TrainingState, settings: dict[str, float]
) -> TrainingState:
    """Biases decay too."""
    for name in after.params:
        if after.params[name].ndim == 1:
            extra = settings["weight_decay"] * before.params[name]
            after.momentum[name] += extra
            after.params[name] -= settings["lr"] * (1 + settings["momentum"]) * extra
    return after


@pytest.mark.parametrize("change", [heavy_ball, dampened, everything_decays])
def test_a_wrong_update_formula_is_found(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, change: Change
) -> None:
    found = verify_wrong(monkeypatch, bundle, change)
    assert not found[0].within_tolerance
    assert found[0].step <= 2


@pytest.mark.parametrize(
    ("setting", "factor"), [("weight_decay", 0.0), ("weight_decay", 2.0), ("momentum", 0.98), ("lr", 1.5)]
)
def test_a_wrong_setting_is_found(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle, setting: str, factor: float
) -> None:
    found = verify_wrong(
        monkeypatch, bundle, settings=lambda given: {**given, setting: factor * given[setting]}
    )
    assert not found[0].within_tolerance
    assert found[0].step <= 3


def test_a_learning_rate_off_by_a_hundredth_is_found_by_the_long_step(
    monkeypatch: pytest.MonkeyPatch, bundle: Bundle
) -> None:
    found = verify_wrong(
        monkeypatch, bundle, settings=lambda given: {**given, "lr": 1.01 * given["lr"]}, steps=1
    )
    outside = {c.tensor for c in found if not c.within_tolerance}
    assert bundle.manifest.training is not None
    assert {f"update.{name}" for name in bundle.manifest.training.parameters} <= outside


# --- kinks --------------------------------------------------------------------------------------------------------


class AtTheCorner(nn.Module):
    """ReLUs whose inputs are zero up to rounding, so that the last bit of a weight decides on their gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.head = nn.Linear(2, 4, bias=False), nn.Linear(4, 3)
        with torch.no_grad():
            self.inner.weight.copy_(torch.tensor([[1.0, -1.0], [-1.0, 1.0], [1.0, 1.0], [0.5, -0.3]]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(torch.relu(self.inner(x[:, :1].expand(-1, 2))))
        return result


@pytest.fixture(scope="module")
def kinked(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    torch.manual_seed(0)
    case = Case(AtTheCorner().eval(), (KIND,), torch.randn(4, 2))
    return exported(case, tmp_path_factory.mktemp("kinked") / "bundle")


def rounded_otherwise(bundle: Bundle, size: float) -> Change:
    """Return a trajectory whose first step is PyTorch's own on weights that differ by the fraction ``size``."""

    def change(
        step: int, before: TrainingState, after: TrainingState, settings: dict[str, float]
    ) -> TrainingState:
        if step != 1:
            return after
        weight = before.params["inner.weight"] * np.asarray([1 + size, 1 - size], np.float32)
        moved = TrainingState({**before.params, "inner.weight": weight}, before.momentum, before.buffers)
        session = open_training(bundle, runtime="torch", state=moved)
        (batch,) = batches(bundle.manifest, batch_sizes(bundle.manifest, TRAIN), 1, 0)
        session.step(batch.inputs, batch.targets, batch.sample_weight, **settings)
        return session.state()

    return change


def test_the_other_side_of_a_kink_is_accepted_realigned_and_recorded(
    monkeypatch: pytest.MonkeyPatch, kinked: Bundle
) -> None:
    found = verify_wrong(monkeypatch, kinked, rounded_otherwise(kinked, 4e-7))
    assert all(c.within_tolerance for c in found)
    entry = Bundle.load(kinked.path).manifest.verification[TRAIN][0]
    assert entry.realigned == [1]
    assert entry.within_tolerance
    monkeypatch.undo()
    assert verify(kinked, steps=3)[0].within_tolerance
    assert Bundle.load(kinked.path).manifest.verification[TRAIN][0].realigned == []


def test_more_than_rounding_is_not_accepted_at_a_kink(
    monkeypatch: pytest.MonkeyPatch, kinked: Bundle
) -> None:
    found = verify_wrong(monkeypatch, kinked, rescaled("head.weight", 1.02))
    assert not found[0].within_tolerance
    assert (found[0].tensor, found[0].step) == ("momentum.head.weight", 1)
    assert Bundle.load(kinked.path).manifest.verification[TRAIN][0].realigned == []


# --- the data -----------------------------------------------------------------------------------------------------


def test_a_comparison_measures_a_tensor_by_its_own_scale() -> None:
    expected = np.asarray([100.0, 0.0], np.float32)
    inside = compare("params.w", 2, np.asarray([100.0, 0.09]), [expected], 1e-3, 0.0, "t")
    assert (inside.tensor, inside.step, inside.target, inside.rtol, inside.atol) == (
        "params.w",
        2,
        "t",
        1e-3,
        0.0,
    )
    assert inside.within_tolerance
    assert (inside.max_abs, inside.max_rel, inside.excess) == pytest.approx((0.09, 0.0009, 0.9))
    outside = compare("params.w", 2, np.asarray([100.11, 0.0]), [expected], 1e-3, 0.0)
    assert not outside.within_tolerance
    assert outside.excess == pytest.approx(1.1)
    assert compare("x", 1, np.zeros(3), [np.zeros(3)], 0.0, 0.0).within_tolerance
    zero = compare("x", 1, np.full(3, 1e-6), [np.zeros(3)], 1e-3, 1e-5)
    assert zero.within_tolerance
    assert math.isinf(zero.max_rel)
    assert zero.excess == pytest.approx(0.1)


@pytest.mark.parametrize(
    "got", [np.asarray([1.0, np.nan]), np.asarray([1.0, np.inf]), np.ones(3), np.ones((2, 1))]
)
def test_what_is_not_finite_or_of_another_shape_never_agrees(got: Any) -> None:
    found = compare("x", 1, got, [np.ones(2)], 1.0, 1e9)
    assert not found.within_tolerance
    assert math.isinf(found.excess)


def test_several_references_span_a_range() -> None:
    references = [np.asarray([0.0, 0.0]), np.asarray([1.0, 0.0])]
    assert compare("x", 1, np.asarray([0.7, 0.0]), references, 0.0, 0.0).max_abs == 0.0
    assert not compare("x", 1, np.asarray([0.7, 0.1]), references, 0.0, 0.0).within_tolerance
    assert not compare("x", 1, np.asarray([-0.1, 0.0]), references, 0.0, 0.0).within_tolerance


def test_worst_first_names_each_tensor_once_the_earliest_failure_first() -> None:
    def item(tensor: str, step: int, size: float, target: str = "t") -> Comparison:
        return Comparison(tensor, step, size, size, 1e-3, 0.0, size <= 1e-3, target)

    items = [
        item("a", 1, 1e-4), item("a", 5, 0.5), item("b", 2, 0.01), item("b", 3, 0.9), item("c", 1, 9e-4),
        item("d", 2, 0.02), item("a", 1, 0.2, "u"),
    ]  # fmt: skip
    assert [(c.target, c.tensor, c.step) for c in worst_first(items)] == [
        ("u", "a", 1), ("t", "d", 2), ("t", "b", 2), ("t", "a", 5), ("t", "c", 1),
    ]  # fmt: skip
    assert worst_first([]) == []


def test_the_verdict_is_stored_for_every_target(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = CASES["mlp"]()
    made = export(
        case.model, tasks=case.tasks, example_input=case.example, targets=[TRAIN, INFER], out=tmp_path / "b"
    )
    seen: list[tuple[str, int, int]] = []
    found = verify(made, steps=3, progress=lambda *report: seen.append(report))
    assert {c.target for c in found} == {TRAIN, INFER}
    assert (f"verifying {TRAIN}", 3, 3) in seen
    stored = Bundle.load(made.path).manifest.verification
    assert (stored[TRAIN][0].steps, stored[INFER][0].steps) == (3, 0)
    assert stored[TRAIN][0].runtime.startswith("onnxruntime ")
    assert stored[TRAIN][0].reference == f"torch {torch.__version__.partition('+')[0]}"
    assert stored[TRAIN][0].within_tolerance
    assert stored[INFER][0].within_tolerance
    worst = worst_first([c for c in found if c.target == TRAIN])[: len(stored[TRAIN][0].worst)]
    assert [(w.tensor, w.step, w.max_abs) for w in stored[TRAIN][0].worst] == [
        (c.tensor, c.step, c.max_abs) for c in worst
    ]

    def spoil(
        step: int, before: TrainingState, after: TrainingState, settings: dict[str, float]
    ) -> TrainingState:
        after.params["0.bias"][0] = np.nan
        return after

    verify_wrong(monkeypatch, Bundle.load(made.path), spoil, steps=2)
    text = (made.path / "manifest.json").read_text()
    entry = json.loads(text)["verification"][TRAIN][0]
    assert entry["checks"]["training"]["verdict"] == "out of tolerance"
    assert entry["checks"]["inference"]["verdict"] == "within tolerance"
    assert (entry["worst"][0]["tensor"], entry["worst"][0]["step"], entry["worst"][0]["max_abs"]) == (
        "params.0.bias",
        1,
        None,
    )
    assert "NaN" not in text


def test_arguments_out_of_range_are_refused(bundle: Bundle) -> None:
    with pytest.raises(ConfigurationError, match="steps is 0, expected a number >= 1"):
        verify(bundle, steps=0)
    with pytest.raises(ConfigurationError, match="has no target 'phone'"):
        verify(bundle, target="phone")


def test_a_default_step_that_diverges_is_made_smaller_for_the_comparison(bundle: Bundle) -> None:
    training = bundle.manifest.training
    assert training is not None
    wild = bundle.manifest.model_copy(update={"training": training.model_copy(update={"lr": 1e6})})
    found = verify(Bundle(bundle.path, wild, object()), steps=4)
    assert all(c.within_tolerance for c in found)
