"""Traced ATen graphs to ML Programs, operator by operator."""

from nagedge.backends.mil_lowering.compression import Compression
from nagedge.backends.mil_lowering.lower import Options, lower_to_mil, unsupported_operators
from nagedge.backends.mil_lowering.package import package

__all__ = ["Compression", "Options", "lower_to_mil", "package", "unsupported_operators"]
