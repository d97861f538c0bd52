"""Samples of two bundles' artifacts taken in turns on this machine: what disturbs it disturbs both."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from nagedge.profiling.artifacts import Artifact, feeds
from nagedge.profiling.parity import run_on_host
from nagedge.profiling.workloads import load_workload

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["take_turns"]

Rounds = list[Sequence[float]]

_ROUNDS = 10
_WARM_UP = 3
"""Calls at the beginning of each round that do not count: the other bundle has used the caches."""


def take_turns(
    old: tuple[Bundle, Artifact], new: tuple[Bundle, Artifact], *, threads: int, budget_s: float
) -> tuple[Rounds, Rounds]:
    """Return samples in ms of the old and the new artifact, one list a round.

    Args:
        old, new: bundles with what is called in them, of one batch size.
        threads: inside operators.
        budget_s: seconds for each of the two, warm-up apart.
    """
    sides = [_caller(*side, threads=threads, budget_s=budget_s / _ROUNDS) for side in (old, new)]
    found: tuple[Rounds, Rounds] = ([], [])
    for number in range(_ROUNDS):
        # The order changes from round to round: neither profits from being the second.
        for side in (0, 1) if number % 2 == 0 else (1, 0):
            found[side].append(sides[side]())
    return found


def _caller(
    bundle: Bundle, artifact: Artifact, *, threads: int, budget_s: float
) -> Callable[[], Sequence[float]]:
    if artifact.backend != "onnxruntime":
        inputs = feeds(bundle, artifact.what, artifact.batch)

        def run_process() -> Sequence[float]:
            done = run_on_host(artifact, inputs, threads=threads, budget_s=budget_s)
            return [duration / 1e6 for duration in done.durations_ns[_WARM_UP:]]

        return run_process
    call = load_workload(str(bundle.path), artifact.target, artifact.what, artifact.batch, threads)

    def run_here() -> Sequence[float]:
        for number in range(_WARM_UP):
            call(number)
        samples: list[float] = []
        started = time.perf_counter()
        while len(samples) < 5 or time.perf_counter() - started < budget_s:
            before = time.perf_counter_ns()
            call(len(samples))
            samples.append((time.perf_counter_ns() - before) / 1e6)
        return samples

    return run_here
