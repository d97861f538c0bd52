"""Apple's iOS simulator, which Xcode brings: Core ML programs compiled and run there, by ``xcrun`` (macOS only).

A simulated iPhone has iOS's Core ML and this Mac's processor: what it computes is what an iPhone's CPU computes, how
long it takes is this Mac's. See ``xcrun simctl help`` and ``xcrun coremlcompiler help``.
"""

from __future__ import annotations

import json
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.errors import BundleError, RuntimeUnavailableError

__all__ = [
    "SimulatedRun",
    "Simulator",
    "build_runner",
    "compile_program",
    "find_simulator",
    "run_program",
    "simulators",
    "why_unavailable",
]

Array = npt.NDArray[Any]

_LEAST_IOS = "16.0"
_START_S, _BUILD_S = 600.0, 600.0
"""A simulated device may take minutes to start for the first time."""


@dataclass(frozen=True)
class Simulator:
    """A simulated device.

    Args:
        udid: its identifier. name: for people, such as ``"iPhone 16"``. system: such as ``"iOS 18.2"``.
        booted: whether it runs.
    """

    udid: str
    name: str
    system: str
    booted: bool


@dataclass(frozen=True)
class SimulatedRun:
    """What the runner said.

    Args:
        system: version of the simulated system. load_ms: opening the program.
        durations_ns: of each call. outputs: of the last one, by the program's names.
    """

    system: str
    load_ms: float
    durations_ns: tuple[int, ...]
    outputs: dict[str, Array]


def why_unavailable() -> str:
    """Return why there is no simulator here; empty when there may be one."""
    system = platform.system()
    if system != "Darwin":
        return f"it needs macOS with Xcode, this is {system}"
    if shutil.which("xcrun") is None:
        return "xcrun was not found; install Xcode"
    return ""


def simulators() -> tuple[Simulator, ...]:
    """Return the simulated iPhones and iPads, those that run first, then the newest system first.

    Raises:
        RuntimeUnavailableError: there is no simulator on this system, or Xcode is not set up.
    """
    reason = why_unavailable()
    if reason:
        raise RuntimeUnavailableError(f"the iOS simulator is not available: {reason}.")
    text = _xcrun(["simctl", "list", "devices", "available", "--json"])
    try:
        listed: Mapping[str, Sequence[Mapping[str, Any]]] = json.loads(text)["devices"]
        found = [
            Simulator(str(one["udid"]), str(one["name"]), _system(runtime), one["state"] == "Booted")
            for runtime, devices in listed.items()
            if ".iOS-" in runtime
            for one in devices
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise RuntimeUnavailableError(
            f"`xcrun simctl list devices --json` said what is not understood: {text[:200]!r}. Update Xcode."
        ) from None
    return tuple(
        sorted(found, key=lambda one: (not one.booted, *(-n for n in _version(one.system)), one.name))
    )


def _system(runtime: str) -> str:
    """``"com.apple.CoreSimulator.SimRuntime.iOS-18-2"`` -> ``"iOS 18.2"``."""
    name, *numbers = runtime.rsplit(".", 1)[-1].split("-")
    return f"{name} {'.'.join(numbers)}"


def _version(system: str) -> tuple[int, int]:
    numbers = [int(digits) for digits in re.findall(r"\d+", system)]
    return (*numbers, 0, 0)[0], (*numbers, 0, 0)[1]


def find_simulator(udid: str = "") -> Simulator:
    """Return a simulated device by its identifier, or one of Xcode's choosing: one that runs, else the newest.

    Raises:
        RuntimeUnavailableError: see :func:`simulators`; or there is none, or none of that identifier.
    """
    known = simulators()
    for one in known:
        if not udid or one.udid == udid:
            return one
    listed = ", ".join(f"{one.udid} ({one.name}, {one.system})" for one in known)
    raise RuntimeUnavailableError(
        f"no simulated device {udid!r}; there is {listed}."
        if udid and known
        else "Xcode has no simulated iPhone: add one with `xcodebuild -downloadPlatform iOS`."
    )


def compile_program(package: Path, folder: Path) -> Path:
    """Compile an ``.mlpackage`` as Xcode does, and return the ``.mlmodelc``.

    Raises:
        BundleError: Core ML's compiler refuses it.
        RuntimeUnavailableError: Xcode is not set up.
    """
    try:
        _xcrun(["coremlcompiler", "compile", str(package), str(folder)])
    except _FailedError as error:
        raise BundleError(
            f"Core ML's compiler refuses {str(package)!r}: {error.reason}. Export again, or update Xcode."
        ) from None
    compiled = folder / f"{package.stem}.mlmodelc"
    if not compiled.is_dir():
        raise BundleError(f"Core ML's compiler made no {compiled.name!r} of {str(package)!r}. Update Xcode.")
    return compiled


def build_runner(folder: Path) -> Path:
    """Compile the program that runs a compiled model in the simulator, and return it.

    Raises:
        RuntimeUnavailableError: it does not compile: Xcode is not set up.
    """
    source, program = folder / "coreml_runner.swift", folder / "coreml_runner"
    text = resources.files("nagedge.devices").joinpath(source.name).read_text(encoding="utf-8")
    source.write_text(text, encoding="utf-8")
    triple = f"{platform.machine()}-apple-ios{_LEAST_IOS}-simulator"
    command = ["--sdk", "iphonesimulator", "swiftc", "-O", "-target", triple, "-o", str(program), str(source)]
    _xcrun(command, timeout_s=_BUILD_S)
    return program


def run_program(
    device: Simulator,
    program: Path,
    compiled: Path,
    inputs: Mapping[str, Array],
    folder: Path,
    *,
    calls: int,
    least_calls: int,
    budget_s: float,
) -> SimulatedRun:
    """Start the device if need be, and run a compiled model in it.

    Args:
        device: where. program: of :func:`build_runner`. compiled: of :func:`compile_program`.
        inputs: float32 and int32 arrays by the program's names.
        folder: for the arrays; the simulated device sees this machine's files.
        calls: at most. least_calls: at least, even when ``budget_s`` seconds are over.
        budget_s: for all calls.

    Raises:
        BundleError: the runner fails: Core ML refuses the model or its inputs, or crashes.
        RuntimeUnavailableError: the device does not start.
    """
    features = []
    for number, (name, array) in enumerate(inputs.items()):
        file = f"input-{number}.bin"
        kind = "int32" if array.dtype.kind in "iub" else "float32"
        (folder / file).write_bytes(
            np.ascontiguousarray(array, f"<{'i4' if kind == 'int32' else 'f4'}").tobytes()
        )
        features.append({"name": name, "shape": list(array.shape), "type": kind, "file": file})
    request = {
        "model": str(compiled), "inputs": features, "calls": calls, "leastCalls": least_calls,
        "budgetSeconds": budget_s,
    }  # fmt: skip
    (folder / "request.json").write_text(json.dumps(request), encoding="utf-8")
    _xcrun(["simctl", "bootstatus", device.udid, "-b"], timeout_s=_START_S)
    try:
        spawned = ["simctl", "spawn", device.udid, str(program), str(folder / "request.json")]
        _xcrun(spawned, timeout_s=_START_S + 10 * budget_s)
        answer = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
    except (_FailedError, OSError, ValueError) as error:
        reason = error.reason if isinstance(error, _FailedError) else f"it left no answer ({error})"
        raise BundleError(
            f"Core ML in the iOS simulator ({device.name}, {device.system}) ended while it ran {compiled.name!r}: "
            f"{reason}. Export again, or choose another device."
        ) from None
    return SimulatedRun(
        system=str(answer["system"]),
        load_ms=float(answer["loadMilliseconds"]),
        durations_ns=tuple(int(value) for value in answer["durationsNanoseconds"]),
        outputs={str(one["name"]): _read(folder, one) for one in answer["outputs"]},
    )


def _read(folder: Path, feature: Mapping[str, Any]) -> Array:
    dtype = "<i4" if feature["type"] == "int32" else "<f4"
    values = np.frombuffer((folder / Path(feature["file"]).name).read_bytes(), dtype)
    return values.reshape([int(size) for size in feature["shape"]])


class _FailedError(RuntimeUnavailableError):
    """A program of Xcode's failed; ``reason`` is what it said."""

    reason = ""


def _failed(command: Sequence[str], reason: str) -> _FailedError:
    error = _FailedError(f"`xcrun {' '.join(command[:2])}` failed: {reason}. Open Xcode once, or update it.")
    error.reason = reason
    return error


def _xcrun(command: Sequence[str], *, timeout_s: float = 120.0) -> str:
    program = shutil.which("xcrun")
    if program is None:
        raise RuntimeUnavailableError("xcrun was not found: install Xcode.")
    try:
        done = subprocess.run(
            [program, *command], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
            timeout=timeout_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise _failed(command, f"it took more than {timeout_s:g} s") from None
    if done.returncode != 0:
        lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".splitlines() if line.strip()]
        telling = [line for line in lines if "error" in line.lower()] or lines[-1:]
        reason = (telling or [f"exit code {done.returncode}"])[0]
        raise _failed(command, reason[:300].rstrip("."))
    return done.stdout
