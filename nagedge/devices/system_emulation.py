"""One artifact run in a whole emulated machine, on several cores, with a virtual clock that is the same every time.

QEMU executes the cores in turns and lets its clock follow the instructions (``-icount shift=4,sleep=off``): 16 virtual
nanoseconds for each, whichever core executes it, and a leap to the next timer when all wait. What is reported are
*ticks*, the clock's nanoseconds over 16: what the cores do together, waiting for each other included. They are no time.
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy.typing as npt

from nagedge.devices.arm64_parts import PYTHON
from nagedge.devices.arm64_system import SystemInstallation
from nagedge.devices.cores import find_core
from nagedge.devices.initramfs import Archive
from nagedge.devices.system_init import MARKER
from nagedge.errors import BundleError, RuntimeUnavailableError
from nagedge.runtimes import runner

__all__ = ["NANOSECONDS_A_TICK", "SystemRun", "run_in_system"]

Arrays = Mapping[str, npt.NDArray[Any]]

_SHIFT = 4
NANOSECONDS_A_TICK = 1 << _SHIFT
"""Of the virtual clock, for one instruction."""

_MEMORY_MB = 1024


@dataclass(frozen=True)
class SystemRun:
    """What the emulated machine said.

    Args:
        runtime: name and version of what ran the artifact. call: what a call is. cores: of the machine.
        ticks: of each call, the first included.
        differences: of each output: its largest absolute difference from what was expected, and the largest
            expected value.
    """

    runtime: str
    call: str
    cores: int
    ticks: tuple[int, ...]
    differences: Mapping[str, tuple[float, float]]


def run_in_system(
    made: SystemInstallation,
    core: str,
    runtime: str,
    model: Path,
    inputs: Arrays,
    expected: Arrays,
    *,
    signature: str | None = None,
    threads: int = 2,
    calls: int = 8,
    timeout_s: float = 1800.0,
    progress: Callable[[float], None] = lambda share: None,
) -> SystemRun:
    """Start a machine with as many cores as threads, run an artifact in it, and switch it off.

    Args:
        made: the emulator. core: of :data:`nagedge.devices.cores.CORES`.
        runtime: what runs the artifact. model: its file. signature: of a ``.tflite``.
        inputs: arrays by name. expected: what one call computes from them here.
        threads: inside operators, >= 1. calls: how often, >= 1.
        timeout_s: when to give up. progress: called with the share done.

    Raises:
        BundleError: the runtime refuses the artifact, or the machine ends without an answer.
        RuntimeUnavailableError: the runtime has no packages for arm64.
        ConfigurationError: the core is unknown.
    """
    find_core(core)
    with tempfile.TemporaryDirectory(prefix="nagedge-system-") as name:
        folder = Path(name)
        _pack(folder / "initrd", made, runtime, model, inputs, expected, signature, threads, calls)
        progress(0.1)
        command = _command(made, core, folder / "initrd", threads)
        try:
            done = subprocess.run(
                command, capture_output=True, check=False, stdin=subprocess.DEVNULL, timeout=timeout_s
            )
        except subprocess.TimeoutExpired:
            raise BundleError(
                f"the emulated machine did not finish {model.name!r} within {timeout_s:g} s. Profile a smaller batch."
            ) from None
    lines = done.stdout.decode("utf-8", errors="replace").splitlines()
    return _read(lines, done.stderr.decode("utf-8", errors="replace"), f"{model.name!r} on {runtime}")


def _command(made: SystemInstallation, core: str, initrd: Path, threads: int) -> list[str]:
    """Everything that could differ between two starts is fixed: seeds, the clock, addresses, hashes."""
    words = (
        "console=ttyAMA0 quiet panic=-1 rdinit=/init nokaslr norandmaps random.trust_cpu=off PYTHONHASHSEED=0 "
        "PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8 ORT_DISABLE_TELEMETRY=1"
    )
    return [
        *made.emulator(), "-M", "virt,dtb-randomness=off", "-cpu", core, "-smp", str(threads), "-m", str(_MEMORY_MB),
        "-nographic", "-nic", "none", "-no-reboot", "-seed", "1", "-rtc", "base=2026-01-01T00:00:00,clock=vm",
        "-icount", f"shift={_SHIFT},sleep=off", "-kernel", str(made.kernel), "-initrd", str(initrd), "-append", words,
    ]  # fmt: skip


def _pack(
    target: Path,
    made: SystemInstallation,
    runtime: str,
    model: Path,
    inputs: Arrays,
    expected: Arrays,
    signature: str | None,
    threads: int,
    calls: int,
) -> None:
    packages = made.base.site(runtime)
    if len(packages) < 2:
        raise RuntimeUnavailableError(
            f"runtime {runtime!r} is not in the arm64 emulator. Profile it on the host."
        )
    opening = {
        "op": "open", "session": "s", "kind": runtime, "model": f"/work/{model.name}", "threads": threads,
        "signature": signature,
    }  # fmt: skip
    repeating = {
        "op": "repeat",
        "session": "s",
        "inputs": "inputs.npz",
        "outputs": "outputs.npz",
        "calls": calls,
    }
    init = resources.files("nagedge.devices").joinpath("system_init.py").read_bytes()
    with target.open("wb") as file:
        archive = Archive(file)
        archive.tree(made.base.folder / "system")
        archive.folders(("dev", "proc", "sys", "tmp", "site", "work"))
        for name, major, minor in (("console", 5, 1), ("null", 1, 3), ("urandom", 1, 9)):
            archive.device(f"dev/{name}", major, minor)
        for folder in packages:
            archive.tree(folder, "site")
        archive.file("init", b"#!/usr/bin/python%s\n" % PYTHON.encode() + init, executable=True)
        archive.file("work/runner.py", Path(runner.__file__).read_bytes())
        archive.file(f"work/{model.name}", model.read_bytes())
        archive.file("work/requests.jsonl", "\n".join(map(json.dumps, (opening, repeating))).encode())
        for name, arrays in (("inputs", inputs), ("expected", expected)):
            path = target.with_name(f"{name}.npz")
            runner.save_arrays(path, arrays)
            archive.file(f"work/{name}.npz", path.read_bytes())
        archive.end()


def _read(lines: list[str], errors: str, where: str) -> SystemRun:
    """Return what the console's lines say.

    Raises:
        BundleError: they hold no answer, or a refusal.
    """
    found = next((line.removeprefix(MARKER) for line in lines if line.startswith(MARKER)), None)
    if found is None:
        words = [line.strip() for line in [*lines, *errors.splitlines()] if line.strip()]
        last = f" Its last words: {words[-1][:300]}" if words else ""
        raise BundleError(f"the emulated machine ended without an answer while it ran {where}.{last}")
    answer = json.loads(found)
    if "refused" in answer or "error" in answer:
        reason = str(answer.get("refused") or answer["error"]).strip().splitlines()[0].rstrip(".")
        raise BundleError(f"the emulated machine refuses {where}: {reason[:300]}. Export again.")
    return SystemRun(
        runtime=str(answer["runtime"]), call=str(answer["timed"]), cores=int(answer["cores"]),
        ticks=tuple(round(int(value) / NANOSECONDS_A_TICK) for value in answer["durations_ns"]),
        differences={name: (float(pair[0]), float(pair[1])) for name, pair in answer["compared"].items()},
    )  # fmt: skip
