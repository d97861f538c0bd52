"""The errors that NagEdge raises on purpose.

Each names the object, what came, what was expected and the remedy, in one sentence or two. The command
line prints the text without a traceback and exits with :attr:`NagEdgeError.exit_code`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = [
    "BundleError",
    "ConfigurationError",
    "DataError",
    "NagEdgeError",
    "RuntimeUnavailableError",
    "TrainingDivergedError",
    "UnsupportedOperatorError",
    "VerificationError",
    "WorkerLostError",
    "first_line",
    "nearest_name",
]


class NagEdgeError(Exception):
    """Something the user gave cannot be used as it is; the text says what to change."""

    exit_code = 2


class ConfigurationError(NagEdgeError):
    """A run file, a target file, an option or an argument is wrong."""


class DataError(NagEdgeError):
    """A data file, a column, a value or a label is wrong."""


class BundleError(NagEdgeError):
    """A bundle or a checkpoint is damaged, foreign or newer than this version."""


class UnsupportedOperatorError(NagEdgeError):
    """A backend has no lowering for an operator of the model."""


class RuntimeUnavailableError(NagEdgeError):
    """A runtime cannot be had on this machine: not installed, no network to fetch it, another system."""


class TrainingDivergedError(NagEdgeError):
    """A loss or a gradient became NaN or infinite; the last good checkpoint is kept."""


class WorkerLostError(NagEdgeError):
    """One of several processes that train together was killed or failed; the last checkpoint is kept."""


class VerificationError(NagEdgeError):
    """An exported artifact does not compute what PyTorch computes, within the target's tolerance."""

    exit_code = 1


def first_line(error: BaseException) -> str:
    """Return the first line of another package's error without its full stop, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def nearest_name(name: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the known name nearest to ``name``, or ``""`` when none is near."""
    matches = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean {matches[0]!r}?" if matches else ""
