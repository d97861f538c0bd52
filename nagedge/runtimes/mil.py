"""Core ML without a Mac: the saved ML Program, evaluated op by op with torch (:mod:`nagedge.runtimes.mil_program`).

It computes what the program says, in the program's own types. It says nothing of Apple's kernels, of what they fuse,
of the order in which they sum or of their speed: for that the runtime ``coreml`` predicts on macOS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import torch

from nagedge.runtimes.function_sessions import FunctionInference, FunctionTraining, Run
from nagedge.runtimes.mil_program import Program, coremltools_version, load_program
from nagedge.runtimes.ml_program_features import features, named_results
from nagedge.runtimes.state import TrainingState, initial_state
from nagedge.runtimes.torch_threads import torch_threads

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["available", "open_inference", "open_training"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


def available() -> str:
    """Return what evaluates, with versions; it says that it is not Apple's runtime.

    Raises:
        RuntimeUnavailableError: coremltools, whose protobuf classes read the file, is not installed.
    """
    return (
        f"evaluated from the ML Program, not by Apple's runtime (coremltools {coremltools_version()} protobuf, torch "
        f"{torch.__version__})"
    )


def open_training(
    bundle: Bundle, target: str | None = None, *, state: TrainingState | None = None, threads: int = 1
) -> FunctionTraining:
    """Load ``train_step.mlpackage``."""
    name, entry = bundle.target(target, role="train_step")
    program = load_program(bundle.file(entry.artifacts["train_step"]))
    return FunctionTraining(bundle, name, _run(program, threads), state or initial_state(bundle))


def open_inference(
    bundle: Bundle, target: str | None = None, *, params: Arrays | None = None, threads: int = 1
) -> FunctionInference:
    """Load ``infer.mlpackage``; ``params`` replaces constants of the same name.

    Raises:
        BundleError: the program has no plain constant for one of ``params``: it is compressed, or part of another one.
    """
    name, entry = bundle.target(target, role="infer")
    program = load_program(bundle.file(entry.artifacts["infer"]), replaced=params)
    return FunctionInference(bundle, name, _run(program, threads))


def _run(program: Program, threads: int) -> Run:
    """Return what runs a program with ``threads`` threads."""

    def run(fed: Arrays) -> dict[str, Array]:
        given = features(fed, program.names)
        with torch_threads(threads):
            results = program.run({name: given[name] for name in program.inputs if name in given})
        return named_results(results, program.names)

    return run
