"""LiteRT (ai-edge-litert): the signatures ``infer`` and ``train`` of a ``model.tflite``.

The interpreter lives as long as the session: it allocates when the batch size changes and not otherwise. Results are
copied out of its memory, which the next call overwrites; the state of training stays there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import BundleError, ConfigurationError, RuntimeUnavailableError, first_line
from nagedge.runtimes.function_sessions import FunctionInference
from nagedge.runtimes.litert_training import LitertTraining
from nagedge.runtimes.runner import TfliteFunction
from nagedge.runtimes.state import TrainingState, initial_state

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["available", "load_interpreter", "open_inference", "open_training"]

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]

_PACKAGE = "ai-edge-litert"


def available() -> str:
    """Return the runtime's name and version.

    Raises:
        RuntimeUnavailableError: ai-edge-litert is not installed, or has no library for this system.
    """
    _interpreter_class()
    return f"litert {metadata.version(_PACKAGE)}"


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"runtime 'litert' is not available: {error}. Install it with `pip install nagedge[litert]`."
        ) from None
    return Interpreter


def load_interpreter(model: Path | bytes, *, threads: int = 1) -> Any:
    """Load a .tflite on the CPU; XNNPACK takes the operators that it knows.

    Args:
        model: the file, or its content.
        threads: to compute with, >= 1.

    Raises:
        BundleError: LiteRT refuses the file.
        RuntimeUnavailableError: LiteRT is not installed.
    """
    make = _interpreter_class()
    try:
        if isinstance(model, bytes):
            return make(model_content=model, num_threads=threads)
        return make(model_path=str(model), num_threads=threads)
    except (ValueError, RuntimeError) as error:
        text = str(error).strip().splitlines()[0]
        shown = "the model with its new parameters" if isinstance(model, bytes) else repr(str(model))
        raise BundleError(f"LiteRT refuses {shown}: {text} Export again, or update LiteRT.") from None


def open_training(
    bundle: Bundle, target: str | None = None, *, state: TrainingState | None = None, threads: int = 1
) -> LitertTraining:
    """Load the signature ``train``."""
    name, entry = bundle.target(target, role="train_step")
    path = bundle.file(entry.artifacts["train_step"])
    train = TfliteFunction(load_interpreter(path, threads=threads), "train")

    return LitertTraining(
        bundle, name, train, state or initial_state(bundle), lambda call: _checked(call, path)
    )


def open_inference(
    bundle: Bundle, target: str | None = None, *, params: Arrays | None = None, threads: int = 1
) -> FunctionInference:
    """Load the signature ``infer``; ``params`` replaces trained tensors of the same name.

    Raises:
        ConfigurationError: ``params`` are given, but the file holds its parameters as constants.
    """
    name, entry = bundle.target(target, role="infer")
    path = bundle.file(entry.artifacts["infer"])
    infer = TfliteFunction(load_interpreter(path, threads=threads), "infer")
    taken = {i: i.partition(".")[2] for i in infer.shapes if i.startswith(("params.", "buffers."))}
    if params and not taken:
        raise ConfigurationError(
            f"{str(path)!r} holds its parameters as constants: lower it again for new ones (nagedge.finetune does)."
        )
    stored = bundle.params() if taken else {}
    state = {i: np.ascontiguousarray((params or {}).get(key, stored[key])) for i, key in taken.items()}
    return FunctionInference(bundle, name, lambda fed: _called(infer, {**fed, **state}, path))


def _called(signature: TfliteFunction, fed: Arrays, path: Path) -> dict[str, Array]:
    """Run a signature."""
    results: dict[str, Array] = {}
    _checked(lambda: results.update(signature(fed)), path)
    return results


def _checked(call: Callable[[], None], path: Path) -> None:
    """Call; LiteRT checks an operator only when it is given its sizes, and says then what it refuses."""
    try:
        call()
    except RuntimeError as error:
        raise BundleError(
            f"LiteRT refuses to run {str(path)!r}: {first_line(error)}. Export again, or update LiteRT."
        ) from None
