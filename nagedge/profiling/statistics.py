"""Statistics of latency samples: where warm-up ends, quantiles with intervals, outliers, drift, two modes.

Latencies are neither normal nor independent: they have a long right tail, they trend while caches and clocks
settle, and neighbours resemble each other. Every method here is chosen for that: ranks and medians rather
than means, a *block* bootstrap rather than an independent one, and a quantile that the samples cannot support
is left out rather than invented. Pure numpy; every function is deterministic.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = [
    "WARM_UP_METHOD",
    "Drift",
    "Modes",
    "Outliers",
    "Quantile",
    "WarmUp",
    "detect_drift",
    "detect_modes",
    "detect_warm_up",
    "find_outliers",
    "minimum_samples",
    "quantiles",
]

FloatArray = NDArray[np.float64]

WARM_UP_METHOD = "MSER-5 on medians of five (White 1997), confirmed by a Mann-Whitney test"
"""How :func:`detect_warm_up` works, in one line, for reports."""

_GROUP = 5
"""Samples a group in MSER-5."""

_NEARLY_BEST = 1.1
"""The shortest truncation within 10 % of the least squared standard error is taken, as the score's minimum is flat."""

_CONFIRM_Z = 3.0
"""Two-sided p of 0.0027: false alarms in about one profile of 370."""

_CONFIRM_RELATIVE = 0.02
"""A shift of the median below 2 % is not worth reporting, however significant."""

_SEPARATED = 0.85
"""Share of the variance that two means must explain; one normal population gives 0.64, a uniform one 0.75."""


@dataclass(frozen=True)
class WarmUp:
    """Where the steady state begins.

    Args:
        length: samples before the steady state; 0 when there is no warm-up.
        reached: whether the series settled. If not, ``length`` is half of the samples and what follows is
            only the better half: measure for longer.
    """

    length: int
    reached: bool


@dataclass(frozen=True)
class Quantile:
    """One quantile and its confidence interval.

    Args:
        probability: in (0, 1); 0.99 for p99.
        value, low, high: in the samples' unit; ``None`` when ``samples < samples_needed``.
        samples: how many there were.
        samples_needed: the fewest for which an interval exists at all, see :func:`minimum_samples`.
    """

    probability: float
    value: float | None
    low: float | None
    high: float | None
    samples: int
    samples_needed: int

    @property
    def name(self) -> str:
        """``"p99"`` for 0.99, ``"p99.9"`` for 0.999."""
        return f"p{self.probability * 100:g}"


@dataclass(frozen=True)
class Outliers:
    """Samples above Tukey's outer fence; they are counted and never removed.

    Args:
        count: how many. fence: the value above which a sample counts. largest: the largest sample.
    """

    count: int
    fence: float
    largest: float


@dataclass(frozen=True)
class Drift:
    """A monotonic trend of the samples in time (heat, a clock governor, a leak).

    Args:
        detected: whether the trend is both significant (``|z| > 3``) and larger than 2 %.
        z: Mann-Kendall statistic of the group medians; positive when steps get slower.
        relative_change: from the first to the last sample along the Theil-Sen slope, over the median.
    """

    detected: bool
    z: float
    relative_change: float


@dataclass(frozen=True)
class Modes:
    """Whether the samples fall into two separate groups (two cores' speeds, a noisy neighbour).

    Args:
        bimodal: whether two modes are clearly apart, each with at least a tenth of the samples.
        low, high: the means of the two groups. share_high: part of the samples in the upper one, in [0, 1].
        separation: share of the variance that the two groups explain, in [0, 1].
    """

    bimodal: bool
    low: float
    high: float
    share_high: float
    separation: float


def _series(samples: ArrayLike) -> FloatArray:
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 1:
        raise ValueError(f"samples have shape {values.shape}; expected one dimension")
    if not np.isfinite(values).all():
        raise ValueError("samples hold NaN or infinity; expected finite durations")
    return values


def detect_warm_up(samples: ArrayLike) -> WarmUp:
    """Return how many samples precede the steady state.

    MSER-5 (K. P. White, "An effective truncation heuristic for bias reduction in simulation output",
    Simulation 69(6), 1997): groups of five are summarised, and the number of groups d to drop minimises the
    squared standard error of the rest, ``sum_{i >= d} (y_i - mean_d)^2 / (m - d)^2``; a minimum in the second
    half means that the series has not settled. Three departures, as latencies have rare, large spikes and
    MSER finds some d even in pure noise: a group is summarised by its median, not its mean; the shortest d
    within 10 % of the minimum is taken; and of those samples the longest start counts that a Mann-Whitney
    test (|z| > 3) and a shift of the median above 2 % tell from the steady state. That execution times need
    not settle at all is the finding of Barrett et al. (OOPSLA 2017), hence :attr:`WarmUp.reached`.

    Args:
        samples: durations in order of time, shape [n]; fewer than 20 give no warm-up, as nothing can be told.
    """
    values = _series(samples)
    groups = len(values) // _GROUP
    if groups < 4:
        return WarmUp(0, reached=True)
    # Whole groups are counted from the end, so that no recent sample is lost to rounding.
    offset = len(values) - groups * _GROUP
    medians = np.median(values[offset:].reshape(groups, _GROUP), axis=1)
    left = np.arange(groups, 0, -1)
    tail_sum = np.cumsum(medians[::-1])[::-1]
    centred = medians - np.median(medians)  # keeps the sums of squares well conditioned
    tail_centred = np.cumsum(centred[::-1])[::-1]
    tail_squares = np.cumsum((centred**2)[::-1])[::-1]
    spread = np.maximum(tail_squares - tail_centred**2 / left, 0.0)
    # Standard error on the scale of timer noise is no evidence: without this floor, constants favour d > 0.
    floor = (1e-6 * tail_sum[0] / groups) ** 2
    score = (spread + floor) / left.astype(np.float64) ** 2
    score = score[: groups - 3]
    best = int(np.argmax(score <= _NEARLY_BEST * score.min()))
    start = offset + best * _GROUP if best else 0
    if best > groups // 2:
        unsettled = _shifted(values[:start], values[start:])
        return WarmUp(len(values) // 2, reached=False) if unsettled else WarmUp(0, reached=True)
    # What MSER drops may be good for its most part: the warm-up is the longest start that differs from the rest.
    for length in range(start, 0, -_GROUP):
        if _shifted(values[:length], values[start:]):
            return WarmUp(length, reached=True)
    return WarmUp(0, reached=True)


def _shifted(before: FloatArray, after: FloatArray) -> bool:
    """Whether the two populations differ by a Mann-Whitney test and their medians by more than 2 %."""
    middle = float(np.median(after))
    if abs(float(np.median(before)) - middle) <= _CONFIRM_RELATIVE * middle:
        return False
    everything = np.concatenate([before, after])
    _, inverse, counts = np.unique(everything, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks = (ends - (counts - 1) / 2.0)[inverse]  # mid-ranks, counted from one
    n, m = len(before), len(after)
    total = n + m
    statistic = float(ranks[:n].sum()) - n * (n + 1) / 2.0
    ties = float((counts.astype(np.float64) ** 3 - counts).sum()) / (total * (total - 1))
    variance = n * m / 12.0 * (total + 1 - ties)
    if variance <= 0.0:
        return False
    return abs(statistic - n * m / 2.0) / math.sqrt(variance) > _CONFIRM_Z


def minimum_samples(probability: float, confidence: float = 0.95) -> int:
    """Return the fewest samples with which a two-sided interval of a quantile exists.

    A distribution-free interval is bounded by order statistics, so the largest of n samples must lie above
    the quantile (and the smallest below it) with probability ``1 - (1 - confidence) / 2``: ``p**n <= (1 -
    confidence) / 2`` (Conover, Practical Nonparametric Statistics, 1999, section 3.2). p50 needs 6 samples,
    p90 36 and p99 368.
    """
    if not 0.0 < probability < 1.0 or not 0.0 < confidence < 1.0:
        raise ValueError(
            f"probability {probability} and confidence {confidence}: both must lie between 0 and 1"
        )
    extreme = max(probability, 1.0 - probability)
    return math.ceil(math.log((1.0 - confidence) / 2.0) / math.log(extreme))


def quantiles(
    samples: ArrayLike,
    probabilities: tuple[float, ...] = (0.5, 0.9, 0.99),
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[Quantile, ...]:
    """Return each quantile with its percentile bootstrap interval.

    The bootstrap resamples circular blocks of ``ceil(n ** (1/3))`` neighbours (Politis and Romano 1992),
    because neighbouring latencies are correlated and an independent bootstrap would claim too narrow an interval.

    Args:
        samples: steady-state durations in order of time, shape [n].
        probabilities: each in (0, 1). confidence: of the interval, in (0, 1).
        resamples: bootstrap replicates. seed: of the resampling.
    """
    values = _series(samples)
    count = len(values)
    needed = [minimum_samples(p, confidence) for p in probabilities]
    supported = [p for p, least in zip(probabilities, needed, strict=True) if count >= least]
    bounds: dict[float, tuple[float, float, float]] = {}
    if supported:
        levels = np.array(supported)
        point = np.quantile(values, levels)
        replicates = _block_bootstrap(values, levels, resamples, seed)
        tail = (1.0 - confidence) / 2.0
        low, high = np.quantile(replicates, [tail, 1.0 - tail], axis=0)
        for index, p in enumerate(supported):
            value = float(point[index])
            bounds[p] = (value, min(float(low[index]), value), max(float(high[index]), value))
    missing = (None, None, None)
    return tuple(
        Quantile(p, value, low, high, count, least)
        for p, least in zip(probabilities, needed, strict=True)
        for value, low, high in [bounds.get(p, missing)]
    )


def _block_bootstrap(values: FloatArray, levels: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Quantiles of circular block resamples, shape [resamples, len(levels)]."""
    rng = np.random.default_rng(seed)
    count = len(values)
    block = math.ceil(count ** (1.0 / 3.0))
    blocks = math.ceil(count / block)
    rows = max(1, 2_000_000 // count)  # at most 16 MB of resampled values at once
    out = []
    for first in range(0, resamples, rows):
        shape = (min(rows, resamples - first), blocks, 1)
        index = (rng.integers(0, count, size=shape) + np.arange(block)) % count
        drawn = values[index.reshape(shape[0], -1)[:, :count]]
        out.append(np.quantile(drawn, levels, axis=1).T)
    return np.concatenate(out)


def find_outliers(samples: ArrayLike) -> Outliers:
    """Count samples above Tukey's outer fence, ``Q3 + 3 * (Q3 - Q1)`` (Exploratory Data Analysis, 1977).

    The spread is taken as at least 1 % of the median, so that a quantised clock does not turn ties into outliers.
    """
    values = _series(samples)
    if not len(values):
        raise ValueError("no samples; expected at least one duration")
    first, median, third = np.quantile(values, [0.25, 0.5, 0.75])
    fence = float(third + 3.0 * max(third - first, 0.01 * abs(median)))
    return Outliers(int((values > fence).sum()), fence, float(values.max()))


def detect_drift(samples: ArrayLike) -> Drift:
    """Test for a monotonic trend: Mann (1945) and Kendall (1975), with the Theil-Sen slope (Sen 1968).

    The tests run on the medians of at most 60 consecutive groups, which lessens the correlation of
    neighbours. Fewer than 20 samples give no drift.
    """
    values = _series(samples)
    if len(values) < 20:
        return Drift(detected=False, z=0.0, relative_change=0.0)
    groups = min(60, len(values) // 2)
    medians = np.array([float(np.median(part)) for part in np.array_split(values, groups)])
    later, earlier = np.triu_indices(groups, k=1)[::-1]
    rises = medians[later] - medians[earlier]
    score = float(np.sign(rises).sum())
    _, ties = np.unique(medians, return_counts=True)
    variance = (
        groups * (groups - 1) * (2 * groups + 5) - float((ties * (ties - 1) * (2 * ties + 5)).sum())
    ) / 18.0
    z = (score - math.copysign(1.0, score)) / math.sqrt(variance) if variance > 0 and score else 0.0
    slope = float(np.median(rises / (later - earlier)))
    middle = float(np.median(values))
    change = slope * (groups - 1) / middle if middle else 0.0
    return Drift(abs(z) > _CONFIRM_Z and abs(change) > _CONFIRM_RELATIVE, float(z), change)


def detect_modes(samples: ArrayLike) -> Modes:
    """Look for two separate groups by the optimal two-means split in one dimension (Otsu 1979).

    Logarithms of the samples below the outer fence are split where the variance within the two parts is
    smallest; the split counts as bimodal when it explains 85 % of the variance, each part holds a tenth of
    the samples and the means are 5 % apart. A hint, not a test. Fewer than 20 samples are never called
    bimodal.
    """
    values = _series(samples)
    if not len(values):
        raise ValueError("no samples; expected at least one duration")
    kept = np.sort(values[values <= find_outliers(values).fence])
    middle = float(np.mean(kept))
    if len(kept) < 20 or kept[0] <= 0.0 or kept[-1] - kept[0] <= 1e-9 * kept[-1]:
        return Modes(bimodal=False, low=middle, high=middle, share_high=0.0, separation=0.0)
    logs = np.log(kept)
    count = len(logs)
    lower = np.arange(1, count)
    sums = np.cumsum(logs)
    mean_low = sums[:-1] / lower
    mean_high = (sums[-1] - sums[:-1]) / (count - lower)
    between = lower * (count - lower) / count**2 * (mean_high - mean_low) ** 2
    split = int(np.argmax(between)) + 1
    separation = float(between[split - 1] / logs.var())
    share = 1.0 - split / count
    low, high = float(kept[:split].mean()), float(kept[split:].mean())
    apart = separation >= _SEPARATED and 0.1 <= share <= 0.9 and high >= 1.05 * low
    return Modes(bool(apart), low, high, share, separation)
