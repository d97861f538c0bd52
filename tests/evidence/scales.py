"""Table 3: losses of unequal scale, with and without balancing."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from tests.evidence.training import Map, Study, Summary, Trial, carry_out, train_once

__all__ = ["METHODS", "SCALES", "scale_summaries"]

SCALES: Mapping[str, Mapping[str, float]] = MappingProxyType({
    "standardised": {},
    "losses off by ten": {"slant": math.sqrt(10), "stroke_mass": math.sqrt(0.1)},
})  # fmt: skip
METHODS: Mapping[str, Mapping[str, object]] = MappingProxyType({
    "sum": {},
    "random weights": {"method": "random"},
    "uncertainty": {"method": "uncertainty"},
    "GradNorm": {"method": "gradnorm"},
    "IMTL-G, features": {"method": "imtl_g"},
    "IMTL-G, trunk": {"method": "imtl_g", "scope": "trunk"},
})  # fmt: skip
RATES = (0.005, 0.01, 0.02)


def scale_summaries(
    run_all: Map,
    *,
    seeds: Sequence[int],
    tuning_seeds: Sequence[int],
    epochs: int = 4,
    draws: int = 80,
    examples: int = 0,
    methods: Sequence[str] = tuple(METHODS),
    scales: Sequence[str] = tuple(SCALES),
) -> dict[str, list[Summary]]:
    """Return the summaries by scale; the first row is that of tuned static weights."""
    found: dict[str, list[Summary]] = {}
    for scale in scales:
        plain = Trial("digits", 0.1, epochs=epochs, scales=SCALES[scale], examples=examples)
        rows = [_static(plain, run_all, seeds, tuning_seeds, draws)]
        for method in methods:
            trial = dataclasses.replace(plain, balancing=dict(METHODS[method]))
            rows.append(carry_out(Study(method, trial, RATES), seeds, tuning_seeds, run_all))
        for row in rows:
            print(f"  {scale}, {row.name}: lr {row.trial.lr:g}, {np.mean(row.tests):.2f}", flush=True)
        found[scale] = rows
    return found


def _static(
    plain: Trial, run_all: Map, seeds: Sequence[int], tuning_seeds: Sequence[int], draws: int
) -> Summary:
    """Draw weights from 0.01 to 100 and learning rates; tune the rate of those that are best on the validation rows."""
    rng = np.random.default_rng(0)
    trials = [
        dataclasses.replace(
            plain,
            lr=float(rng.choice((0.01, 0.02, 0.04, 0.08))),
            weights={
                "slant": float(10 ** rng.uniform(-2, 2)), "stroke_mass": float(10 ** rng.uniform(-2, 2)),
            },
            seed=tuning_seeds[0],
        )
        for _ in range(draws)
    ]  # fmt: skip
    scores = [score.mean_validation for score in run_all(train_once, trials)]
    best = trials[int(np.argmax(scores))]
    study = Study(f"static weights, best of {draws}", best, (best.lr / 2, best.lr, 2 * best.lr))
    return carry_out(study, seeds, tuning_seeds, run_all)
