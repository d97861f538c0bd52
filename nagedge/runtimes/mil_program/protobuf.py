"""The specification of a package, parsed with coremltools' protobuf classes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nagedge.errors import BundleError, RuntimeUnavailableError

__all__ = ["coremltools_version", "read_model"]

_LARGEST_MODEL = 2**31 - 1  # protobuf's own limit


def coremltools_version() -> str:
    """Return the version of coremltools.

    Raises:
        RuntimeUnavailableError: it is not installed, or cannot be imported.
    """
    _import_model_class()
    import coremltools

    version: str = coremltools.__version__
    return version


def read_model(path: Path, shown: Path) -> Any:
    """Return the ``Model`` message of a ``.mlmodel`` file that holds an ML Program.

    Args:
        path: the file.
        shown: what error texts call the program.

    Raises:
        BundleError: the file is no such message.
        RuntimeUnavailableError: coremltools is not installed.
    """
    message = _import_model_class()()
    size = path.stat().st_size
    if size > _LARGEST_MODEL:
        raise BundleError(f"program {str(shown)!r}: {path.name} has {size} bytes, more than protobuf reads.")
    try:
        message.ParseFromString(path.read_bytes())
    except Exception as error:  # DecodeError of whichever protobuf implementation is installed
        raise BundleError(
            f"program {str(shown)!r}: {path.name} is no Core ML specification ({error}). Export again, or take it "
            "from a backup."
        ) from None
    kind = message.WhichOneof("Type")
    if kind != "mlProgram":
        raise BundleError(
            f"program {str(shown)!r} holds a model of the kind {kind or 'unknown'!r}, expected an ML Program "
            "('mlProgram'): convert it with coremltools' convert_to='mlprogram'."
        )
    return message


def _import_model_class() -> Any:
    try:
        with _quiet():
            from coremltools.proto import Model_pb2
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"the evaluator of ML Programs needs coremltools, which cannot be imported ({error}): "
            "pip install 'nagedge[coreml]'."
        ) from None
    return Model_pb2.Model


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what coremltools logs when it is imported: that it cannot predict here, and which torch it knows."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
