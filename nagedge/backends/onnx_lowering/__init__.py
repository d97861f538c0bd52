"""Traced ATen graphs to ONNX, node by node, in standard ONNX operators only."""

from nagedge.backends.onnx_lowering.builder import inner_nodes
from nagedge.backends.onnx_lowering.for_target import check_operators, serialized
from nagedge.backends.onnx_lowering.lower import lower_to_onnx, unsupported_operators

__all__ = ["check_operators", "inner_nodes", "lower_to_onnx", "serialized", "unsupported_operators"]
