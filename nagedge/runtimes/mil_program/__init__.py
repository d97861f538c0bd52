"""An evaluator of saved ML Programs (Core ML's ``.mlpackage``): every op is computed with torch on the host.

It reads the files that Apple's runtime would read, protobuf specification and weight file alike, and trusts nothing
in them. What it computes follows the reference of the Model Intermediate Language in coremltools; it is not Apple's
runtime.
"""

from nagedge.runtimes.mil_program.program import Program, State, load_program
from nagedge.runtimes.mil_program.protobuf import coremltools_version

__all__ = ["Program", "State", "coremltools_version", "load_program"]
