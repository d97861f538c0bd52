"""The ops that are known: op type -> the function that computes it with torch.

Functions have MIL's parameter names and defaults; reduced floats reach them as fp32, and the caller rounds what they
return to the declared type, once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nagedge.runtimes.mil_program.ops import (
    activation,
    elementwise,
    image,
    indexing,
    linear,
    lists,
    normalization,
    quantization,
    recurrent,
    reduction,
    shaping,
    tensors,
    windows,
)

__all__ = ["OPS", "STRUCTURAL"]

OPS: dict[str, Callable[..., Any]] = {
    **activation.OPS,
    **elementwise.OPS,
    **image.OPS,
    **indexing.OPS,
    **linear.OPS,
    **lists.OPS,
    **normalization.OPS,
    **quantization.OPS,
    **recurrent.OPS,
    **reduction.OPS,
    **shaping.OPS,
    **tensors.OPS,
    **windows.OPS,
}
"""Op type -> its function."""

STRUCTURAL = ("const", "cond", "while_loop", "read_state", "write_state")
"""Ops that the evaluator itself knows: constants, blocks and states."""
