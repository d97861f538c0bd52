"""From traced graphs to a target's files: which backend lowers for which target, and what each is given."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy.typing as npt

from nagedge.graphs.inference import InferenceGraph
from nagedge.graphs.train_step import StepGraph
from nagedge.targets import Target

__all__ = ["BACKENDS", "Artifacts", "Calibration", "Content", "backend_of"]

Content = bytes | Mapping[str, bytes]
"""A file, or the files of a folder by their path in it."""

Artifacts = Mapping[str, tuple[str, Content]]
"""Role -> (name of the file or folder, content)."""

Calibration = Sequence[Mapping[str, npt.NDArray[Any]]]
"""Batches of prepared inputs by name, from which static quantisation takes the ranges of activations."""

BACKENDS: dict[str, str] = {
    "onnxruntime": "nagedge.backends.onnxruntime",
    "ort_training": "nagedge.backends.ort_training",
    "litert": "nagedge.backends.litert",
    "tflite_runtime": "nagedge.backends.litert",
    "coreml": "nagedge.backends.coreml",
}
"""Backend name of a target -> the module that lowers for it."""


class Backend(Protocol):
    """What a module of :mod:`nagedge.backends` has."""

    DECOMPOSITIONS: Mapping[Any, Callable[..., Any]]
    """Overrides of the portable decompositions."""

    def lower(
        self,
        inference: InferenceGraph,
        step: StepGraph | None,
        target: Target,
        *,
        module_of: Callable[[str], str | None],
        calibration: Calibration,
    ) -> Artifacts:
        """Return the target's artifacts.

        Raises:
            UnsupportedOperatorError: for an operator without a lowering; the text names it, its module and the target.
        """
        ...


def backend_of(target: Target) -> Backend:
    """Return the module that lowers for ``target``."""
    module: Any = importlib.import_module(BACKENDS[target.backend])
    return module  # type: ignore[no-any-return] # a module has the protocol's names
