"""Operators' kernels in torch's Python dispatcher, exchanged for the length of a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch._ops import OpOverload

__all__ = ["python_kernels"]


@contextmanager
def python_kernels(kernels: Mapping[OpOverload, Mapping[Any, Callable[..., Any]]]) -> Iterator[None]:
    """Give operators other Python kernels, by dispatch key, and their own again in the end.

    That dispatcher takes some operators apart before any decomposition table is asked.
    """
    saved = {operator: dict(operator.py_kernels) for operator in kernels}
    try:
        _set(kernels)
        yield
    finally:
        _set(saved)


def _set(kernels: Mapping[OpOverload, Mapping[Any, Callable[..., Any]]]) -> None:
    for operator, by_key in kernels.items():
        operator.py_kernels.clear()
        operator.py_kernels.update(by_key)
        operator._dispatch_cache.clear()
