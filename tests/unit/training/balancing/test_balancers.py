"""Balancers: right gradients, missing labels, states that go on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from nagedge.errors import ConfigurationError
from nagedge.tasks import task_loss
from nagedge.training.balancing import BalancerState, BalancingConfig, Context, make_balancer
from nagedge.training.balancing.methods import METHODS
from nagedge.training.batches import Batch

BatchOf = Callable[..., Batch]
ContextOf = Callable[..., Context]
Gradients = Callable[[Context], dict[str, Tensor]]


def known(name: str, *values: object) -> object:
    """A parameter for a method, skipped where its solver is not installed."""
    solver = METHODS[name].solver
    missing = [module for module in solver.modules if find_spec(module) is None] if solver else []
    reason = f"needs {', '.join(missing)}, not installed" + (f" ({solver.licences})" if solver else "")
    marks = [pytest.mark.skipif(bool(missing), reason=reason)]
    return pytest.param(name, *values, marks=marks, id="-".join(map(str, (name, *values))))


SCOPES = [
    known(name, scope)
    for name, method in METHODS.items()
    for scope in (("features", "trunk") if method.family == "gradients" else (None,))
]


def config(method: str, scope: str | None = None, **options: float | str) -> BalancingConfig:
    return BalancingConfig.model_validate({
        "method": method, "options": options, **({"scope": scope} if scope else {})
    })  # fmt: skip


def task_gradients(context: Context, batch: Batch) -> dict[str, dict[str, Tensor]]:
    """The gradient of each task's own loss, unweighted, one whole backward pass each."""
    found = {}
    for task in context.tasks:
        loss = task_loss(task, context.module(batch.x)[task.name], batch.targets[task.name])
        parts = torch.autograd.grad(loss, list(context.params.values()), allow_unused=True)
        found[task.name] = {
            name: torch.zeros_like(param) if part is None else part
            for (name, param), part in zip(context.params.items(), parts, strict=True)
        }
    return found


@pytest.mark.parametrize(("method", "scope"), SCOPES)
def test_the_trunk_gets_the_tasks_gradients_with_the_weights_that_are_reported(
    method: str, scope: str | None, context: Context, batch_of: BatchOf, gradients: Gradients
) -> None:
    torch.manual_seed(0)
    batch = batch_of()
    by_task = task_gradients(context, batch)
    options = {"micro_batches": 1} if method == "accumulation" else {}
    balanced = make_balancer(config(method, scope, **options), context, BalancerState()).backward(
        batch, last_of_epoch=False
    )
    got = gradients(context)
    assert all(bool(value.isfinite().all()) for value in got.values())
    assert balanced.present.tolist() == [1, 1, 1]
    expected_losses = [
        task_loss(t, context.module(batch.x)[t.name], batch.targets[t.name]) for t in context.tasks
    ]
    assert balanced.losses == pytest.approx(torch.stack(expected_losses).detach(), rel=1e-5)
    if method in (
        "config",
        "graddrop",
        "trimmed_mean",
    ):  # no combination of rows on the features gives theirs
        return
    for name, value in got.items():
        if name.startswith("trunk"):
            weighted = sum(
                weight * by_task[task.name][name]
                for task, weight in zip(context.tasks, balanced.weights, strict=True)
            )
            torch.testing.assert_close(value, weighted, rtol=2e-4, atol=2e-6)


def test_plain_sums_and_constant_weights(
    context: Context, context_of: ContextOf, batch_of: BatchOf, gradients: Gradients
) -> None:
    make_balancer(config("sum"), context, BalancerState()).backward(batch_of(), last_of_epoch=False)
    other = context_of()
    table = BalancingConfig(method="constant", preference={"kind": 3.0})
    make_balancer(table, other, BalancerState()).backward(batch_of(), last_of_epoch=False)
    by_task = task_gradients(context, batch_of())
    for name, value in gradients(other).items():
        parts = by_task["kind"][name], by_task["level"][name], by_task["tags"][name]
        torch.testing.assert_close(gradients(context)[name], parts[0] + 0.5 * parts[1] + parts[2])
        torch.testing.assert_close(value, 3 * parts[0] + 0.5 * parts[1] + parts[2])


@pytest.mark.parametrize(("method", "scope"), [case for case in SCOPES if case.values[0] != "krum"])
def test_a_task_without_labels_is_left_out(
    method: str, scope: str | None, context: Context, batch_of: BatchOf, gradients: Gradients
) -> None:
    balancer = make_balancer(config(method, scope), context, BalancerState())
    balancer.backward(batch_of(1), last_of_epoch=False)
    for param in context.params.values():
        param.grad = None
    balanced = balancer.backward(batch_of(2, unlabelled=True), last_of_epoch=False)
    assert balanced.present.tolist() == [0, 1, 1]
    assert balanced.weights[0] == 0
    got = gradients(context)
    assert not got["heads.kind.weight"].any()
    assert got["heads.tags.weight"].any() or method == "pbi"  # of two losses PBI moves the larger one alone
    assert all(bool(value.isfinite().all()) for value in got.values())
    again = balancer.backward(batch_of(3), last_of_epoch=True)
    assert again.present.tolist() == [1, 1, 1]
    assert bool(again.weights.isfinite().all())


def run(
    method: str, scope: str | None, context: Context, batch_of: BatchOf, steps: range, state: BalancerState
) -> tuple[list[Tensor], BalancerState]:
    balancer = make_balancer(config(method, scope), context, state)
    seen = []
    for step in steps:
        torch.manual_seed(step)
        for param in context.params.values():
            param.grad = None
        unlabelled = step == 2 and method != "krum"
        balanced = balancer.backward(batch_of(step, unlabelled=unlabelled), last_of_epoch=step % 3 == 2)
        with torch.no_grad():
            for param in context.params.values():
                if param.grad is not None:
                    param.sub_(0.1 * param.grad)
        if balanced.follow_up is not None:
            balanced.follow_up()
        seen.append(balanced.weights)
    return seen, balancer.state()


@pytest.mark.parametrize(("method", "scope"), SCOPES)
def test_a_state_goes_on_to_the_same_bits(
    method: str, scope: str | None, context_of: ContextOf, batch_of: BatchOf
) -> None:
    whole, _ = run(method, scope, context_of(), batch_of, range(14), BalancerState())
    context = context_of()
    first, state = run(method, scope, context, batch_of, range(7), BalancerState())
    stored = BalancerState({name: value.clone() for name, value in state.tensors.items()}, dict(state.values))
    assert METHODS[method].stateful == bool(stored.tensors or stored.values)
    second, _ = run(method, scope, context, batch_of, range(7, 14), stored)
    for expected, got in zip(whole, first + second, strict=True):
        assert torch.equal(expected, got)


@pytest.mark.parametrize("method", ["cagrad", "nash_mtl"])
def test_a_solver_that_is_not_installed_is_named_with_its_licence(
    method: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchjd._mixins as mixins

    monkeypatch.setattr(mixins, "find_spec", lambda name: None)
    licence = {"cagrad": "Apache-2.0", "nash_mtl": "GPL-3.0"}[method]
    extra = {"cagrad": r"nagedge\[solvers\]", "nash_mtl": r"torchjd\[nash-mtl\]"}[method]
    with pytest.raises(ConfigurationError, match=rf"pip install '{extra}'.*{licence}"):
        make_balancer(config(method), context, BalancerState())


def test_a_method_that_needs_more_tasks_than_have_labels_says_so(context: Context, batch_of: BatchOf) -> None:
    balancer = make_balancer(config("krum"), context, BalancerState())
    with pytest.raises(ConfigurationError, match=r"'krum' cannot combine the 2 tasks .*\(level, tags\)"):
        balancer.backward(batch_of(unlabelled=True), last_of_epoch=False)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"method": "pcgrd"}, "Did you mean 'pcgrad'"),
        ({"method": "pcgrad", "options": {"c": 1}}, "is no option of method 'pcgrad'; it has: none"),
        ({"method": "dwa", "scope": "trunk"}, "scope does nothing for method 'dwa'"),
        ({"method": "pcgrad", "preference": {"a": 1.0}}, "takes no preference"),
        ({"method": "upgrad", "preference": {"a": -1.0}}, "is -1, expected numbers >= 0"),
        ({"method": "mgda", "options": {"max_iters": 1.5}}, "expected a value like 100"),
        ({"method": "aligned_mtl", "options": {"scale_mode": 2}}, "expected a value like 'min'"),
    ],
)
def test_a_wrong_table_is_refused(table: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        BalancingConfig.model_validate(table)


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"method": "dwa", "options": {"temperature": -1.0}}, "refuses its options"),
        ({"method": "gradvac", "options": {"beta": 2.0}}, "must be in"),
        ({"method": "db_mtl", "options": {"beta": 0.9}}, "Set balancing.scope to 'trunk'"),
        ({"method": "upgrad", "preference": {"kin": 1.0}}, "Did you mean 'kind'"),
        ({"method": "accumulation", "options": {"floor": 0.0}}, "expected a number in"),
        ({"method": "accumulation", "options": {"importance": "luck"}}, "expected one of loss_rate"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(table: dict[str, object], text: str, context: Context) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make_balancer(BalancingConfig.model_validate(table), context, BalancerState())


@pytest.mark.parametrize("method", ["pcgrad", "accumulation"])
def test_methods_that_need_all_gradients_refuse_several_processes(method: str, context: Context) -> None:
    two = dataclasses.replace(context, fabric=SimpleNamespace(world_size=2))  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="Train in one process"):
        make_balancer(config(method), two, BalancerState())
