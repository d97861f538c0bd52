"""Apple's own runtime: ML Programs predicted by Core ML, on macOS.

The CPU computes: what is verified is the program, in the precision that it states. Elsewhere,
:mod:`nagedge.runtimes.mil` evaluates the same files.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from nagedge.errors import BundleError, ConfigurationError, RuntimeUnavailableError, first_line
from nagedge.runtimes.function_sessions import FunctionInference, FunctionTraining, Run
from nagedge.runtimes.ml_program_features import NAMES_KEY, features, named_results
from nagedge.runtimes.state import TrainingState, initial_state

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["available", "open_inference", "open_training"]

Arrays = Mapping[str, npt.NDArray[Any]]


def available() -> str:
    """Return the runtime's name and version.

    Raises:
        RuntimeUnavailableError: this is no macOS, or coremltools is not installed there.
    """
    coremltools = _coremltools()
    return f"coreml (macOS {platform.mac_ver()[0]}, coremltools {coremltools.__version__})"


def open_training(
    bundle: Bundle, target: str | None = None, *, state: TrainingState | None = None, threads: int = 1
) -> FunctionTraining:
    """Load ``train_step.mlpackage``; Core ML chooses the number of threads itself."""
    del threads
    name, entry = bundle.target(target, role="train_step")
    run = _load(bundle.file(entry.artifacts["train_step"]))
    return FunctionTraining(bundle, name, run, state or initial_state(bundle))


def open_inference(
    bundle: Bundle, target: str | None = None, *, params: Arrays | None = None, threads: int = 1
) -> FunctionInference:
    """Load ``infer.mlpackage``.

    Raises:
        ConfigurationError: other parameters are given; they are constants of the program.
    """
    del threads
    name, entry = bundle.target(target, role="infer")
    if params:
        raise ConfigurationError(
            f"target {name!r} of bundle {str(bundle.path)!r} has its parameters as constants, which Core ML reads from "
            "the package itself: write a bundle with the new parameters (`nagedge finetune`), or use runtime 'mil'."
        )
    return FunctionInference(bundle, name, _load(bundle.file(entry.artifacts["infer"])))


def _load(path: Path) -> Run:
    """Compile a package and return how it is run.

    Raises:
        BundleError: Core ML refuses it.
        RuntimeUnavailableError: see :func:`available`.
    """
    predict, metadata = _compiled(path)
    try:
        names: dict[str, str] = json.loads(metadata.get(NAMES_KEY, "{}"))
    except ValueError as error:
        raise BundleError(
            f"program {str(path)!r}: the names of its features are damaged ({error}). Export again."
        ) from None

    def run(fed: Arrays) -> dict[str, npt.NDArray[Any]]:
        try:
            results = predict(features(fed, names))
        except (RuntimeError, ValueError) as error:
            raise BundleError(
                f"Core ML cannot run {str(path)!r}: {first_line(error)}. Export again, or update macOS."
            ) from None
        return named_results(results, names)

    return run


def _compiled(path: Path) -> tuple[Callable[[dict[str, Any]], Arrays], Mapping[str, str]]:
    """Return the prediction function of a package and its metadata; the one place that calls Core ML."""
    coremltools = _coremltools()
    try:
        model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)
    except Exception as error:
        raise BundleError(
            f"Core ML refuses {str(path)!r}: {first_line(error)}. Export again, or update macOS."
        ) from None
    return model.predict, dict(model.user_defined_metadata)


def _coremltools() -> Any:
    if platform.system() != "Darwin":
        raise RuntimeUnavailableError(
            f"runtime 'coreml' needs macOS, this is {platform.system()}: verify with runtime 'mil' here, which "
            "evaluates the same files, and on a Mac before you ship."
        )
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        import coremltools
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"runtime 'coreml' needs coremltools, which cannot be imported ({error}): pip install 'nagedge[coreml]'."
        ) from None
    finally:
        logging.disable(before)
    return coremltools
