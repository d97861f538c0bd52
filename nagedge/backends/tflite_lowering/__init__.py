"""Lowering of traced graphs to TensorFlow Lite: builtin operators only, one .tflite with signatures."""

from nagedge.backends.tflite_lowering.int8_marks import marked
from nagedge.backends.tflite_lowering.lower import (
    RefusedOperatorError,
    lower_to_subgraph,
    unsupported_operators,
)
from nagedge.backends.tflite_lowering.serialize import serialize

__all__ = ["RefusedOperatorError", "lower_to_subgraph", "marked", "serialize", "unsupported_operators"]
