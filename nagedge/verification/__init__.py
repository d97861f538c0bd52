"""Does the exported artifact compute what PyTorch computes? Step by step, tensor by tensor, in every runtime."""

from __future__ import annotations

from nagedge.verification.comparison import Comparison, compare, worst_first
from nagedge.verification.lanes import verify

__all__ = ["Comparison", "compare", "verify", "worst_first"]
