"""The first program of the emulated system: runs the runner, says on the console what it found, and switches off.

It needs what the guest has: Python, numpy, a runtime, and in ``/work`` the runner, the model, its inputs and what this
machine computed from them. Nothing of NagEdge is there.
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import sys
import traceback
from typing import Any

__all__ = ["MARKER", "main"]

MARKER = "nagedge-system:"
"""What the lines that count begin with: the kernel writes on the same console."""

_SITE, _WORK = "/site", "/work"
_POWER_OFF = 0x4321FEDC


def main() -> None:
    """Do it all; the system ends with this process."""
    library = ctypes.CDLL(None)
    for name in ("proc", "sysfs"):
        library.mount(name.encode(), b"/" + name.removesuffix("fs").encode(), name.encode(), 0, None)
    console = os.open("/dev/console", os.O_RDWR)
    for number in range(3):
        os.dup2(console, number)
    try:
        _say(_measure())
    except BaseException as error:  # the console must say it, and the system must end
        _say({"error": f"{type(error).__name__}: {error}", "where": traceback.format_exc()[-500:]})
    os.sync()
    library.reboot(_POWER_OFF)


def _say(words: dict[str, Any]) -> None:
    os.write(1, f"\n{MARKER}{json.dumps(words)}\n".encode())


def _measure() -> dict[str, Any]:
    sys.path.insert(0, _SITE)
    os.chdir(_WORK)
    sys.argv = [
        "runner.py",
        "--requests",
        "requests.jsonl",
        "--answers",
        "answers.jsonl",
        "--folder",
        _WORK,
    ]
    runner = runpy.run_path("runner.py", run_name="runner")
    sys.path[:] = [entry for entry in sys.path if entry != _WORK]
    runner["main"](sys.argv[1:])
    with open("answers.jsonl", encoding="utf-8") as file:  # noqa: PTH123 - pathlib would be imported for it alone
        answers = [json.loads(line) for line in file]
    for answer in answers:
        if not answer["ok"]:
            return {"refused": answer["error"]}
    got, expected = (runner["load_arrays"](name) for name in ("outputs.npz", "expected.npz"))
    compared = {name: _difference(got[name], expected[name]) for name in expected}
    return {
        "cores": os.cpu_count(), "runtime": answers[0]["runtime"], "timed": answers[1]["timed"],
        "durations_ns": answers[1]["durations_ns"], "compared": compared,
    }  # fmt: skip


def _difference(got: Any, expected: Any) -> list[str]:
    """The largest absolute difference, and the largest expected value; as text, which may be ``nan``."""
    if got.shape != expected.shape:
        return ["inf", "0"]
    ours, theirs = got.astype("float64"), expected.astype("float64")
    return [repr(float(abs(ours - theirs).max(initial=0.0))), repr(float(abs(theirs).max(initial=0.0)))]


if __name__ == "__main__":
    main()
