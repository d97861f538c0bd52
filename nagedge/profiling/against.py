"""A profile compared with a baseline: with one that was kept as a file, or with a bundle that is profiled now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from nagedge.bundle import Bundle
from nagedge.profiling.artifacts import artifacts_of
from nagedge.profiling.gate import Change, compare_profiles
from nagedge.profiling.results import Profile
from nagedge.profiling.run import profile
from nagedge.profiling.turns import take_turns

if TYPE_CHECKING:
    from nagedge.profiling.results import WorkloadProfile

__all__ = ["compare_with_baseline"]

Rounds = Sequence[Sequence[float]]


def compare_with_baseline(
    now: Profile,
    bundle: Bundle,
    baseline: Profile | Bundle,
    *,
    limit: float,
    what: Sequence[str],
    targets: Sequence[str] | None = None,
    batch: int | None = None,
    threads: int = 1,
    budget_s: float = 3.0,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Profile, tuple[Change, ...]]:
    """Return the baseline's profile, and what changed.

    Args:
        now: the profile of ``bundle``. bundle: what was profiled.
        baseline: a profile, whose samples were taken some other time; or a bundle, which is profiled on the same
        devices,
            and whose latencies are then taken in turns with those of ``bundle``.
        limit: relative growth that is allowed.
        what, targets: what was asked for; None for all targets. The rest of the baseline is not missed.
        batch, threads: that ``now`` was profiled with, for a bundle.
        budget_s: seconds for each timed side.
        progress: called with a description, the steps done and the steps in all.
    """
    if isinstance(baseline, Profile):
        return baseline, compare_profiles(now, _asked(baseline, what, targets), limit=limit)
    common = [name for name in targets or baseline.manifest.targets if name in baseline.manifest.targets]
    before = profile(
        baseline, what=what, device=now.devices, target=common or None, batch=batch, threads=threads,
        budget_s=budget_s, progress=progress,
    )  # fmt: skip

    def rounds(workload: WorkloadProfile) -> tuple[Rounds, Rounds] | None:
        if workload.device != "host":
            return None
        sides = []
        for side in (baseline, bundle):
            (artifact,) = artifacts_of(side, [workload.target], [workload.name], workload.batch)
            sides.append((side, artifact))
        return take_turns(sides[0], sides[1], threads=workload.threads, budget_s=budget_s)

    return before, compare_profiles(now, before, limit=limit, rounds=rounds)


def _asked(baseline: Profile, what: Sequence[str], targets: Sequence[str] | None) -> Profile:
    """Return the part of a profile that was asked for now."""
    return replace(
        baseline,
        workloads=tuple(
            one for one in baseline.workloads if one.name in what and (not targets or one.target in targets)
        ),
        counts=tuple(
            one for one in baseline.counts if one.name in what and (not targets or one.target in targets)
        ),
        systems=tuple(
            one for one in baseline.systems if one.name in what and (not targets or one.target in targets)
        ),
    )
