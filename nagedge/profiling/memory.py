"""Peak memory of a step above the loaded session, measured in a fresh process.

In the profiling process the peak would be that of whatever ran before. A child process loads the session, notes its
resident memory, resets the kernel's high-water mark and runs a few steps. How far the mark then rose is what a step
needs beyond the loaded session. Where the mark cannot be reset the figure is a lower bound, and says so.

On request this process watches the child meanwhile: see :mod:`nagedge.profiling.memory_timeline`.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from nagedge.errors import ConfigurationError
from nagedge.profiling.measure import EVIDENCE_HOST
from nagedge.profiling.memory_timeline import (
    Marks,
    MemoryTimeline,
    Reading,
    assemble,
    now_resident,
    watched,
)

__all__ = ["Argument", "MemoryPeak", "peak_memory"]

Argument = str | int | float | bool | None
"""What can be told to the child process."""

_MARKER = "nagedge-memory:"
_WATCHED_STEPS, _WATCHED_S = 10, 1.0
"""How many steps a timeline shows, unless they take longer than that; the steps of the peak are always shown."""


@dataclass(frozen=True)
class MemoryPeak:
    """Resident memory of a process that runs one workload.

    Args:
        evidence: the class of evidence. method: how the peak was read.
        step_bytes: the peak while stepping, above the loaded session.
        lower_bound: whether ``step_bytes`` may be too low, as the loading's own peak hides part of it.
        loaded_bytes: the loaded session, above an interpreter that has imported the factory's module: weights, graph
            and the runtime's own libraries.
        process_bytes: the whole process at its peak while stepping.
        steps: how many were run.
        timeline: memory over time, some more steps included; ``None`` if not asked for, or where the system does not
            tell (macOS).
    """

    evidence: str
    method: str
    step_bytes: int
    lower_bound: bool
    loaded_bytes: int
    process_bytes: int
    steps: int
    timeline: MemoryTimeline | None = None


def peak_memory(
    factory: str,
    arguments: Mapping[str, Argument],
    *,
    steps: int = 3,
    timeout_s: float = 120.0,
    timeline: bool = False,
) -> MemoryPeak:
    """Run a workload in a child process and return its peak memory.

    Args:
        factory: ``"package.module:function"``; the function is called with ``arguments`` as keywords, loads the
            session, and returns a callable ``run(iteration: int) -> None``.
        arguments: plain values, as they travel as JSON.
        steps: calls of ``run``; the first one usually allocates most.
        timeout_s: when to give up.
        timeline: whether to watch the child meanwhile, and to run some more steps for that once the peak is known.

    Raises:
        ConfigurationError: if the child fails or is too slow; the text ends with the child's last line.
    """
    order = json.dumps(
        {"factory": factory, "arguments": dict(arguments), "steps": steps, "timeline": timeline}
    )
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path),
    }
    with subprocess.Popen(
        [sys.executable, "-m", "nagedge.profiling.memory"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    ) as process, watched(process.pid if timeline else None) as readings:  # fmt: skip
        try:
            output, errors = process.communicate(order, timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise ConfigurationError(
                f"memory of {factory!r}: the child process took more than {timeout_s:g} s for {steps} steps. "
                "Raise the limit or use a smaller batch."
            ) from None
        finally:
            process.kill()
    for line in output.splitlines():
        if line.startswith(_MARKER):
            found = json.loads(line.removeprefix(_MARKER))
            peak = MemoryPeak(**found["peak"])
            if not (timeline and found["marks"] and readings):
                return peak
            return replace(peak, timeline=assemble(readings, _marks(found["marks"]), evidence=EVIDENCE_HOST))
    last = (errors.strip().splitlines() or ["no message"])[-1]
    raise ConfigurationError(
        f"memory of {factory!r}: the child process ended with code {process.returncode} instead of a figure: {last}"
    )


def _marks(found: Sequence[Sequence[int]]) -> Marks:
    started, loaded, *steps = ((time_ns, size) for time_ns, size in found)
    return Marks(started, loaded, tuple(steps))


def _measure(order: str) -> tuple[MemoryPeak, list[Reading]]:
    """What the child does; ``order`` is the JSON of :func:`peak_memory`.

    Returns:
        The peak, and readings: before and after loading, before each step and after the last; fewer where the system
        does not tell.
    """
    request = json.loads(order)
    module, _, function = request["factory"].partition(":")
    load = getattr(importlib.import_module(module), function)
    _return_free_memory()
    bare = _resident_bytes()
    marks = [now_resident()]
    run: Callable[[int], None] = load(**request["arguments"])
    _return_free_memory()
    resettable = _reset_high_water()
    loaded = _resident_bytes()
    marks += [now_resident()] * 2  # loaded, and the beginning of the first step
    before = _high_water_bytes()
    for step in range(request["steps"]):
        run(step)
        marks.append(now_resident())
    after = _high_water_bytes()
    started = time.monotonic()
    for step in range(request["steps"], _WATCHED_STEPS if request.get("timeline") else 0):
        if time.monotonic() - started > _WATCHED_S:
            break
        run(step)
        marks.append(now_resident())
    if resettable:
        method = "VmHWM of /proc/self/status, reset through /proc/self/clear_refs after loading"
        step_bytes = after - loaded
    else:
        method = "growth of the process's high-water mark (ru_maxrss) over the steps"
        step_bytes = after - before
    peak = MemoryPeak(
        evidence=EVIDENCE_HOST,
        method=method,
        step_bytes=max(0, step_bytes),
        lower_bound=not resettable,
        loaded_bytes=max(0, loaded - bare),
        process_bytes=after,
        steps=request["steps"],
    )
    return peak, [mark for mark in marks if mark is not None]


def _status_bytes(field: str) -> int | None:
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _resident_bytes() -> int:
    """Resident memory now; its maximum so far where the system tells no more."""
    return _status_bytes("VmRSS") or _maximum_resident_bytes()


def _high_water_bytes() -> int:
    return _status_bytes("VmHWM") or _maximum_resident_bytes()


def _maximum_resident_bytes() -> int:
    try:
        import resource
    except ImportError:
        raise ConfigurationError(
            f"peak memory is not available on {sys.platform!r}; expected Linux or macOS. Profile without memory."
        ) from None
    maximum = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return maximum if sys.platform == "darwin" else maximum * 1024  # macOS counts bytes, Linux KiB


def _reset_high_water() -> bool:
    """Set VmHWM back to VmRSS (Linux, proc(5): writing 5 to clear_refs); whether that worked."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    high, now = _status_bytes("VmHWM"), _status_bytes("VmRSS")
    return high is not None and now is not None and high - now < 1 << 20


def _return_free_memory() -> None:
    """Give memory freed while loading back to the system, else the steps would reuse it unseen (glibc only)."""
    if sys.platform != "linux":
        return
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        return


def _main() -> None:
    peak, marks = _measure(sys.stdin.read())
    result = json.dumps({"peak": asdict(peak), "marks": marks})
    # The marker tells the figure from whatever the runtime prints.
    sys.stdout.write(f"\n{_MARKER}{result}\n")


if __name__ == "__main__":
    _main()
