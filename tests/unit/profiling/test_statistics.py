"""Synthetic samples whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from nagedge.profiling.statistics import (
    detect_drift,
    detect_modes,
    detect_warm_up,
    find_outliers,
    minimum_samples,
    quantiles,
)


def noise(n: int, seed: int = 0, level: float = 10.0, spread: float = 0.3) -> np.ndarray:
    """Right-skewed latencies with about 1 % of large spikes, shape [n], in ms."""
    rng = np.random.default_rng(seed)
    values = level + spread * rng.gamma(2.0, 1.0, n)
    spikes = rng.random(n) < 0.01
    return np.where(spikes, values * 4.0, values)


@pytest.mark.parametrize("warm_up", [10, 40, 100])
def test_a_step_change_is_found_where_it_is(warm_up: int) -> None:
    excess = []
    for seed in range(11):
        samples = noise(400, seed)
        samples[:warm_up] *= 1.5
        found = detect_warm_up(samples)
        assert found.reached
        excess.append(found.length - warm_up)
    assert min(excess) >= 0  # nothing of the warm-up is left in the steady state
    assert np.median(excess) <= 10  # and few good samples are given away for it
    assert max(excess) <= 100


@pytest.mark.parametrize("seed", range(5))
def test_an_exponential_warm_up_is_cut_where_it_no_longer_matters(seed: int) -> None:
    samples = noise(500, seed) + 20.0 * np.exp(-np.arange(500) / 20.0)
    found = detect_warm_up(samples)
    assert found.reached
    assert 40 <= found.length <= 160


def test_noise_has_no_warm_up() -> None:
    assert [detect_warm_up(noise(300, seed)).length for seed in range(40)].count(0) >= 38


def test_two_speeds_in_turn_are_no_warm_up() -> None:
    found = []
    for seed in range(40):
        rng = np.random.default_rng(seed)
        found.append(detect_warm_up(np.where(rng.random(280) < 0.3, 13.2, 9.1) + 0.05 * rng.normal(size=280)))
    assert sum(warm_up.length > 0 for warm_up in found) <= 3


def test_constant_samples_have_no_warm_up() -> None:
    found = detect_warm_up(np.full(100, 3.0))
    assert (found.length, found.reached) == (0, True)


def test_a_series_that_never_settles_says_so() -> None:
    found = detect_warm_up(np.linspace(20.0, 10.0, 200) + 0.01 * noise(200))
    assert not found.reached
    assert found.length == 100


def test_a_slow_down_in_the_last_quarter_is_not_called_steady() -> None:
    samples = noise(400)
    samples[300:] *= 2.0
    assert not detect_warm_up(samples).reached


def test_too_few_samples_tell_nothing_of_warm_up() -> None:
    assert detect_warm_up([50.0, 1.0, 1.0]).length == 0
    assert detect_warm_up([]).length == 0


def test_the_last_samples_are_never_lost_to_grouping() -> None:
    samples = np.concatenate([np.full(13, 30.0), np.full(90, 10.0)])
    found = detect_warm_up(samples)
    assert found.length == 13


@pytest.mark.parametrize(("probability", "needed"), [(0.5, 6), (0.9, 36), (0.99, 368), (0.01, 368)])
def test_samples_needed_for_an_interval(probability: float, needed: int) -> None:
    assert minimum_samples(probability) == needed
    extreme = max(probability, 1 - probability)
    assert extreme**needed <= 0.025 < extreme ** (needed - 1)


def test_a_quantile_without_enough_samples_is_left_out() -> None:
    p50, p90, p99 = quantiles(noise(100))
    assert p50.value is not None
    assert p90.value is not None
    assert (p99.value, p99.low, p99.high) == (None, None, None)
    assert (p99.samples, p99.samples_needed, p99.name) == (100, 368, "p99")
    assert quantiles([1.0, 2.0])[0].value is None


def test_bootstrap_interval_covers_the_true_quantile() -> None:
    true = {0.5: np.log(2.0), 0.9: np.log(10.0), 0.99: np.log(100.0)}
    hits = dict.fromkeys(true, 0)
    runs = 100
    for seed in range(runs):
        draws = np.random.default_rng(seed).exponential(size=600)
        for quantile in quantiles(draws, tuple(true), resamples=300, seed=seed):
            assert quantile.low is not None
            assert quantile.high is not None
            hits[quantile.probability] += quantile.low <= true[quantile.probability] <= quantile.high
    assert hits[0.5] >= 0.88 * runs
    assert hits[0.9] >= 0.88 * runs
    assert hits[0.99] >= 0.80 * runs  # 600 samples hold six beyond p99


def test_block_bootstrap_is_wider_for_correlated_samples() -> None:
    rng = np.random.default_rng(3)
    series = np.empty(1000)
    series[0] = 0.0
    for i in range(1, 1000):
        series[i] = 0.9 * series[i - 1] + rng.normal()
    widths = []
    for samples in (series, rng.permutation(series)):
        (median,) = quantiles(samples + 100.0, (0.5,))
        assert median.low is not None
        assert median.high is not None
        widths.append(median.high - median.low)
    assert widths[0] > 1.5 * widths[1]


def test_quantiles_are_deterministic_and_exact_on_constants() -> None:
    assert quantiles(noise(500)) == quantiles(noise(500))
    for quantile in quantiles(np.full(400, 2.5)):
        assert (quantile.low, quantile.value, quantile.high) == (2.5, 2.5, 2.5)


def test_outliers_are_counted() -> None:
    samples = np.full(200, 10.0) + np.linspace(0.0, 0.1, 200)
    samples[[5, 50, 150]] = [20.0, 40.0, 30.0]
    found = find_outliers(samples)
    assert (found.count, found.largest) == (3, 40.0)
    assert find_outliers(np.full(50, 4.0)).count == 0
    assert find_outliers([7.0]).count == 0


@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_drift_is_found_with_its_size(sign: float) -> None:
    samples = noise(400) * (1.0 + sign * np.linspace(-0.05, 0.05, 400))
    drift = detect_drift(samples)
    assert drift.detected
    assert drift.relative_change == pytest.approx(0.1 * sign, abs=0.02)
    assert drift.z * sign > 3


def test_no_drift_in_noise_constants_or_few_samples() -> None:
    assert sum(detect_drift(noise(300, seed)).detected for seed in range(50)) <= 1
    assert not detect_drift(np.full(100, 1.0)).detected
    assert not detect_drift(np.arange(1.0, 10.0)).detected


def test_a_tiny_but_certain_drift_is_not_reported() -> None:
    drift = detect_drift(10.0 + np.linspace(0.0, 0.05, 200))
    assert drift.z > 3
    assert not drift.detected


def test_two_modes_are_found_with_their_shares() -> None:
    rng = np.random.default_rng(1)
    slow = rng.random(500) < 0.3
    modes = detect_modes(np.where(slow, 15.0, 10.0) + 0.2 * rng.normal(size=500))
    assert modes.bimodal
    assert modes.low == pytest.approx(10.0, abs=0.1)
    assert modes.high == pytest.approx(15.0, abs=0.1)
    assert modes.share_high == pytest.approx(slow.mean(), abs=0.01)


@pytest.mark.parametrize("shape", ["normal", "uniform", "gamma", "lognormal", "spikes", "constant"])
def test_one_mode_is_not_called_two(shape: str) -> None:
    rng = np.random.default_rng(2)
    samples = {
        "normal": 10 + rng.normal(size=500),
        "uniform": 10 + rng.random(500),
        "gamma": 10 + rng.gamma(2.0, 1.0, 500),
        "lognormal": 10 * rng.lognormal(0.0, 0.3, 500),
        "spikes": noise(500),
        "constant": np.full(500, 10.0),
    }[shape]
    assert not detect_modes(samples).bimodal


def test_impossible_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="NaN or infinity"):
        quantiles([1.0, float("nan")])
    with pytest.raises(ValueError, match=r"shape \(1, 2\)"):
        detect_warm_up([[1.0, 2.0]])
    with pytest.raises(ValueError, match="no samples"):
        find_outliers([])
    with pytest.raises(ValueError, match="between 0 and 1"):
        minimum_samples(1.0)
