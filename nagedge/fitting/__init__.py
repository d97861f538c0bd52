"""The choice of a model for a device: what candidates cost, what they learn in a short run, and which fits a budget."""

from __future__ import annotations

from nagedge.fitting.budget import Budget, parse_budgets
from nagedge.fitting.search import Fitted, Tried, fit_device

__all__ = ["Budget", "Fitted", "Tried", "fit_device", "parse_budgets"]
