"""Several processes that train together: what to say when one of them is lost."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import torch

from nagedge.errors import WorkerLostError

__all__ = ["is_lost_worker", "leave_the_end_to_us", "lost_worker"]

_SIGNS = ("gloo", "nccl", "connection closed by peer", "connection reset by peer", "broken pipe")


def leave_the_end_to_us() -> None:
    """Keep Fabric's observer of child processes from killing this one, so that it can say what happened.

    The observer looks at the processes that Fabric started every five seconds and, when one has failed, kills them all,
    itself included, without a word. There is no need for it: the next exchange between the processes fails within
    moments of a process's end, on every side.
    """
    for thread in threading.enumerate():
        if type(thread).__name__ == "_ChildProcessObserver" and hasattr(thread, "_child_processes"):
            thread._child_processes = []  # noqa: SLF001 - Fabric offers no switch


def is_lost_worker(error: BaseException) -> bool:
    """Return whether an error is that of an exchange between processes: gloo's are plain RuntimeErrors."""
    text = str(error).lower()
    return isinstance(error, torch.distributed.DistError) or any(sign in text for sign in _SIGNS)


def lost_worker(error: BaseException, *, rank: int, processes: int, path: Path) -> WorkerLostError:
    """Return the error that says so, with what to do."""
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    reason = re.sub(r"^\[\S+:\d+\]\s*", "", first).split(". ", maxsplit=1)[
        0
    ]  # gloo begins with its source line
    return WorkerLostError(
        f"process {rank} of {processes} lost another one, which was killed or failed ({reason}). The last checkpoint"
        f" in {str(path)!r} is whole: see what the other process said, then go on with --resume and as many devices."
    )
