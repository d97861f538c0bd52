"""What a device allows: limits of what a model costs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nagedge.errors import ConfigurationError, nearest_name

__all__ = ["COSTS", "Budget", "excess", "parse_budgets", "printed"]

COSTS: Mapping[str, str] = {
    "macs": "multiply-adds of one example's inference, counted on the model",
    "params": "parameters, counted",
    "memory": "bytes at the peak of a training step, planned from its graph",
    "instructions": "instructions of a training step on an emulated core, counted",
}
"""What can be limited, and how it is had."""

_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}
_BYTES = {
    "": 1, "B": 1, "kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
}  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """One limit: ``cost`` is a key of :data:`COSTS`, ``limit`` the largest value allowed."""

    cost: str
    limit: float


def parse_budgets(texts: Sequence[str]) -> tuple[Budget, ...]:
    """Return the limits of texts such as ``"macs=20M"`` and ``"memory=32MB"``.

    Raises:
        ConfigurationError: there is none, or one is malformed, unknown or given twice.
    """
    if not texts:
        raise ConfigurationError(
            f"no budget was given, expected at least one of {', '.join(COSTS)}, for example macs=20M."
        )
    found: dict[str, Budget] = {}
    for text in texts:
        budget = _parsed(text)
        if budget.cost in found:
            raise ConfigurationError(f"budget {budget.cost!r} was given more than once. Give each once.")
        found[budget.cost] = budget
    return tuple(found.values())


def _parsed(text: str) -> Budget:
    cost, equals, size = (part.strip() for part in text.partition("="))
    if cost not in COSTS:
        raise ConfigurationError(
            f"budget {text!r}: there is no cost {cost!r}, expected one of {', '.join(COSTS)}."
            + nearest_name(cost, COSTS)
        )
    units = _BYTES if cost == "memory" else _FACTORS
    match = re.fullmatch(r"([0-9]*\.?[0-9]+(?:[eE][0-9]+)?)\s*([A-Za-z]*)", size)
    limit = float(match[1]) * units.get(match[2], math.nan) if match else math.nan
    if not equals or not (math.isfinite(limit) and limit > 0):
        example = "32MB" if cost == "memory" else "20M"
        raise ConfigurationError(
            f"budget {text!r}: {size!r} is no size, expected a number above 0 with one of the units"
            f" {', '.join(unit for unit in units if unit)}, or none, for example {cost}={example}."
        )
    return Budget(cost, limit)


def excess(costs: Mapping[str, float], budgets: Sequence[Budget]) -> float:
    """Return the largest ratio of a cost to its limit; at most 1 is affordable. Costs that are not known count 0."""
    return max(costs.get(budget.cost, 0.0) / budget.limit for budget in budgets)


def printed(cost: str, value: float) -> str:
    """Return a value with its unit, three digits: ``"1.23 M"``, ``"4.56 MB"``."""
    for unit, factor in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= factor:
            return f"{value / factor:.3g} {unit}" + ("B" if cost == "memory" else "")
    return f"{value:.3g}" + (" B" if cost == "memory" else "")
