"""How far two tensors are apart, and whether that is within a target's tolerance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Comparison", "compare", "severity", "worst_first"]

Array = npt.NDArray[Any]

_SPREAD = 2.0  # two dozen samples see about half of a range


@dataclass(frozen=True)
class Comparison:
    """The agreement of one tensor after one step.

    It is within tolerance when ``max_abs <= atol + rtol * max|expected|``: float32 sums err in proportion to the
    largest of their terms, so a tensor is measured by its own scale.

    Attributes:
        tensor: ``loss``, ``loss.<task>``, ``params.<name>``, ``momentum.<name>``, ``buffers.<name>``;
            ``infer.<task>``, an output of inference; ``update.<name>``, a parameter after one long step.
        step: 1 for the first step of the trajectory; 0 for inference and the long step.
        max_abs: largest absolute difference; infinite when one side is not finite.
        max_rel: it over the largest absolute value of the reference.
        rtol, atol: the target's tolerances.
        within_tolerance: the verdict.
        target: name of the verified target.
    """

    tensor: str
    step: int
    max_abs: float
    max_rel: float
    rtol: float
    atol: float
    within_tolerance: bool
    target: str = ""

    @property
    def excess(self) -> float:
        """The difference over what is allowed: above 1 is out of tolerance."""
        if math.isinf(self.max_abs):
            return math.inf
        scale = self.max_abs / self.max_rel if self.max_rel > 0 and math.isfinite(self.max_rel) else 0.0
        allowed = self.atol + self.rtol * scale
        return self.max_abs / allowed if allowed > 0 else (math.inf if self.max_abs > 0 else 0.0)


def compare(
    tensor: str, step: int, got: Array, expected: Sequence[Array], rtol: float, atol: float, target: str = ""
) -> Comparison:
    """Compare one tensor with its reference, in float64; see :class:`Comparison` for the rule.

    Args:
        tensor, step, target: what is compared.
        got: the runtime's values.
        expected: the reference; or, after it, its results on perturbed data: they span a range for every element
            (twice as far from the reference as the farthest of them), and the distance is to that range.
        rtol, atol: the tolerances.
    """
    ours = np.asarray(got, np.float64)
    theirs = [np.asarray(e, np.float64) for e in expected]
    whole = all(e.shape == ours.shape and np.isfinite(e).all() for e in theirs) and np.isfinite(ours).all()
    if not whole:
        return Comparison(tensor, step, math.inf, math.inf, rtol, atol, False, target)
    reference = theirs[0]
    below, above = reference - np.min(theirs, axis=0), np.max(theirs, axis=0) - reference
    outside = np.maximum(reference - _SPREAD * below - ours, ours - reference - _SPREAD * above)
    max_abs = float(np.maximum(outside, 0.0).max(initial=0.0))
    scale = float(np.abs(reference).max(initial=0.0))
    max_rel = max_abs / scale if scale > 0 else (0.0 if max_abs == 0 else math.inf)
    return Comparison(tensor, step, max_abs, max_rel, rtol, atol, max_abs <= atol + rtol * scale, target)


def worst_first(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return one comparison a tensor, the most telling one, in the order of :func:`verify`."""
    by_tensor: dict[tuple[str, str], Comparison] = {}
    for item in sorted(comparisons, key=severity):
        by_tensor.setdefault((item.target, item.tensor), item)
    return list(by_tensor.values())


def severity(item: Comparison) -> tuple[bool, bool, int, float]:
    """Return the key by which comparisons are sorted, the most telling first."""
    if item.within_tolerance:
        return (True, False, 0, -item.excess)
    # A wrong gradient makes a wrong update: what the trajectory found comes before what the long step found.
    return (False, item.tensor.startswith("update."), item.step, -item.excess)
