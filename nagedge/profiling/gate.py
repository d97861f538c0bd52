"""What grew since a baseline: instructions exactly, latency only as far as the samples can tell.

Instructions of one artifact, runtime and core repeat to 0.1 %, so that a limit of 1 % is a hard one. Latencies do not
repeat: the ratio of two medians is given with a bootstrap interval, and has grown only when the whole interval lies
above
the limit. Samples of two bundles that were taken in turns share what disturbed them (Georges, Buytaert and Eeckhout
2007).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from nagedge.errors import ConfigurationError
from nagedge.profiling.results import CountProfile, Profile, SystemProfile, WorkloadProfile

__all__ = ["Change", "Ratio", "compare_profiles", "parse_limit", "ratio_of_medians"]

Verdict = Literal["grew", "fell", "same", "new", "missing", "not comparable"]

_Exact = CountProfile | SystemProfile

_BLOCK = 10
"""Consecutive samples that are drawn together: neighbours resemble each other."""
_RESAMPLES = 2000


@dataclass(frozen=True)
class Ratio:
    """A ratio of two medians, new over old, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Change:
    """One figure, before and now.

    Args:
        name, device, target: of the artifact.
        figure: ``"instructions"``, ``"ticks"`` or ``"p50_ms"``. evidence: its class.
        before, after: ``None`` where there is none.
        ratio: new over old; its interval is a point for counts.
        verdict: ``grew`` and ``missing`` fail a gate.
        note: why it is not comparable, or what else differs.
    """

    name: str
    device: str
    target: str
    figure: str
    evidence: str
    before: float | None
    after: float | None
    ratio: Ratio | None
    verdict: Verdict
    note: str = ""

    @property
    def fails(self) -> bool:
        """Whether a gate must not let it through."""
        return self.verdict in ("grew", "missing")


def parse_limit(text: str) -> float:
    """Return the share that ``"1%"`` names: 0.01.

    Raises:
        ConfigurationError: it is no percentage >= 0.
    """
    digits = text.strip().removesuffix("%")
    try:
        value = float(digits)
    except ValueError:
        value = math.nan
    if not text.strip().endswith("%") or not (math.isfinite(value) and value >= 0):
        raise ConfigurationError(f"--fail-above is {text!r}, expected a percentage such as 1%.")
    return value / 100


def compare_profiles(
    now: Profile,
    before: Profile,
    *,
    limit: float,
    rounds: Callable[[WorkloadProfile], tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]] | None]
    | None = None,
) -> tuple[Change, ...]:
    """Compare two profiles, figure by figure.

    Args:
        now, before: profiles of the same artifacts.
        limit: relative growth that is allowed, for example 0.01.
        rounds: returns samples in ms, old and new, that were taken in turns, a list a round; None where there are none.
            Then the samples of the profiles are used.
    """
    changes = _exact_changes(now.counts, before.counts, "instructions", now.devices, limit)
    changes += _exact_changes(now.systems, before.systems, "ticks", now.devices, limit)
    new_times = {_key(workload): workload for workload in now.workloads}
    comparable = _same_machine(now, before)
    for old_time in before.workloads:
        if old_time.device in now.devices:
            found = new_times.get(_key(old_time))
            turns = rounds(found) if rounds is not None and found is not None else None
            changes.append(_latency_change(found, old_time, limit, comparable, turns))
    return tuple(changes)


def ratio_of_medians(
    before: Sequence[Sequence[float]],
    after: Sequence[Sequence[float]],
    *,
    paired: bool,
    seed: int = 0,
    confidence: float = 0.95,
) -> Ratio:
    """Return the ratio of the medians of all samples, with a percentile interval of a block bootstrap.

    Args:
        before, after: blocks of samples; at least two each.
        paired: whether blocks of one number were taken in turns: then they are drawn together.
        seed: of the resampling. confidence: of the interval.
    """
    if min(len(before), len(after)) < 2 or (paired and len(before) != len(after)):
        raise ValueError(
            f"{len(before)} and {len(after)} blocks; expected at least two, equally many in turns"
        )
    rng = np.random.default_rng(seed)
    old, new = [np.asarray(block, float) for block in before], [np.asarray(block, float) for block in after]
    ratios = np.empty(_RESAMPLES)
    for index in range(_RESAMPLES):
        drawn = rng.integers(0, len(old), len(old))
        other = drawn if paired else rng.integers(0, len(new), len(new))
        ratios[index] = _median(new, other) / _median(old, drawn)
    tail = (1 - confidence) / 2
    low, high = np.quantile(ratios, [tail, 1 - tail])
    value = _median(new, np.arange(len(new))) / _median(old, np.arange(len(old)))
    return Ratio(value, float(low), float(high))


def _median(blocks: Sequence[npt.NDArray[np.float64]], drawn: npt.NDArray[np.int64]) -> float:
    return float(np.median(np.concatenate([blocks[index] for index in drawn])))


def _key(figure: _Exact | WorkloadProfile) -> tuple[str, str, str]:
    return figure.name, figure.device, figure.target


def _same_machine(now: Profile, before: Profile) -> bool:
    ours, theirs = now.host, before.host
    return (ours.cpu_model, ours.logical_cores) == (theirs.cpu_model, theirs.logical_cores)


def _change(
    of: _Exact | WorkloadProfile,
    figure: str,
    before: float | None,
    after: float | None,
    ratio: Ratio | None,
    verdict: Verdict,
    note: str = "",
) -> Change:
    return Change(of.name, of.device, of.target, figure, of.evidence, before, after, ratio, verdict, note)


def _exact_changes(
    now: Sequence[_Exact], before: Sequence[_Exact], figure: str, devices: Sequence[str], limit: float
) -> list[Change]:
    """Compare figures that repeat, in the order of the baseline, then those that are new."""
    found = {_key(one): one for one in now}
    changes = [
        _exact_change(found.get(_key(old)), old, figure, limit) for old in before if old.device in devices
    ]
    known = {_key(old) for old in before}
    return changes + [
        _change(one, figure, None, _number(one), None, "new")
        for key, one in found.items()
        if key not in known
    ]


def _number(one: _Exact) -> float:
    return float(one.median_ticks if isinstance(one, SystemProfile) else one.median.instructions)


def _exact_change(now: _Exact | None, old: _Exact, figure: str, limit: float) -> Change:
    before = _number(old)
    if now is None:
        note = "the baseline has it, this profile does not"
        return _change(old, figure, before, None, None, "missing", note)
    after = _number(now)
    ratio = after / before if before else math.inf
    note = "" if now.runtime == old.runtime else f"{old.runtime} before, {now.runtime} now"
    if now.batch != old.batch:
        text = f"batch {old.batch} before, {now.batch} now"
        return _change(now, figure, before, after, None, "not comparable", text)
    if isinstance(now, SystemProfile) and isinstance(old, SystemProfile) and now.threads != old.threads:
        text = f"{old.threads} threads before, {now.threads} now"
        return _change(now, figure, before, after, None, "not comparable", text)
    verdict: Verdict = "grew" if ratio > 1 + limit else "fell" if ratio < 1 - limit else "same"
    return _change(now, figure, before, after, Ratio(ratio, ratio, ratio), verdict, note)


def _latency_change(
    now: WorkloadProfile | None,
    old: WorkloadProfile,
    limit: float,
    comparable: bool,
    turns: tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]] | None,
) -> Change:
    before = old.latency.quantile(0.5).value
    if now is None:
        return _change(
            old, "p50_ms", before, None, None, "missing", "the baseline has it, this profile does not"
        )
    after = now.latency.quantile(0.5).value
    same = (now.batch, now.threads) == (old.batch, old.threads)
    if not same or (turns is None and not comparable):
        note = "another batch or number of threads" if not same else "the baseline is of another machine"
        return _change(now, "p50_ms", before, after, None, "not comparable", note)
    blocks = turns or (_blocks(old.latency.steady_ms), _blocks(now.latency.steady_ms))
    if min(len(blocks[0]), len(blocks[1])) < 2:
        return _change(now, "p50_ms", before, after, None, "not comparable", "too few samples")
    ratio = ratio_of_medians(*blocks, paired=turns is not None)
    verdict: Verdict = "grew" if ratio.low > 1 + limit else "fell" if ratio.high < 1 - limit else "same"
    how = "taken in turns" if turns is not None else "not taken in turns with the baseline"
    return _change(now, "p50_ms", before, after, ratio, verdict, how)


def _blocks(samples: Sequence[float]) -> list[Sequence[float]]:
    return [samples[start : start + _BLOCK] for start in range(0, len(samples) - _BLOCK + 1, _BLOCK)]
