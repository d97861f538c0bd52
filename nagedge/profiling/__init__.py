"""What a bundle's artifacts cost: latency, memory and time by operator, with honest intervals."""

from nagedge.profiling.run import profile

__all__ = ["profile"]
