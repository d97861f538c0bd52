"""The projection on the cone of no conflict that UPGrad and DualProj need, without a GPL solver."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["project", "projector"]

Array = npt.NDArray[np.float64]
REGULARISATION = 1e-4
"""TorchJD's own: added to the diagonal of the Gramian after it is divided by its trace."""


def project(u: Array, gramian: Array) -> Array:
    """Return ``argmin_w w^T G w`` subject to ``w >= u`` (Quinton & Rey 2024, equation 5, in its dual form).

    With ``w = u + v`` and the Cholesky factor ``G = L L^T`` it is the least-squares problem ``|L^T v + L^T u|``,
    ``v >= 0``, solved by the active sets of Lawson & Hanson (1974, algorithm 23.10).

    Args:
        u: ``[tasks]``. gramian: ``[tasks, tasks]``, positive definite.
    """
    matrix = np.linalg.cholesky(gramian).T
    goal = -matrix @ u
    size = len(u)
    v = np.zeros(size)
    free = np.zeros(size, dtype=np.bool_)
    tolerance = 1e-12 * max(1.0, float(np.abs(matrix.T @ goal).max()))
    for _ in range(10 * size + 10):
        descent = matrix.T @ (goal - matrix @ v)
        if free.all() or (descent[~free] <= tolerance).all():
            break
        free[np.flatnonzero(~free)[int(np.argmax(descent[~free]))]] = True
        while True:
            trial = np.zeros(size)
            trial[free] = np.linalg.lstsq(matrix[:, free], goal, rcond=None)[0]
            leaving = free & (trial <= 0)
            if not leaving.any():
                break
            step = float(np.min(v[leaving] / np.maximum(v[leaving] - trial[leaving], 1e-300)))
            v = v + step * (trial - v)
            free &= v > 1e-15
        v = trial
    return u + v


def projector() -> object:
    """Return the projection as TorchJD's ``DualConeProjector``."""
    from torchjd.linalg import DualConeProjector, PSDMatrix

    class ActiveSetProjector(DualConeProjector):
        def __call__(self, U: Tensor, G: PSDMatrix) -> Tensor:  # noqa: N803 - TorchJD's names
            gramian = G.detach().cpu().double()
            # TorchJD takes a trace below 1e-4 for zero; gradients of features are often smaller than that
            scaled = gramian / gramian.trace().clamp_min(1e-300)
            matrix = (scaled + REGULARISATION * torch.eye(len(gramian), dtype=torch.float64)).numpy()
            rows = U.detach().cpu().double().numpy().reshape(-1, len(gramian))
            found = np.stack([project(row, matrix) for row in rows]).reshape(U.shape)
            return torch.as_tensor(found, device=G.device, dtype=G.dtype)

    return ActiveSetProjector()
