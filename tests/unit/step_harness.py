"""Inputs for traced training steps."""

from __future__ import annotations

import torch
from torch import Tensor

from nagedge.graphs.train_step import StepGraph
from nagedge.specs import BATCH

__all__ = ["drawn_inputs"]


def drawn_inputs(step: StepGraph, rows: int, generator: torch.Generator, *, classes: int = 3) -> list[Tensor]:
    """Return noise for a step's floating inputs, class numbers for the others, then its constants."""
    values = []
    for spec in step.inputs:
        shape = [rows if size == BATCH else int(size) for size in spec.shape]
        if spec.dtype == "float32":
            values.append(torch.randn(shape, generator=generator))
        else:
            values.append(torch.randint(0, classes, shape, generator=generator))
    return [*values, *step.constants.values()]
