"""The losses against torch's own, in float64, values and gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from nagedge.errors import ConfigurationError
from nagedge.specs import LossSpec, TaskSpec
from nagedge.tasks import has_labels, labelled_tasks, loss_spec, task_loss, total_loss

batches, sizes, seeds = st.integers(1, 7), st.integers(2, 6), st.integers(0, 2**31)


def check_same(mine: Tensor, theirs: Tensor, *outputs: Tensor) -> None:
    """Values and gradients with respect to the outputs are those of torch."""
    torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)
    for a, b in zip(torch.autograd.grad(mine, outputs), torch.autograd.grad(theirs, outputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-11, atol=1e-12)


def draw(seed: int, *shape: int, scale: float = 3.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(shape, generator=generator, dtype=torch.float64) * scale).requires_grad_()


def weights_of(seed: int, size: int) -> tuple[float, ...]:
    return tuple((torch.rand(size, generator=torch.Generator().manual_seed(seed + 1)) * 3 + 0.1).tolist())


@settings(max_examples=40)
@given(
    batches,
    sizes,
    seeds,
    st.sampled_from([0.0, 0.1, 0.7, 1.0]),
    st.booleans(),
    st.sampled_from([-100, 1, -1]),
)
def test_cross_entropy_is_torchs(
    batch: int, size: int, seed: int, smoothing: float, weighted: bool, ignore_index: int
) -> None:
    class_weights = weights_of(seed, size) if weighted else None
    task = TaskSpec(
        "t", "classification", size=size,
        loss=LossSpec("cross_entropy", smoothing, class_weights, ignore_index),
    )  # fmt: skip
    output = draw(seed, batch, size)
    target = torch.randint(0, size, (batch,), generator=torch.Generator().manual_seed(seed))
    if ignore_index < 0:
        target[1::2] = ignore_index
    if (target == ignore_index).all():
        assert task_loss(task, output, target).item() == 0
        return
    theirs = functional.cross_entropy(
        output, target, label_smoothing=smoothing, ignore_index=ignore_index,
        weight=None if class_weights is None else torch.tensor(class_weights, dtype=torch.float64),
    )  # fmt: skip
    check_same(task_loss(task, output, target), theirs, output)


@settings(max_examples=40)
@given(batches, st.integers(1, 5), seeds, st.booleans())
def test_bce_is_torchs(batch: int, size: int, seed: int, weighted: bool) -> None:
    pos_weight = weights_of(seed, size) if weighted else None
    task = TaskSpec("t", "multilabel", size=size, loss=LossSpec("bce_with_logits", class_weights=pos_weight))
    output = draw(seed, batch, size, scale=20.0)
    target = (draw(seed + 5, batch, size) > 0).double()
    theirs = functional.binary_cross_entropy_with_logits(
        output,
        target,
        pos_weight=None if pos_weight is None else torch.tensor(pos_weight, dtype=torch.float64),
    )
    check_same(task_loss(task, output, target), theirs, output)


def test_bce_gradient_at_logit_zero_is_torchs() -> None:
    output = torch.zeros(3, 1, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64)
    theirs = functional.binary_cross_entropy_with_logits(output.squeeze(1), target)
    check_same(task_loss(TaskSpec("t", "binary", size=1), output, target), theirs, output)


@settings(max_examples=40)
@given(
    batches,
    st.integers(1, 5),
    seeds,
    st.sampled_from(["mse", "l1", "huber"]),
    st.sampled_from([0.3, 1.0, 4.0]),
)
def test_regression_losses_are_torchs(batch: int, size: int, seed: int, name: str, delta: float) -> None:
    loss = LossSpec(name, delta=delta) if name == "huber" else LossSpec(name)
    output, target = draw(seed, batch, size), draw(seed + 1, batch, size).detach()
    theirs = {
        "mse": functional.mse_loss(output, target),
        "l1": functional.l1_loss(output, target),
        "huber": functional.huber_loss(output, target, delta=delta),
    }[name]
    check_same(task_loss(TaskSpec("t", "regression", size=size, loss=loss), output, target), theirs, output)


def kinds(size: int, seed: int) -> list[TaskSpec]:
    weighted = LossSpec("cross_entropy", 0.1, weights_of(seed, size))
    return [
        TaskSpec("a", "classification", size=size, loss=weighted),
        TaskSpec("b", "multilabel", size=size),
        TaskSpec("c", "regression", size=size, loss="huber", weight=0.5),
        TaskSpec("d", "binary", size=1),
    ]


def batch_of(tasks: list[TaskSpec], batch: int, seed: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    outputs = {task.name: draw(seed + i, batch, task.size) for i, task in enumerate(tasks)}
    generator = torch.Generator().manual_seed(seed)
    targets = {
        "a": torch.randint(0, tasks[0].size, (batch,), generator=generator),
        "b": (draw(seed, batch, tasks[1].size) > 0).double(),
        "c": draw(seed + 9, batch, tasks[2].size).detach(),
        "d": (draw(seed + 8, batch) > 0).double(),
    }
    return outputs, targets


@settings(max_examples=40)
@given(st.integers(2, 7), sizes, seeds)
def test_integer_weights_mean_repeated_samples_and_zero_means_absent(
    batch: int, size: int, seed: int
) -> None:
    tasks = kinds(size, seed)
    outputs, targets = batch_of(tasks, batch, seed)
    repeats = torch.randint(0, 4, (batch,), generator=torch.Generator().manual_seed(seed))
    repeats[0] = 1
    rows = torch.repeat_interleave(torch.arange(batch), repeats)
    weighted, per_task = total_loss(tasks, outputs, targets, repeats.double())
    plain, per_task_plain = total_loss(
        tasks, {k: v[rows] for k, v in outputs.items()}, {k: v[rows] for k, v in targets.items()}
    )
    check_same(weighted, plain, *outputs.values())
    torch.testing.assert_close(per_task, per_task_plain)


def test_all_weights_zero_gives_zero_with_zero_gradients() -> None:
    tasks = kinds(3, 0)
    outputs, targets = batch_of(tasks, 4, 0)
    total, losses = total_loss(tasks, outputs, targets, torch.zeros(4))
    assert total.item() == 0
    assert all(loss.item() == 0 for loss in losses.values())
    assert all(not g.any() for g in torch.autograd.grad(total, list(outputs.values())))


def test_total_is_the_weighted_sum() -> None:
    tasks = kinds(3, 1)
    outputs, targets = batch_of(tasks, 4, 1)
    total, losses = total_loss(tasks, outputs, targets)
    assert total.item() == pytest.approx(
        sum(task.weight * losses[task.name].item() for task in tasks), rel=1e-12
    )


def test_a_task_is_labelled_where_its_loss_has_a_denominator() -> None:
    weights = LossSpec("cross_entropy", class_weights=(0.0, 1.0))
    tasks = [
        TaskSpec("kind", "classification", size=2, loss=weights),
        TaskSpec("level", "regression", size=1),
    ]
    outputs = {"kind": draw(0, 3, 2), "level": draw(1, 3, 1)}
    targets = {"kind": torch.tensor([0, 0, 1]), "level": draw(2, 3, 1).detach()}
    assert labelled_tasks(tasks, outputs, targets).tolist() == [True, True]
    assert labelled_tasks(tasks, outputs, targets, torch.tensor([1.0, 2.0, 0.0])).tolist() == [False, True]
    assert labelled_tasks(tasks, outputs, targets, torch.zeros(3)).tolist() == [False, False]
    unweighted = targets | {"kind": torch.zeros(3, dtype=torch.int64)}
    assert has_labels(tasks[0], unweighted["kind"])
    assert labelled_tasks(tasks, outputs, unweighted).tolist() == [False, True]


def test_outputs_and_targets_of_size_one_may_lack_or_have_the_last_dimension() -> None:
    x, y = draw(0, 5, 1), draw(1, 5, 1).detach()
    for task in (TaskSpec("t", "regression", size=1), TaskSpec("t", "binary", size=1)):
        target = y if task.kind == "regression" else (y > 0).double()
        values = {
            task_loss(task, a, b).item() for a in (x, x.squeeze(1)) for b in (target, target.squeeze(1))
        }
        assert len(values) == 1
        assert math.isfinite(values.pop())


def test_a_masked_logit_of_minus_infinity_stays_finite() -> None:
    output = torch.tensor([[1.0, -math.inf, 2.0]], requires_grad=True)
    loss = task_loss(TaskSpec("t", "classification", size=3), output, torch.tensor([0]))
    assert math.isfinite(loss.item())


def test_loss_and_gradient_trace_with_a_symbolic_batch_and_without_gather_or_scatter() -> None:
    tasks = kinds(3, 2)
    names = [task.name for task in tasks]

    def loss_and_gradient(
        outputs: list[Tensor], targets: list[Tensor], weight: Tensor
    ) -> tuple[Tensor, list[Tensor]]:
        def value(values: list[Tensor]) -> Tensor:
            by_name = dict(zip(names, values, strict=True))
            return total_loss(tasks, by_name, dict(zip(names, targets, strict=True)), weight)[0]

        gradients, loss = torch.func.grad_and_value(value)(outputs)
        return loss, gradients

    def arguments(batch: int) -> tuple[list[Tensor], list[Tensor], Tensor]:
        outputs, targets = batch_of(tasks, batch, batch)
        return (
            [x.detach() for x in outputs.values()],
            list(targets.values()),
            torch.linspace(0.5, 2, batch).double(),
        )

    graph = make_fx(loss_and_gradient, tracing_mode="symbolic")(*arguments(4))
    operators = {str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    refused = ("gather", "scatter", "nll", "aten.index", "_local_scalar_dense")
    assert "aten.where.self" in operators
    assert not [name for name in operators if any(word in name for word in refused)]
    for batch in (3, 9):
        torch.testing.assert_close(graph(*arguments(batch)), loss_and_gradient(*arguments(batch)))


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (
            TaskSpec("t", "regression", size=1, loss="hubr"),
            "task 't': a regression task has no loss 'hubr'; expected one of mse, l1, huber. Did you mean 'huber'?",
        ),
        (
            TaskSpec("t", "binary", size=1, loss="mse"),
            "a binary task has no loss 'mse'; expected one of bce",
        ),
        (
            TaskSpec("t", "classification", size=3, loss=LossSpec("cross_entropy", 1.5)),
            "task 't': label_smoothing is 1.5, expected a number in [0, 1].",
        ),
        (
            TaskSpec("t", "classification", size=3, loss=LossSpec("cross_entropy", class_weights=(1.0,))),
            "task 't': 1 class_weights for size 3; give one a class.",
        ),
        (
            TaskSpec("t", "multilabel", size=2, loss=LossSpec("bce_with_logits", class_weights=(1.0, -1.0))),
            "class_weights are [1.0, -1.0], expected finite numbers >= 0.",
        ),
        (
            TaskSpec("t", "regression", size=1, loss=LossSpec("mse", class_weights=(1.0,))),
            "task 't': mse takes no class_weights. Leave them out.",
        ),
        (
            TaskSpec("t", "regression", size=1, loss=LossSpec("mse", delta=2.0)),
            "task 't': delta is an option of huber, not of mse. Leave it out.",
        ),
        (
            TaskSpec("t", "regression", size=1, loss=LossSpec("huber", delta=0.0)),
            "task 't': delta is 0.0, expected a finite number > 0.",
        ),
    ],
)
def test_a_wrong_loss_is_refused(task: TaskSpec, text: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        loss_spec(task)
    assert text in str(error.value)
