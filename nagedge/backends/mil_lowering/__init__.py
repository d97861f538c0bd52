"""Traced ATen graphs to ML Programs, operator by operator."""

from nagedge.backends.mil_lowering.compression import Compression
from nagedge.backends.mil_lowering.lower import Options, RefusedOperatorError, lower_to_mil
from nagedge.backends.mil_lowering.package import package

__all__ = ["Compression", "Options", "RefusedOperatorError", "lower_to_mil", "package"]
