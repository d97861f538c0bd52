"""In-place activations while tracing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey

from nagedge.graphs.decompositions.python_kernels import python_kernels

__all__ = ["in_place_activations"]

aten = torch.ops.aten

_ACTIVATIONS = (
    aten.elu_.default, aten.hardsigmoid_.default, aten.hardswish_.default, aten.hardtanh_.default,
    aten.leaky_relu_.default, aten.mish_.default, aten.relu_.default, aten.sigmoid_.default, aten.silu_.default,
    aten.tanh_.default, aten.threshold_.default,
)  # fmt: skip


@contextmanager
def in_place_activations() -> Iterator[None]:
    """Trace in-place activations without torch's search for errors of shape, which they cannot have.

    Before it makes such an operator functional, torch runs it on tensors without values. With a symbolic batch that
    decomposes the operator and compares all sizes in sympy: 50 ms for every hardswish.
    """
    kernels = {operator: {**operator.py_kernels, DispatchKey.Meta: _itself} for operator in _ACTIVATIONS}
    with python_kernels(kernels):
        yield


def _itself(x: Tensor, *_: Any, **__: Any) -> Tensor:
    return x
