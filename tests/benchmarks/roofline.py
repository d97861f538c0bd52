"""The least time that a step's multiplications and additions need on this machine."""

from __future__ import annotations

import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.sides import Step

__all__ = ["flops_of", "matrix_gflops"]


def flops_of(step: Step) -> int:
    """Return the floating-point operations of an eager step's matrix products and convolutions, both ways."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def matrix_gflops(size: int = 768, *, tries: int = 15) -> float:
    """Return the best rate of a square matrix product in 1e9 operations a second of processor time, on one thread."""
    left, right = torch.randn(size, size), torch.randn(size, size)
    torch.mm(left, right)
    best = float("inf")
    for _ in range(tries):
        started = time.process_time()
        torch.mm(left, right)
        best = min(best, time.process_time() - started)
    return 2 * size**3 / best / 1e9
