"""The projection on the cone of no conflict, against the enumeration of all active sets."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from nagedge.training.balancing.projector import project, projector


def by_enumeration(u: np.ndarray, gramian: np.ndarray) -> np.ndarray:
    """The best of the solutions with each subset of the bounds active."""
    size, best, value = len(u), None, np.inf
    for active in itertools.product((False, True), repeat=size):
        bound, free = np.array(active), ~np.array(active)
        w = u.astype(float).copy()
        if free.any():
            w[free] = np.linalg.solve(gramian[np.ix_(free, free)], -gramian[np.ix_(free, bound)] @ u[bound])
        if (w >= u - 1e-9).all() and w @ gramian @ w < value:
            best, value = w, w @ gramian @ w
    assert best is not None
    return best


@pytest.mark.parametrize("seed", range(40))
def test_it_finds_the_minimum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    size = int(rng.integers(1, 6))
    rows = rng.standard_normal((size, size + 2)) * rng.uniform(0.1, 10, (size, 1))
    gramian = rows @ rows.T + 1e-6 * np.eye(size)
    u = rng.uniform(0, 1, size)
    assert project(u, gramian) == pytest.approx(by_enumeration(u, gramian), rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_upgrad_with_it_never_conflicts_whatever_the_size_of_the_gradients(scale: float) -> None:
    from torchjd.aggregation import UPGrad

    generator = torch.Generator().manual_seed(0)
    rows = scale * torch.randn(4, 3, generator=generator, dtype=torch.float64)
    direction = UPGrad(projector=projector())(rows)
    assert (rows @ direction >= -1e-3 * rows.norm(dim=1) * direction.norm()).all()
    assert (rows @ rows.mean(0)).min() < 0  # where the mean does conflict
