"""coremltools, imported where it is used, without its advice about the versions of other packages."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from typing import Any

from nagedge.errors import RuntimeUnavailableError

__all__ = ["builder", "import_coremltools", "quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence coremltools: its log, its warnings and its progress bars, all of which go to stderr unasked."""
    log = logging.getLogger("coremltools")
    disabled = log.disabled
    log.disabled = True
    try:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        log.disabled = disabled


def import_coremltools() -> Any:
    """Return the package.

    Raises:
        RuntimeUnavailableError: it is not installed.
    """
    try:
        with quiet():
            import coremltools
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"coremltools cannot be imported ({error}): install nagedge[coreml], or leave the coreml targets out."
        ) from error
    return coremltools


def builder() -> Any:
    """Return coremltools' MIL builder, the class with one method an operator."""
    import_coremltools()
    from coremltools.converters.mil import Builder

    return Builder
