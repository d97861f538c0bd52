"""Time a callable on this host and summarise what was seen."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from nagedge.profiling import statistics

__all__ = ["EVIDENCE_DEVICE", "EVIDENCE_HOST", "Distribution", "Samples", "measure", "summarise"]

EVIDENCE_HOST = "measured-host"
"""The evidence class of what was timed on this machine, not on a phone."""

EVIDENCE_DEVICE = "measured-device"
"""The evidence class of what was timed on the device that it is said of."""

_OVERRUN = 3.0
"""How far beyond its budget a slow callable may run to reach the fewest useful iterations."""

Progress = Callable[[float], None]


@dataclass(frozen=True)
class Samples:
    """Durations of consecutive calls, and the conditions they were taken under.

    Args:
        durations_ns: one a call, in order of time, the first call included.
        stopped_by: what ended the run: the time budget or the maximum number of iterations.
        budget_s: the time allowed.
        involuntary_switches: how often the system took the core away meanwhile; ``None`` where it does not
            tell.
        clock_resolution_ns: of ``time.perf_counter``.
    """

    durations_ns: tuple[int, ...]
    stopped_by: Literal["budget", "maximum"]
    budget_s: float
    involuntary_switches: int | None
    clock_resolution_ns: float


@dataclass(frozen=True)
class Distribution:
    """Latency of one callable: first call, warm-up and steady state apart.

    Args:
        evidence: the class of evidence, :data:`EVIDENCE_HOST` or :data:`EVIDENCE_DEVICE`.
        samples_ms: every call in order of time: the first, then the warm-up, then the steady state.
        first_ms: the first call, which allocates and initialises; part of neither of the two others.
        warm_up_calls: calls between the first and the steady state. warm_up_total_ms: their sum.
        warm_up_method: how the end of the warm-up was found.
        steady_reached: ``False`` if the series had not settled: then the "steady" figures describe its second
            half.
        steady_calls, mean_ms, standard_deviation_ms, min_ms, max_ms: of the steady state.
        quantiles: p50, p90, p99 of the steady state in ms, each with its interval, or ``None`` for too few
            samples.
        interval_method: what the intervals are.
        outliers, drift, modes: of the steady state, see :mod:`nagedge.profiling.statistics`; values in ms.
        stopped_by, budget_s, involuntary_switches: see :class:`Samples`.
    """

    evidence: str
    samples_ms: tuple[float, ...]
    first_ms: float
    warm_up_calls: int
    warm_up_total_ms: float
    warm_up_method: str
    steady_reached: bool
    steady_calls: int
    mean_ms: float
    standard_deviation_ms: float
    min_ms: float
    max_ms: float
    quantiles: tuple[statistics.Quantile, ...]
    interval_method: str
    outliers: statistics.Outliers
    drift: statistics.Drift
    modes: statistics.Modes
    stopped_by: str
    budget_s: float
    involuntary_switches: int | None

    @property
    def steady_ms(self) -> tuple[float, ...]:
        """The steady-state durations in order of time."""
        return self.samples_ms[1 + self.warm_up_calls :] or self.samples_ms

    def quantile(self, probability: float) -> statistics.Quantile:
        """The quantile of this probability; KeyError when it was not asked for."""
        for found in self.quantiles:
            if found.probability == probability:
                return found
        raise KeyError(probability)


def measure(
    run: Callable[[int], None],
    *,
    budget_s: float = 3.0,
    max_iterations: int = 10_000,
    min_iterations: int = 10,
    progress: Progress | None = None,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> Samples:
    """Call ``run(0), run(1), ...`` until the time budget is spent, and return each call's duration.

    No call is thrown away: what is warm-up is decided afterwards, from the samples. The garbage collector
        runs once
    before and is off meanwhile, since its pauses belong to the host's Python and not to the artifact. At
    least ``min_iterations`` are made unless that takes three times the budget; at least two are always made.

    Args:
        run: called with the number of the iteration.
        budget_s: wall-clock seconds to spend, > 0.
        max_iterations: stop there, even if time is left. min_iterations: wanted even if time is up.
        progress: called now and then, outside the timed part, with the share done in [0, 1].
        clock_ns: a monotonic clock in nanoseconds.

    Raises:
        ValueError: for a budget that is not positive or a maximum below 2.
    """
    if not (math.isfinite(budget_s) and budget_s > 0):
        raise ValueError(f"budget_s is {budget_s}; expected a positive number of seconds")
    if max_iterations < 2:
        raise ValueError(f"max_iterations is {max_iterations}; expected at least 2")
    durations: list[int] = []
    budget_ns = budget_s * 1e9
    was_enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    stopped_by: Literal["budget", "maximum"] = "budget"
    switches = _involuntary_switches()
    try:
        started = reported = clock_ns()
        while True:
            before = clock_ns()
            run(len(durations))
            after = clock_ns()
            durations.append(after - before)
            elapsed = after - started
            if len(durations) >= max_iterations:
                stopped_by = "maximum"
                break
            enough = len(durations) >= min(min_iterations, max_iterations) or elapsed > _OVERRUN * budget_ns
            if elapsed >= budget_ns and enough and len(durations) >= 2:
                break
            if progress is not None and after - reported > 100_000_000:
                progress(min(1.0, max(elapsed / budget_ns, len(durations) / max_iterations)))
                reported = after
    finally:
        if was_enabled:
            gc.enable()
    now = _involuntary_switches()
    if progress is not None:
        progress(1.0)
    return Samples(
        durations_ns=tuple(durations),
        stopped_by=stopped_by,
        budget_s=budget_s,
        involuntary_switches=now - switches if now is not None and switches is not None else None,
        clock_resolution_ns=time.get_clock_info("perf_counter").resolution * 1e9,
    )


def summarise(
    samples: Samples,
    *,
    probabilities: tuple[float, ...] = (0.5, 0.9, 0.99),
    confidence: float = 0.95,
    seed: int = 0,
    evidence: str = EVIDENCE_HOST,
) -> Distribution:
    """Separate first call, warm-up and steady state, and describe the steady state.

    Args:
        samples: at least two durations.
        probabilities, confidence, seed: see :func:`nagedge.profiling.statistics.quantiles`.
        evidence: where they were taken.
    """
    if len(samples.durations_ns) < 2:
        raise ValueError(f"{len(samples.durations_ns)} samples; expected at least two")
    values = np.array(samples.durations_ns, dtype=np.float64) / 1e6
    warm_up = statistics.detect_warm_up(values[1:])
    steady = values[1 + warm_up.length :]
    return Distribution(
        evidence=evidence,
        samples_ms=tuple(float(value) for value in values),
        first_ms=float(values[0]),
        warm_up_calls=warm_up.length,
        warm_up_total_ms=float(values[1 : 1 + warm_up.length].sum()),
        warm_up_method=statistics.WARM_UP_METHOD,
        steady_reached=warm_up.reached,
        steady_calls=len(steady),
        mean_ms=float(steady.mean()),
        standard_deviation_ms=float(steady.std(ddof=1)) if len(steady) > 1 else 0.0,
        min_ms=float(steady.min()),
        max_ms=float(steady.max()),
        quantiles=statistics.quantiles(steady, probabilities, confidence=confidence, seed=seed),
        interval_method=f"{confidence * 100:g} % percentile interval of a circular block bootstrap",
        outliers=statistics.find_outliers(steady),
        drift=statistics.detect_drift(steady),
        modes=statistics.detect_modes(steady),
        stopped_by=samples.stopped_by,
        budget_s=samples.budget_s,
        involuntary_switches=samples.involuntary_switches,
    )


def _involuntary_switches() -> int | None:
    try:
        import resource  # absent on Windows
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
