"""Further forms of a finished float32 ONNX model: float16, int8, ONNX Runtime's own format.

Every converter is ONNX Runtime's and runs in a process of its own. Nothing here imports torch: these modules are what
that process loads.
"""

from nagedge.backends.onnx_precision.convert import in_ort_format, in_precision

__all__ = ["in_ort_format", "in_precision"]
