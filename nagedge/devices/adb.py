"""Attached devices, through the real ``adb``: what they are, files to and from them, commands on them.

The program is the one in PATH, else the one that the package ``adbutils`` ships.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from nagedge.errors import RuntimeUnavailableError

__all__ = ["Attached", "adb_program", "attached", "pull", "push", "shell"]

_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Attached:
    """A device that adb lists.

    Args:
        serial: its name. state: ``"device"`` when it is ready; ``"unauthorized"``, ``"offline"`` and others are not.
        model: as it calls itself.
    """

    serial: str
    state: str
    model: str


def adb_program() -> str:
    """Return the path of adb.

    Raises:
        RuntimeUnavailableError: there is none.
    """
    found = shutil.which("adb")
    if found:
        return found
    try:
        import adbutils

        return str(adbutils.adb_path())
    except ImportError:
        raise RuntimeUnavailableError(
            "adb was not found: install Android's platform tools, or `pip install adbutils`, which ships it."
        ) from None


def attached() -> tuple[Attached, ...]:
    """Return the devices that adb lists, in its order."""
    done = subprocess.run(
        [adb_program(), "devices", "-l"], capture_output=True, text=True, check=False, timeout=30
    )
    found = []
    for line in done.stdout.splitlines()[1:]:
        words = line.split()
        if len(words) >= 2:
            model = next((word.partition(":")[2] for word in words if word.startswith("model:")), "")
            found.append(Attached(words[0], words[1], model.replace("_", " ")))
    return tuple(found)


def shell(serial: str, command: str) -> str:
    """Run a command in a device's shell and return what it prints.

    Raises:
        RuntimeUnavailableError: the command fails, or the device is gone.
    """
    return _adb(serial, "shell", command)


def push(serial: str, source: Path, target: str) -> None:
    """Copy a file to a device; raises as :func:`shell`."""
    _adb(serial, "push", str(source), target)


def pull(serial: str, source: str, target: Path) -> None:
    """Copy a file from a device; raises as :func:`shell`."""
    _adb(serial, "pull", source, str(target))


def _adb(serial: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [adb_program(), "-s", serial, *arguments],
            capture_output=True, text=True, check=False, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise RuntimeUnavailableError(f"device {serial!r} did not answer within {_TIMEOUT_S:g} s.") from None
    if done.returncode == 0:
        return done.stdout
    lines = [line for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
    reason = lines[-1].strip() if lines else f"exit code {done.returncode}"
    # A connection that breaks while a command runs ends adb with 255 and without a word.
    if re.search(r"device .*not found|no devices|device offline|closed", reason) or (
        not lines and not any(one.serial == serial and one.state == "device" for one in attached())
    ):
        raise RuntimeUnavailableError(
            f"device {serial!r} is gone ({reason}). Plug it in, allow debugging, and see `nagedge devices ls`."
        )
    raise RuntimeUnavailableError(f"device {serial!r}: {arguments[0]} failed: {reason}")
