"""Our own balancers: their formulas, and the properties that TorchJD asserts of its aggregators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from nagedge.training.balancing import BalancerState, BalancingConfig, Context, make_balancer
from nagedge.training.balancing.accumulation import allotted
from nagedge.training.balancing.directions import DbMtl, Direction, GradNorm
from nagedge.training.batches import Batch

MATRICES = [
    scale * torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    for seed, (rows, columns) in enumerate([(2, 3), (3, 5), (5, 4), (4, 40)])
    for scale in (1e-3, 1.0, 1e3)
]


def db_mtl(rows: Tensor) -> Tensor:
    return DbMtl(len(rows), 0.0, 0.5, BalancerState()).combine(
        rows, torch.ones(len(rows)).double(), range(len(rows))
    )[0]


def gradnorm(rows: Tensor) -> Tensor:
    method = GradNorm(len(rows), 1.5, 0.025, BalancerState())
    for _ in range(3):
        direction, _ = method.combine(rows, torch.ones(len(rows)).double(), range(len(rows)))
    return direction


METHODS = [db_mtl, gradnorm]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", MATRICES)
class TestProperties:
    def test_expected_structure(self, method: Callable[[Tensor], Tensor], rows: Tensor) -> None:
        direction = method(rows)
        assert direction.shape == rows.shape[1:]
        assert bool(direction.isfinite().all())

    def test_permutation_invariance(self, method: Callable[[Tensor], Tensor], rows: Tensor) -> None:
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(method(rows[order]), method(rows), rtol=1e-6, atol=1e-9)

    def test_positive_homogeneity(self, method: Callable[[Tensor], Tensor], rows: Tensor) -> None:
        torch.testing.assert_close(method(7.5 * rows), 7.5 * method(rows), rtol=1e-6, atol=1e-9)

    def test_strong_stationarity(self, method: Callable[[Tensor], Tensor], rows: Tensor) -> None:
        assert not method(torch.zeros_like(rows)).any()

    def test_span(self, method: Callable[[Tensor], Tensor], rows: Tensor) -> None:
        direction = method(rows)
        inside = rows.T @ torch.linalg.lstsq(rows.T, direction[:, None]).solution[:, 0]
        torch.testing.assert_close(inside, direction, rtol=1e-6, atol=1e-9 * float(rows.norm()))


@pytest.mark.parametrize("rows", [m for m in MATRICES if len(m) == 2])
def test_db_mtl_never_conflicts_with_two_tasks(rows: Tensor) -> None:
    """Two rows of one size: their sum has an angle of at most 90 degrees with both."""
    assert (rows @ db_mtl(rows) >= -1e-9).all()


def test_db_mtl_brings_all_gradients_to_the_largest_size() -> None:
    rows = torch.tensor([[3.0, 0.0], [0.0, 0.5]])
    direction, weights = DbMtl(2, 0.0, 0.5, BalancerState()).combine(rows, torch.tensor([1.0, 0.1]), [0, 1])
    torch.testing.assert_close(direction, torch.tensor([5.0, 5.0]))  # log-gradients (3, 0) and (0, 5)
    torch.testing.assert_close(weights @ rows, direction)


def test_db_mtl_averages_over_steps() -> None:
    method = DbMtl(1, 0.9, 0.5, BalancerState())
    method.combine(torch.tensor([[1.0, 0.0]]), torch.ones(1), [0])
    direction, _ = method.combine(torch.tensor([[0.0, 1.0]]), torch.ones(1), [0])
    b = 0.9 / 2**0.5
    torch.testing.assert_close(direction, torch.tensor([b, 1 - b]))


def test_gradnorm_gives_the_slow_task_weight_and_keeps_the_sum() -> None:
    method: Direction = GradNorm(2, 1.5, 0.05, BalancerState())
    rows = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    method.combine(rows, torch.tensor([1.0, 1.0]), [0, 1])
    for _ in range(10):
        _, weights = method.combine(rows, torch.tensor([0.1, 0.9]), [0, 1])
    assert weights[1] > 1.2
    assert float(weights.sum()) == pytest.approx(2.0)


def test_gradnorm_evens_out_sizes_when_all_train_alike() -> None:
    method = GradNorm(2, 0.0, 0.05, BalancerState())
    rows = torch.tensor([[4.0, 0.0], [0.0, 1.0]])
    for _ in range(200):
        _, weights = method.combine(rows, torch.ones(2), [0, 1])
    sizes = weights * rows.norm(dim=1)
    assert float(sizes[0] / sizes[1]) == pytest.approx(1.0, abs=0.4)


def accumulation(**options: float | str) -> BalancingConfig:
    return BalancingConfig(method="accumulation", options=options)


def step(config: BalancingConfig, context: Context, batch: Batch) -> dict[str, Tensor]:
    make_balancer(config, context, BalancerState()).backward(batch, last_of_epoch=False)
    return {name: param.grad.clone() for name, param in context.params.items() if param.grad is not None}


def test_equal_importance_in_one_micro_batch_is_the_plain_sum_bit_for_bit(
    context_of: Callable[..., Context], batch_of: Callable[..., Batch]
) -> None:
    plain = step(BalancingConfig(), context_of(), batch_of())
    own = step(accumulation(micro_batches=1, importance="preference"), context_of(), batch_of())
    assert plain.keys() == own.keys()
    assert all(torch.equal(plain[name], own[name]) for name in plain)


def test_equal_importance_is_plain_accumulation_bit_for_bit(
    context_of: Callable[..., Context], batch_of: Callable[..., Batch]
) -> None:
    own = step(accumulation(micro_batches=3, importance="preference"), context_of(), batch_of())
    context, batch = context_of(), batch_of()
    from nagedge.tasks import total_loss

    for rows in torch.arange(12).chunk(3):
        piece = batch.take(rows)
        (total_loss(context.tasks, context.module(piece.x), piece.targets)[0] / 3).backward()
    for name, param in context.params.items():
        assert torch.equal(param.grad, own[name])


def test_with_fixed_shares_the_expected_gradient_is_the_weighted_sum(
    context_of: Callable[..., Context], batch_of: Callable[..., Batch]
) -> None:
    """Over all orders of the four micro-batches every task sees every example equally often."""
    from nagedge.tasks import total_loss

    table = BalancingConfig(
        method="accumulation", preference={"kind": 1.0, "level": 0.5, "tags": 0.25},
        options={"micro_batches": 4, "importance": "preference"},
    )  # fmt: skip
    batch = batch_of(size=8)
    sums: dict[str, Tensor] = {}
    for turn in range(4):
        rolled = batch.take(torch.arange(8).roll(2 * turn))
        for name, gradient in step(table, context_of(), rolled).items():
            sums[name] = sums.get(name, torch.zeros_like(gradient)) + gradient / 4
    context = context_of()
    _, losses = total_loss(context.tasks, context.module(batch.x), batch.targets)
    (losses["kind"] + 0.5 * 0.5 * losses["level"] + 0.25 * losses["tags"]).backward()
    for name, param in context.params.items():
        torch.testing.assert_close(sums[name], param.grad, rtol=1e-4, atol=1e-6)


def test_what_rounding_leaves_over_is_given_later() -> None:
    shares, credit = torch.tensor([1.0, 0.6, 0.1]).double(), torch.zeros(3).double()
    totals = torch.zeros(3, dtype=torch.int64)
    for _ in range(50):
        counts, credit = allotted(shares, credit, 4)
        totals += counts
    assert totals.tolist() == [200, 120, 20]


def test_a_task_that_has_learnt_sits_out(context: Context, batch_of: Callable[..., Batch]) -> None:
    balancer = make_balancer(accumulation(micro_batches=4, every=1, smoothing=0.0), context, BalancerState())
    shares = []
    for index in range(60):
        for param in context.params.values():
            param.grad = None
        batch = batch_of(index)
        batch.targets["tags"][:] = 1.0  # learnt at once
        shares.append(balancer.backward(batch, last_of_epoch=False).weights)
        with torch.no_grad():
            for name, param in context.params.items():
                if param.grad is not None:
                    param.sub_((1.0 if "tags" in name else 0.02) * param.grad)
    assert shares[0].tolist() == [1.0, 0.5, 1.0]
    assert float(torch.stack(shares[-20:])[:, 2].mean()) < 0.6
