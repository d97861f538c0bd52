"""Ordinal, quantile, mixture, segmentation, tagging, embedding: losses against torch's, heads, figures, exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import nagedge
from nagedge.data.preprocessing import Preprocessing, StandardiseTarget
from nagedge.errors import ConfigurationError, DataError
from nagedge.models import build_model
from nagedge.models.config import ModelConfig
from nagedge.specs import LossSpec, TaskSpec, TensorSpec
from nagedge.tasks import TASK_KINDS, check_targets, has_labels, loss_spec, measure, target_spec, task_loss

STARS = TaskSpec("stars", "ordinal", size=5)
DELAY = TaskSpec("delay", "quantile", size=3, loss=LossSpec("pinball", quantiles=(0.1, 0.5, 0.9)))
SPREAD = TaskSpec("spread", "mixture", size=3)
PIXELS = TaskSpec("pixels", "segmentation", size=3, shape=(12, 12))
WORDS = TaskSpec("words", "tagging", size=3, shape=(9,))
FACE = TaskSpec("face", "embedding", size=4, shape=(6,))
MORE = (STARS, DELAY, SPREAD, PIXELS, WORDS, FACE)
LABELS = torch.Generator().manual_seed(3)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


@pytest.mark.parametrize("task", MORE, ids=lambda task: task.kind)
def test_heads_targets_and_losses_fit_together(task: TaskSpec) -> None:
    kind = TASK_KINDS[task.kind]
    features = {2: (2, 7), 3: (2, 9, 7), 4: (2, 7, 3, 3)}[kind.features]
    output = kind.head(7, task)(torch.randn(features))
    assert tuple(output.shape) == (2, *kind.output_shape(task))
    spec = target_spec(task)
    target = torch.zeros((2, *(int(size) for size in spec.shape[1:])), dtype=getattr(torch, spec.dtype))
    check_targets(task, target.numpy(), "here")
    loss = task_loss(task, output, target)
    assert loss.shape == ()
    assert all(bool(g.isfinite().all()) for g in torch.autograd.grad(loss, output))
    assert loss_spec(task).name == kind.default_loss
    assert all(np.isfinite(v) for v in measure(task, output.detach().numpy(), target.numpy()).values())


def test_the_mixture_is_that_of_torch_distributions() -> None:
    output, target = draw(5, 9).requires_grad_(), draw(5)
    logits, means, log_scales = output.split(3, dim=1)
    mixture = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=logits), torch.distributions.Normal(means, log_scales.exp())
    )
    mine, theirs = task_loss(SPREAD, output, target), -mixture.log_prob(target).mean()
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    for a, b in zip(*(torch.autograd.grad(x, output) for x in (mine, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    figures = measure(SPREAD, output.detach().numpy(), target.numpy())
    assert figures["nll"] == pytest.approx(float(theirs.detach()))
    assert figures["mae"] == pytest.approx(float((mixture.mean - target).abs().mean().detach()))


def test_a_far_target_of_a_mixture_has_a_finite_gradient() -> None:
    output = torch.zeros(1, 9, requires_grad=True)
    task_loss(SPREAD, output, torch.tensor([300.0])).backward()
    assert output.grad is not None
    assert bool(output.grad.isfinite().all())


def test_mixtures_are_taken_back_to_their_unit() -> None:
    step = StandardiseTarget((10.0,), (4.0,), components=1)
    raw = np.array([[0.0, 0.5, np.log(0.25)]], np.float32)
    assert step.invert(raw) == pytest.approx(np.array([[0.0, 12.0, 0.0]]), abs=1e-6)
    assert step.invert(np.array([0.5], np.float32)) == pytest.approx([12.0])
    document = Preprocessing("x", targets={"spread": step}).to_json()
    assert Preprocessing.from_json(document).targets["spread"] == step


def test_pixels_and_steps_have_torchs_cross_entropy() -> None:
    for task, shape in ((PIXELS, (12, 12)), (WORDS, (9,))):
        output = draw(4, 3, *shape).requires_grad_()
        target = torch.randint(0, 3, (4, *shape), generator=LABELS)
        target[0] = -100
        target[1].view(-1)[::2] = -100
        mine, theirs = task_loss(task, output, target), functional.cross_entropy(output, target)
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
        weighted = TaskSpec(
            "t", task.kind, size=3, shape=shape, loss=LossSpec("cross_entropy", 0.1, (1.0, 2.0, 0.5))
        )
        torch.testing.assert_close(
            task_loss(weighted, output, target),
            functional.cross_entropy(output, target, torch.tensor([1.0, 2.0, 0.5]).double(), label_smoothing=0.1),
            rtol=1e-12, atol=1e-12,
        )  # fmt: skip


def test_ordinal_and_pinball_formulas() -> None:
    output = draw(6, 4)
    target = torch.tensor([0, 1, 2, 3, 4, -100])
    above = (target[:5, None] > torch.arange(4)).double()
    expected = functional.binary_cross_entropy_with_logits(output[:5], above, reduction="none").sum(1).mean()
    torch.testing.assert_close(task_loss(STARS, output, target), expected)
    said, y = draw(5, 3), draw(5)
    q = torch.tensor([0.1, 0.5, 0.9]).double()
    d = y[:, None] - said
    torch.testing.assert_close(task_loss(DELAY, said, y), torch.maximum(q * d, (q - 1) * d).mean())


def test_figures() -> None:
    passed = np.where(np.arange(4) < np.array([[0], [2], [4]]), 1.0, -1.0)  # classes 0, 2 and 4
    assert measure(STARS, passed, np.array([0, 3, 4])) == pytest.approx({"mae": 1 / 3, "accuracy": 2 / 3})
    said = np.array([[0.0, 1.0, 2.0]] * 4)
    figures = measure(DELAY, said, np.array([-1.0, 0.5, 1.5, 3.0]))
    assert (figures["coverage"], figures["mae"]) == (0.5, 1.25)
    classes = np.zeros((1, 3, 12, 12))
    classes[0, 1, :6] = 1  # class 1 above, class 0 below
    truth = np.zeros((1, 12, 12), np.int64)
    truth[0, :, :6] = 1
    assert measure(PIXELS, classes, truth) == pytest.approx({"accuracy": 0.5, "mean_iou": 1 / 3})
    steps = np.zeros((2, 3, 9))
    steps[:, 2] = 1
    tags = np.full((2, 9), 2)
    tags[0, 0], tags[1, 1:] = 0, -100
    assert measure(WORDS, steps, tags) == {"accuracy": 0.9, "sequence_accuracy": 0.5}
    rows = np.zeros((4, 10))
    rows[:, :2] = [[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9]]
    assert measure(FACE, rows, np.array([0, 0, 1, 1]))["recall_at_1"] == 1.0


@pytest.mark.parametrize(
    ("kind", "size", "loss"),
    [
        ("regression", 2, "mse"), ("regression", 1, "huber"), ("regression", 3, "l1"), ("binary", 1, "bce_with_logits"),
        ("multilabel", 3, "bce_with_logits"), ("quantile", 2, "pinball"), ("mixture", 2, "mixture_nll"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("nothing", [float("nan"), -3e38])
def test_missing_numbers_count_for_nothing(kind: str, size: int, loss: str, nothing: float) -> None:
    task = TaskSpec("t", kind, size=size, loss=LossSpec(loss, missing=True))
    plain = TaskSpec("t", kind, size=size, loss=loss)
    outputs = TASK_KINDS[kind].output_shape(task)
    output = draw(6, *outputs).requires_grad_()
    target = (draw(6, size) if kind in ("regression", "multilabel") else draw(6)).sigmoid()
    holes = target.clone()
    holes[1], holes[4] = nothing, nothing
    kept = torch.tensor([0, 2, 3, 5])
    mine, theirs = task_loss(task, output, holes), task_loss(plain, output[kept], target[kept])
    torch.testing.assert_close(mine, theirs)
    gradient = torch.autograd.grad(mine, output)[0]
    assert not gradient[[1, 4]].any()
    assert bool(gradient.isfinite().all())
    assert bool(has_labels(task, holes))
    holes[:] = nothing
    assert not has_labels(task, holes)
    assert task_loss(task, output, holes).item() == 0
    assert measure(task, output.detach().numpy(), holes.numpy()) == {}
    check_targets(task, np.where(holes.numpy() < -1, np.nan, holes.numpy()), "here")
    with pytest.raises(DataError):
        check_targets(plain, np.full(tuple(target.shape), np.nan), "here")


def test_single_missing_outputs_count_for_nothing() -> None:
    task = TaskSpec("t", "regression", size=2, loss=LossSpec("mse", missing=True))
    output, target = torch.zeros(2, 2), torch.tensor([[1.0, torch.nan], [2.0, 3.0]])
    assert task_loss(task, output, target).item() == pytest.approx((1 + 4 + 9) / 3)
    assert measure(task, output.numpy(), target.numpy())["mae"] == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("keywords", "text"),
    [
        ({"kind": "segmentation", "size": 3}, "shape is [], a segmentation task needs 2 whole numbers"),
        ({"kind": "regression", "size": 1, "shape": (3,)}, "shape is [3], a regression task needs none"),
        ({"kind": "embedding", "size": 1, "shape": (3,)}, "size is 1, a embedding task needs at least 2"),
        (
            {"kind": "quantile", "size": 2, "loss": LossSpec("pinball", quantiles=(0.9, 0.1))},
            "2 rising numbers",
        ),
        (
            {"kind": "regression", "size": 1, "loss": LossSpec("mse", quantiles=(0.5,))},
            "an option of pinball",
        ),
    ],
)
def test_wrong_tasks_are_refused(keywords: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        loss_spec(TaskSpec("t", **keywords))  # type: ignore[arg-type]
    assert text in str(error.value)


def test_a_head_that_needs_a_map_says_so() -> None:
    spec = TensorSpec("x", "float32", ("batch", 5))
    with pytest.raises(
        ConfigurationError, match=r"needs features \[2, features, height, width\], but model trunk 'mlp'"
    ):
        build_model(ModelConfig(trunk="mlp"), spec, [PIXELS], 0)


IMAGE = TensorSpec("x", "float32", ("batch", 1, 12, 12))
TEXT = TensorSpec("x", "int64", ("batch", 9))
VECTOR = TensorSpec("x", "float32", ("batch", 6))
KIND = TaskSpec("kind", "classification", size=4)
HOLES = TaskSpec("holes", "regression", size=2, loss=LossSpec("huber", missing=True))


@pytest.mark.parametrize(
    ("model", "spec", "tasks"),
    [
        (ModelConfig(trunk="mlp", hidden=[12]), VECTOR, [STARS, DELAY, SPREAD, FACE, HOLES]),
        (ModelConfig(trunk="cnn", channels=[4, 6]), IMAGE, [PIXELS, KIND]),
        (ModelConfig(trunk="tokens", channels=[6, 6], vocabulary=20), TEXT, [WORDS, KIND]),
    ],
    ids=["vectors", "maps", "sequences"],
)
@pytest.mark.parametrize("target", ["any-any-onnxruntime-fp32-train", "android-arm64-litert-fp32-train"])
def test_they_train_on_the_device_as_in_torch(
    model: ModelConfig, spec: TensorSpec, tasks: list[TaskSpec], target: str, tmp_path: Path
) -> None:
    module: nn.Module = build_model(model, spec, tasks, 0)
    sizes = [int(size) for size in spec.shape[1:]]
    example = torch.randint(0, 20, (4, *sizes)) if spec.dtype == "int64" else torch.randn(4, *sizes)
    bundle = nagedge.export(module, tasks=tasks, example_input=example, targets=[target], out=tmp_path / "b")
    assert [task.spec() for task in bundle.manifest.tasks] == [
        TaskSpec(t.name, t.kind, size=t.size, loss=loss_spec(t), shape=t.shape) for t in tasks
    ]
    assert all(comparison.within_tolerance for comparison in nagedge.verify(bundle, steps=3))
