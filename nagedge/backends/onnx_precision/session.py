"""ONNX Runtime inside the converting processes: without telemetry, on one thread, silent."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any

import numpy.typing as npt

__all__ = ["check_runs", "folded", "prepare_onnxruntime", "session_options"]


def prepare_onnxruntime() -> Any:
    """Return the module, imported so that its tools import neither torch nor send telemetry.

    Only for processes of :mod:`nagedge.backends.subprocess_conversion`: it hides torch, which ``onnxruntime.tools``
    would import (3 s) for functions that are not used here.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if "torch" not in sys.modules:
        sys.modules["torch"] = None  # type: ignore[assignment] # "not installed", by the rules of the import system
    import onnxruntime

    return onnxruntime


def session_options(ort: Any) -> Any:
    """Return options for one thread that say errors only."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return options


def folded(model: bytes) -> Any:
    """Return the parsed model with constants folded, Conv and BatchNorm fused, and the types of all tensors noted.

    These are ONNX Runtime's basic optimisations, whose results are standard operators on any machine. They come before
    a conversion because quantisers take constant weights only.
    """
    import onnx

    ort = prepare_onnxruntime()
    options = session_options(ort)
    options.optimized_model_filepath = "folded.onnx"
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return onnx.shape_inference.infer_shapes(onnx.load("folded.onnx"))


def check_runs(model: bytes, inputs: Mapping[str, npt.NDArray[Any]] | None = None) -> None:
    """Load and run a converted model as a runtime would: what it refuses, some of it only when it computes, is none.

    Args:
        model: serialised, ONNX or ORT format.
        inputs: by name; None takes two rows of zeros.
    """
    ort = prepare_onnxruntime()
    session = ort.InferenceSession(model, session_options(ort), providers=["CPUExecutionProvider"])
    if inputs is None:
        inputs = {info.name: _zeros(info) for info in session.get_inputs()}
    session.run(None, dict(inputs))


def _zeros(info: Any) -> npt.NDArray[Any]:
    import numpy as np

    shape = [size if isinstance(size, int) else 2 for size in info.shape]
    element = info.type.removeprefix("tensor(").removesuffix(")")
    return np.zeros(shape, {"float": "float32", "double": "float64"}.get(element, element))
