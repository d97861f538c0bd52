"""The gate: counts exactly, latencies as far as the samples can tell."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nagedge.errors import ConfigurationError
from nagedge.profiling.gate import Change, compare_profiles, parse_limit, ratio_of_medians
from nagedge.profiling.measure import Samples, summarise
from nagedge.profiling.results import CountProfile, Profile, WorkloadProfile


def grown(count: CountProfile, factor: float) -> CountProfile:
    return replace(count, median=replace(count.median, instructions=int(count.median.instructions * factor)))


def slower(workload: WorkloadProfile, factor: float, seed: int) -> WorkloadProfile:
    values = factor * (10.0 + 0.1 * np.random.default_rng(seed).gamma(2.0, 1.0, 500))
    samples = Samples((90_000_000, *(int(value * 1e6) for value in values)), "budget", 3.0, 0, 1.0)
    return replace(workload, latency=summarise(samples))


def verdicts(changes: tuple[Change, ...], figure: str) -> list[str]:
    return [change.verdict for change in changes if change.figure == figure]


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "same"), (1.009, "same"), (1.011, "grew"), (0.98, "fell")]
)
def test_instructions_are_gated_exactly(counted_profile: Profile, factor: float, verdict: str) -> None:
    now = replace(counted_profile, counts=tuple(grown(count, factor) for count in counted_profile.counts))
    changes = compare_profiles(now, counted_profile, limit=0.01)
    assert verdicts(changes, "instructions") == [verdict] * 4
    assert [change.fails for change in changes[:4]] == [verdict == "grew"] * 4
    assert changes[0].ratio is not None
    assert changes[0].ratio.value == pytest.approx(factor, abs=1e-4)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "same"),
        ({"median_ticks": 2_030_000}, "grew"),
        ({"median_ticks": 1_900_000}, "fell"),
        ({"median_ticks": 9_000_000, "threads": 4}, "not comparable"),
    ],
)
def test_ticks_are_gated_exactly(counted_profile: Profile, changes: dict[str, int], verdict: str) -> None:
    (system,) = counted_profile.systems
    now = replace(counted_profile, systems=(replace(system, **changes),))
    assert verdicts(compare_profiles(now, counted_profile, limit=0.01), "ticks") == [verdict]
    gone = replace(counted_profile, systems=())
    assert verdicts(compare_profiles(gone, counted_profile, limit=0.01), "ticks") == ["missing"]
    assert verdicts(compare_profiles(counted_profile, gone, limit=0.01), "ticks") == ["new"]


def test_what_is_missing_fails_and_what_is_new_does_not(counted_profile: Profile) -> None:
    fewer = replace(counted_profile, counts=counted_profile.counts[1:])
    changes = compare_profiles(fewer, counted_profile, limit=0.01)
    assert verdicts(changes, "instructions") == ["missing", "same", "same", "same"]
    assert changes[0].fails
    more = compare_profiles(counted_profile, fewer, limit=0.01)
    assert sorted(verdicts(more, "instructions")) == ["new", "same", "same", "same"]
    assert not any(change.fails for change in more)


def test_a_device_that_was_not_asked_for_is_not_missed(counted_profile: Profile) -> None:
    host_only = replace(counted_profile, devices=("host",), counts=())
    assert verdicts(compare_profiles(host_only, counted_profile, limit=0.01), "instructions") == []


def test_another_batch_or_machine_is_not_compared(counted_profile: Profile) -> None:
    changed = replace(
        counted_profile,
        counts=tuple(replace(count, batch=9) for count in counted_profile.counts),
        systems=tuple(replace(system, batch=9) for system in counted_profile.systems),
        host=replace(counted_profile.host, cpu_model="Another CPU"),
    )
    changes = compare_profiles(changed, counted_profile, limit=0.01)
    assert {change.verdict for change in changes} == {"not comparable"}
    assert {"batch 1 before, 9 now", "the baseline is of another machine"} <= {
        change.note for change in changes
    }
    assert not any(change.fails for change in changes)


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.0, "same"), (1.005, "same"), (1.05, "grew"), (0.95, "fell")]
)
def test_latency_has_grown_when_its_whole_interval_has(
    known_profile: Profile, factor: float, verdict: str
) -> None:
    (workload, _) = known_profile.workloads
    before = replace(known_profile, workloads=(slower(workload, 1.0, 1),))
    now = replace(known_profile, workloads=(slower(workload, factor, 2),))
    (change,) = compare_profiles(now, before, limit=0.01)
    assert change.verdict == verdict
    assert change.ratio is not None
    assert change.ratio.low <= change.ratio.value <= change.ratio.high


def test_noise_that_both_share_cancels_when_samples_are_taken_in_turns() -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(1.0, 3.0, 10)  # ten rounds on a machine that is busy now and then
    before = [noise[i] * (10 + 0.01 * rng.random(20)) for i in range(10)]
    after = [1.05 * noise[i] * (10 + 0.01 * rng.random(20)) for i in range(10)]
    paired = ratio_of_medians(before, after, paired=True)
    apart = ratio_of_medians(before, after, paired=False)
    assert 1.045 < paired.low <= paired.high < 1.055
    assert apart.low < 1.0 < apart.high  # without turns the same samples say nothing


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    covered = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        before = list(rng.gamma(4.0, 1.0, (20, 10)))
        after = list(1.1 * rng.gamma(4.0, 1.0, (20, 10)))
        ratio = ratio_of_medians(before, after, paired=False)
        covered += ratio.low <= 1.1 <= ratio.high
    assert covered >= 34  # of 40; 38 expected


def test_taken_in_turns_replaces_what_the_profiles_hold(known_profile: Profile) -> None:
    (workload, _) = known_profile.workloads
    profile = replace(known_profile, workloads=(workload,))
    turns = ([[10.0, 10.1]] * 5, [[12.0, 12.1]] * 5)
    (change,) = compare_profiles(profile, profile, limit=0.01, rounds=lambda _: turns)
    assert (change.verdict, change.note) == ("grew", "taken in turns")


def test_too_few_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="1 and 2 blocks; expected at least two"):
        ratio_of_medians([[1.0]], [[1.0], [1.0]], paired=False)


@pytest.mark.parametrize(("text", "limit"), [("1%", 0.01), ("0.5 %", 0.005), ("0%", 0.0)])
def test_a_limit_is_a_percentage(text: str, limit: float) -> None:
    assert parse_limit(text) == pytest.approx(limit)


@pytest.mark.parametrize("text", ["1", "-1%", "nan%", "%", "one%"])
def test_something_else_is_no_limit(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"expected a percentage such as 1%\."):
        parse_limit(text)
