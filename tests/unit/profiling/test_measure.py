from __future__ import annotations

import gc

import pytest

from nagedge.profiling.measure import EVIDENCE_HOST, Samples, measure, summarise


class Clock:
    """A clock that only the timed callable moves."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def spend_ms(self, milliseconds: float) -> None:
        self.now_ns += int(milliseconds * 1e6)


def samples(durations_ms: list[float]) -> Samples:
    return Samples(tuple(int(d * 1e6) for d in durations_ms), "budget", 1.0, 0, 1.0)


def test_the_number_of_iterations_follows_the_budget() -> None:
    clock = Clock()
    seen: list[int] = []

    def run(iteration: int) -> None:
        seen.append(iteration)
        clock.spend_ms(2.0)

    taken = measure(run, budget_s=0.1, clock_ns=clock)
    assert seen == list(range(50))
    assert taken.durations_ns == (2_000_000,) * 50
    assert taken.stopped_by == "budget"


def test_the_maximum_stops_a_fast_callable() -> None:
    clock = Clock()
    taken = measure(lambda i: clock.spend_ms(0.001), budget_s=1.0, max_iterations=7, clock_ns=clock)
    assert len(taken.durations_ns) == 7
    assert taken.stopped_by == "maximum"


@pytest.mark.parametrize(("step_ms", "expected"), [(200.0, 10), (1_000.0, 4), (60_000.0, 2)])
def test_a_slow_callable_overruns_its_budget_only_so_far(step_ms: float, expected: int) -> None:
    clock = Clock()
    taken = measure(lambda i: clock.spend_ms(step_ms), budget_s=1.0, clock_ns=clock)
    assert len(taken.durations_ns) == expected


def test_the_garbage_collector_is_off_meanwhile_and_restored_even_on_failure() -> None:
    states: list[bool] = []

    def fail(iteration: int) -> None:
        states.append(gc.isenabled())
        if iteration == 3:
            raise RuntimeError("boom")

    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="boom"):
        measure(fail, budget_s=10.0)
    assert gc.isenabled()
    assert states == [False] * 4


def test_progress_rises_to_one() -> None:
    clock = Clock()
    shares: list[float] = []
    measure(lambda i: clock.spend_ms(60.0), budget_s=1.0, progress=shares.append, clock_ns=clock)
    assert shares == sorted(shares)
    assert len(shares) > 3
    assert shares[-1] == 1.0


@pytest.mark.parametrize("budget_s", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_budget_is_refused(budget_s: float) -> None:
    with pytest.raises(ValueError, match="expected a positive number of seconds"):
        measure(lambda i: None, budget_s=budget_s)


def test_first_warm_up_and_steady_state_are_apart() -> None:
    found = summarise(samples([90.0] + [20.0] * 30 + [10.0, 10.5, 10.2, 10.1, 10.4] * 40))
    assert found.evidence == EVIDENCE_HOST
    assert found.first_ms == 90.0
    assert (found.warm_up_calls, found.steady_calls) == (30, 200)
    assert found.warm_up_total_ms == pytest.approx(600.0)
    assert found.steady_reached
    assert len(found.steady_ms) == 200
    assert (found.min_ms, found.max_ms) == (10.0, 10.5)
    assert found.quantile(0.5).value == pytest.approx(10.2)
    assert found.quantile(0.99).value is None


def test_two_samples_are_described_without_invented_quantiles() -> None:
    found = summarise(samples([30.0, 10.0]))
    assert (found.first_ms, found.mean_ms, found.steady_calls) == (30.0, 10.0, 1)
    assert [q.value for q in found.quantiles] == [None, None, None]
    with pytest.raises(ValueError, match="1 samples; expected at least two"):
        summarise(samples([1.0]))
    with pytest.raises(KeyError):
        found.quantile(0.25)
