"""Traced ATen graphs to ONNX, node by node, in standard ONNX operators only."""

from nagedge.backends.onnx_lowering.lower import lower_to_onnx, unsupported_operators

__all__ = ["lower_to_onnx", "unsupported_operators"]
