"""Versions of builtin operators: the lowest that has what an operation uses, so that old runtimes run it.

Source: ``tools/versioning/op_version.cc`` of TensorFlow Lite, for the dtypes that the lowering uses.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nagedge.backends.tflite_lowering.model import ABSENT, Operation, Subgraph

__all__ = ["version"]

_FLAT = 4  # axes that the first version of an operator handles


class _Used:
    """What an operation uses of its operator."""

    def __init__(self, operation: Operation, graph: Subgraph) -> None:
        self.options = operation.options
        self.inputs = [graph.tensors[i] for i in operation.inputs if i != ABSENT]

    @property
    def rank(self) -> int:
        """Number of axes of the largest input."""
        return max((len(tensor.sizes) for tensor in self.inputs), default=0)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the first input."""
        return self.inputs[0].dtype

    @property
    def activation(self) -> bool:
        """Whether an activation is fused."""
        return bool(self.options.get("fusedActivationFunction", "NONE") != "NONE")


def _fully_connected(used: _Used) -> int:
    if len(used.inputs) == 2:
        return 6
    return 5 if used.options.get("keepNumDims") else 1


def _transpose_conv(used: _Used) -> int:
    if used.activation:
        return 4
    return 3 if len(used.inputs) == 4 else 1


_VERSIONS: dict[str, Callable[[_Used], int]] = {
    "FULLY_CONNECTED": _fully_connected,
    "CONV_2D": lambda u: 1 if u.inputs[0].sizes[-1] == u.inputs[1].sizes[-1] else 6,  # grouped
    "DEPTHWISE_CONV_2D": lambda u: (
        2 if max(u.options["dilationHFactor"], u.options["dilationWFactor"]) > 1 else 1
    ),
    "TRANSPOSE_CONV": _transpose_conv,
    "GATHER": lambda u: 3 if u.dtype == np.bool_ else 1,
    "TRANSPOSE": lambda u: 4 if u.rank > _FLAT else 3 if u.dtype == np.bool_ else 1,
    "SLICE": lambda u: 5 if u.rank > _FLAT else 1,
    "STRIDED_SLICE": lambda u: 4 if u.rank > _FLAT else 3 if u.dtype == np.bool_ else 1,
    "REVERSE_V2": lambda u: 2 if u.dtype == np.bool_ else 1,
    "MAXIMUM": lambda u: 3 if u.rank > _FLAT else 1,
    "MINIMUM": lambda u: 3 if u.rank > _FLAT else 1,
    "SUB": lambda u: 3 if u.rank > _FLAT else 1,
    "FLOOR_DIV": lambda u: 2 if u.dtype == np.float32 else 1,
    "DEQUANTIZE": lambda u: 3,  # of float16
    "BROADCAST_TO": lambda u: 2,
}


def version(operation: Operation, graph: Subgraph) -> int:
    """Return the lowest version of the operator that has what ``operation`` uses."""
    rule = _VERSIONS.get(operation.kind)
    return rule(_Used(operation, graph)) if rule else 1
