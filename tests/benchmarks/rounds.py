"""Interleaved rounds, and ratios of medians with intervals."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tests.benchmarks.sides import Step

__all__ = ["Ratio", "Samples", "geometric_mean", "measure", "ratio"]

RESAMPLES = 2000
Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Samples:
    """One side's rounds: wall-clock and processor time in ms, in order of time."""

    wall_ms: Array
    cpu_ms: Array


@dataclass(frozen=True)
class Ratio:
    """A ratio of medians and its 95 % interval; ``replicates`` are those of the bootstrap."""

    value: float
    low: float
    high: float
    replicates: Array


def measure(steps: Mapping[str, Step], *, rounds: int, warm_up: int = 5) -> dict[str, Samples]:
    """Take one step of every side a round, so that what disturbs the machine disturbs all of them."""
    wall: dict[str, list[float]] = {name: [] for name in steps}
    cpu: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for index in range(warm_up + rounds):
        for name in (
            names[index % len(names) :] + names[: index % len(names)]
        ):  # no side is always behind another
            started, cpu_started = time.perf_counter(), time.process_time()
            elsewhere = steps[name]()
            duration, busy = time.perf_counter() - started, time.process_time() - cpu_started
            if index >= warm_up:
                wall[name].append((duration if elsewhere is None else elsewhere) * 1e3)
                cpu[name].append((busy if elsewhere is None else elsewhere) * 1e3)
    return {name: Samples(np.array(wall[name]), np.array(cpu[name])) for name in names}


def ratio(samples: Array, reference: Array, *, seed: int = 0) -> Ratio:
    """Return median over median, with a block bootstrap that draws whole rounds: neighbours resemble each other."""
    count = len(samples)
    block = math.ceil(count ** (1 / 3))
    generator = np.random.default_rng(seed)
    starts = generator.integers(0, count, size=(RESAMPLES, math.ceil(count / block), 1))
    index = ((starts + np.arange(block)) % count).reshape(RESAMPLES, -1)[:, :count]
    replicates = np.median(samples[index], axis=1) / np.median(reference[index], axis=1)
    low, high = np.quantile(replicates, [0.025, 0.975])
    return Ratio(float(np.median(samples) / np.median(reference)), float(low), float(high), replicates)


def geometric_mean(ratios: list[Ratio]) -> Ratio:
    """Return the geometric mean of the ratios of several workloads, measured independently."""
    replicates = np.exp(np.mean([np.log(r.replicates) for r in ratios], axis=0))
    low, high = np.quantile(replicates, [0.025, 0.975])
    value = math.exp(sum(math.log(r.value) for r in ratios) / len(ratios))
    return Ratio(value, float(low), float(high), replicates)
