"""Programs of the emulated arm64 system: how one is started so that what it executes can be repeated exactly."""

from __future__ import annotations

import shutil
from pathlib import Path

from nagedge.devices.arm64 import Installation
from nagedge.devices.arm64_parts import PYTHON
from nagedge.devices.cores import find_core
from nagedge.errors import RuntimeUnavailableError

__all__ = ["RUNTIMES_OF", "guest_python"]

RUNTIMES_OF = ("onnxruntime", "litert", "tflite_runtime")
"""The runtimes that have aarch64 packages for Linux."""


def guest_python(
    made: Installation, runtime: str, core: str, *, counts: Path | None = None, memory: bool = False
) -> tuple[list[str], dict[str, str]]:
    """Return the command that starts the emulated Python with a runtime's packages, and its whole environment.

    Addresses, hashes and the environment are the same every time: a program that runs on one thread executes the same
    instructions in every process.

    Args:
        made: the emulator.
        runtime: one of ``onnxruntime``, ``litert``, ``tflite_runtime``.
        core: of :data:`nagedge.devices.cores.CORES`.
        counts: the file for the counts of marked regions; None counts nothing.
        memory: whether to count bytes and cache misses too, which takes several times as long.

    Raises:
        ConfigurationError: the core is unknown.
        RuntimeUnavailableError: the runtime has no packages for arm64.
    """
    find_core(core)
    packages = made.site(runtime)
    if len(packages) < 2:
        raise RuntimeUnavailableError(
            f"runtime {runtime!r} is not in the arm64 emulator: upstream ships no aarch64 wheel of it. Profile it "
            "on the "
            "host, or choose an onnxruntime, litert or tflite_runtime target."
        )
    root = made.root(core)
    # The same addresses every time; where the system forbids it, counts vary by some parts in a million.
    fixed = [shutil.which("setarch") or "", "-R"] if shutil.which("setarch") else []
    command = [*fixed, *made.emulator(), "-seed", "1", "-L", str(root), "-cpu", core]
    if counts is not None:
        command += ["-plugin", f"{made.plugin},out={counts}" + (",memory=on" if memory else "")]
    command += [str(root / "usr/bin" / f"python{PYTHON}")]
    variables = {
        "PATH": "/usr/bin", "HOME": "/", "LC_ALL": "C.UTF-8", "PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": ":".join(map(str, packages)), "PYTHONNOUSERSITE": "1", "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1",
    }  # fmt: skip
    return command, variables
