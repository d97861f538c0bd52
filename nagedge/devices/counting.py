"""Instructions, multiply-adds and bytes of one call of an artifact, counted in the arm64 emulator.

The runner marks each call; the plugin ``nagcount.c`` writes what was executed between two marks. What counting itself
adds, an empty region, is subtracted. Counts are exact for one thread; they say nothing of the time that a core needs.
"""

from __future__ import annotations

import json
import signal
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy.typing as npt

from nagedge.devices.arm64 import Installation
from nagedge.devices.emulator import guest_python
from nagedge.errors import BundleError
from nagedge.runtimes import runner

__all__ = ["EVIDENCE_COUNT", "Counted", "Instructions", "Traffic", "count_calls", "summarise_regions"]

EVIDENCE_COUNT = "emulated-count"
"""The evidence class of every figure here: counted in an emulated processor, exact, but no time."""

Arrays = Mapping[str, npt.NDArray[Any]]

_WARM_UP = 3
"""Calls before those that count, the first included: caches of the runtime fill, Python specialises its bytecode."""


@dataclass(frozen=True)
class Instructions:
    """Guest instructions of one call, in all and by class.

    Args:
        instructions: all of them; the classes below add up to it.
        integer, branch, load, store, vector_load, vector_store, scalar_fp, vector, multiply_add, dot, other: by class
        of
            the Arm Architecture Reference Manual, C4.1; ``multiply_add`` are FMLA, MLA, SMLAL, FMADD and their like,
            ``dot`` are SDOT, UDOT and SMMLA, ``vector`` is other SIMD, ``branch`` includes system instructions.
        multiply_adds: products that ``multiply_add`` and ``dot`` add up, lane by lane.
    """

    instructions: int
    integer: int
    branch: int
    load: int
    store: int
    vector_load: int
    vector_store: int
    scalar_fp: int
    vector: int
    multiply_add: int
    dot: int
    other: int
    multiply_adds: int


@dataclass(frozen=True)
class Traffic:
    """What one call reads and writes.

    Args:
        reads, writes: accesses. read_bytes, written_bytes: of all of them, from whatever cache or memory.
        level1_misses, level2_misses: lines of 64 bytes that a 32 KiB and then a 512 KiB data cache lacked, in a model
        of
            caches without prefetching.
    """

    reads: int
    writes: int
    read_bytes: int
    written_bytes: int
    level1_misses: int
    level2_misses: int


@dataclass(frozen=True)
class Counted:
    """What the emulator counted of one artifact.

    Args:
        runtime: name and version of what ran it. call: what a counted call is. regions: how many were counted after
        the warm-up.
        median: the region with the median number of instructions, less an empty region.
        lowest, highest: numbers of instructions of the regions.
        first: the first call, which allocates. empty: instructions of an empty region.
        traffic: bytes; None if not asked for.
        outputs: what the artifact computed, by name.
    """

    runtime: str
    call: str
    regions: int
    median: Instructions
    lowest: int
    highest: int
    first: Instructions
    empty: int
    traffic: Traffic | None
    outputs: Arrays


def count_calls(
    made: Installation,
    core: str,
    runtime: str,
    model: Path,
    inputs: Arrays,
    *,
    signature: str | None = None,
    regions: int = 5,
    traffic: bool = True,
    timeout_s: float = 3600.0,
    progress: Callable[[float], None] = lambda share: None,
) -> Counted:
    """Run an artifact in the emulator again and again on the same inputs, and count.

    Args:
        made: the emulator.
        core: of :data:`nagedge.devices.cores.CORES`.
        runtime: what runs the artifact. model: its file. signature: of a ``.tflite``.
        inputs: arrays by name; those that the artifact does not take are left out.
        regions: calls to count after the warm-up, >= 1.
        traffic: whether to count bytes too, which takes twice as long.
        timeout_s: when to give up.
        progress: called with the share done.

    Raises:
        BundleError: the runtime refuses the artifact, or the emulator crashes or takes too long.
        ConfigurationError, RuntimeUnavailableError: see :func:`nagedge.devices.emulator.guest_python`.
    """
    calls = _WARM_UP + regions
    runtime_version, call, lines, outputs = _run(
        made, core, runtime, model, inputs, signature, calls, traffic, timeout_s, progress
    )
    median, lowest, highest, first, empty = summarise_regions(lines, warm_up=_WARM_UP)
    memory = _traffic(lines) if traffic else None
    return Counted(
        runtime_version, call, regions, median, lowest, highest, first, empty, memory, outputs
    )  # fmt: skip


def summarise_regions(
    lines: Sequence[Mapping[str, int]], *, warm_up: int
) -> tuple[Instructions, int, int, Instructions, int]:
    """Return the median region, the lowest and highest count, the first region and the count of an empty one.

    Args:
        lines: what the plugin wrote, a table a region.
        warm_up: regions that do not count, the first included.
    """
    names = [field.name for field in fields(Instructions)]
    empties = [line for line in lines if line["label"] >= runner.FIRST_EMPTY_LABEL]
    empty = {name: statistics.median_low([line[name] for line in empties]) for name in names}
    calls = [line for line in lines if line["label"] < runner.FIRST_EMPTY_LABEL]
    net = [Instructions(**{name: max(0, line[name] - empty[name]) for name in names}) for line in calls]
    steady = sorted(net[warm_up:], key=lambda region: region.instructions)
    # One region, not the medians of each class: its classes add up.
    median = steady[(len(steady) - 1) // 2]
    return median, steady[0].instructions, steady[-1].instructions, net[0], empty["instructions"]


def _traffic(lines: Sequence[Mapping[str, int]]) -> Traffic:
    names = [field.name for field in fields(Traffic)]
    empties = [line for line in lines if line["label"] >= runner.FIRST_EMPTY_LABEL]
    calls = [line for line in lines if line["label"] < runner.FIRST_EMPTY_LABEL][_WARM_UP:]

    def median(name: str, of: Sequence[Mapping[str, int]]) -> int:
        return statistics.median_low([line[name] for line in of])

    return Traffic(**{name: max(0, median(name, calls) - median(name, empties)) for name in names})


def _run(
    made: Installation,
    core: str,
    runtime: str,
    model: Path,
    inputs: Arrays,
    signature: str | None,
    calls: int,
    memory: bool,
    timeout_s: float,
    progress: Callable[[float], None],
) -> tuple[str, str, list[dict[str, int]], Arrays]:
    """Return the runtime, what a call is, the plugin's lines and the outputs."""
    with tempfile.TemporaryDirectory(prefix="nagedge-count-") as name:
        folder = Path(name)
        counts = folder / "counts.jsonl"
        command, variables = guest_python(made, runtime, core, counts=counts, memory=memory)
        runner.save_arrays(folder / "inputs.npz", inputs)
        opening: dict[str, object] = {
            "op": "open", "session": "s", "kind": runtime, "model": str(model.resolve()), "threads": 1,
        }  # fmt: skip
        if signature is not None:
            opening["signature"] = signature
        repeating = {
            "op": "repeat", "session": "s", "inputs": "inputs.npz", "outputs": "outputs.npz", "calls": calls,
            "marks": True,
        }  # fmt: skip
        requests = "\n".join(json.dumps(request) for request in (opening, repeating))
        (folder / "requests.jsonl").write_text(requests, encoding="utf-8")
        files = ["--requests", "requests.jsonl", "--answers", "answers.jsonl", "--folder", "."]
        with (folder / "log.txt").open("wb") as log:
            process = subprocess.Popen(
                [*command, str(Path(runner.__file__).resolve()), *files],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables, cwd=folder,
            )  # fmt: skip
        try:
            _wait(process, counts, calls, timeout_s, progress)
        finally:
            process.kill()
            process.wait()
        where = f"{model.name!r} on {runtime} on an emulated {core}"
        answers = _lines(folder / "answers.jsonl")
        for answer in answers:
            if not answer["ok"]:
                text = next(
                    (line for line in str(answer["error"]).splitlines() if line.strip()), answer["type"]
                )
                raise BundleError(f"{runtime} refuses {where}: {text.strip().rstrip('.')}. Export again.")
        if len(answers) < 2:
            words = (folder / "log.txt").read_text("utf-8", errors="replace").strip().splitlines()
            raise BundleError(_end(process.returncode, where, words))
        return (
            answers[0]["runtime"],
            answers[1]["timed"],
            _lines(counts),
            runner.load_arrays(folder / "outputs.npz"),
        )


def _wait(
    process: subprocess.Popen[bytes],
    counts: Path,
    calls: int,
    timeout_s: float,
    progress: Callable[[float], None],
) -> None:
    started = time.monotonic()
    while time.monotonic() - started < timeout_s:
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            done = len(_lines(counts)) if counts.exists() else 0
            progress(min(1.0, done / (calls + runner.EMPTY_REGIONS)))
        else:
            return
    raise BundleError(
        f"the emulator did not finish within {timeout_s:g} s. Emulation is some hundred times slower than this "
        "machine: "
        "profile a smaller batch or model."
    )


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:  # a line that was being written when the process ended
            break
    return found


def _end(code: int, where: str, words: Sequence[str]) -> str:
    number = -code if code < 0 else code - 128
    try:
        how = f"was killed by {signal.Signals(number).name}"
    except ValueError:
        how = f"ended with exit code {code}"
    last = f" Its last words: {words[-1][:300]}" if words else ""
    return (
        f"the emulator {how} while it ran {where}.{last} What was measured before is kept; run `nagedge devices setup "
        "arm64` to check the emulator, or leave this artifact out with --target."
    )
