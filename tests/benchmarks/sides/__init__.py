"""What is compared: one module a side, with ``available() -> str`` and ``prepare(workload, folder) -> step``.

``available`` returns name and version, or raises :class:`nagedge.errors.RuntimeUnavailableError` saying why the side
cannot be measured here. ``prepare`` returns a function of no arguments that takes one training step; ``folder`` holds
what it writes, and may be shared with other sides. A step that runs in another process returns the seconds that it took
there, every other one None. To add a side, write a module and name it in :data:`SIDES`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from tests.benchmarks.workloads import Workload

__all__ = ["REFERENCE", "SIDES", "Side", "Step", "side"]

Step = Callable[[], float | None]

SIDES: dict[str, str] = {
    "onnxruntime": "tests.benchmarks.sides.exported",
    "torch": "tests.benchmarks.sides.eager",
    "torch-folded": "tests.benchmarks.sides.eager_folded",
    "torch-compile": "tests.benchmarks.sides.compiled",
    "ort_training": "tests.benchmarks.sides.ort_training",
    "ort-autodiff": "tests.benchmarks.sides.ort_autodiff",
    "litert": "tests.benchmarks.sides.on_litert",
    "executorch": "tests.benchmarks.sides.on_executorch",
}
"""Name in tables -> module."""

REFERENCE = "torch"
"""Ratios are of a side's time over this side's."""


class Side(Protocol):
    """What a module of this package has."""

    def available(self) -> str: ...

    def prepare(self, workload: Workload, folder: Path) -> Step: ...


def side(name: str) -> Side:
    module: Side = importlib.import_module(SIDES[name])  # type: ignore[assignment]
    return module
