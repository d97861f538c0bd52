"""What there is to profile on, and what each can do: for ``nagedge devices ls``."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nagedge.devices import arm64, arm64_system
from nagedge.devices.adb import adb_program, attached, shell
from nagedge.devices.android_app import PACKAGE
from nagedge.devices.cores import CORES
from nagedge.devices.emulator import RUNTIMES_OF
from nagedge.devices.host import describe_host
from nagedge.devices.provisioning import PartState
from nagedge.devices.simulator import simulators, why_unavailable
from nagedge.errors import RuntimeUnavailableError

__all__ = ["Listed", "list_devices"]


@dataclass(frozen=True)
class Listed:
    """A device as it is listed.

    Args:
        name: what ``--device`` takes. description: what it is.
        evidence: the class of evidence of its figures. runtimes: that run on it.
        state: ``"ready"``, or why it is not.
    """

    name: str
    description: str
    evidence: str
    runtimes: str
    state: str


def list_devices() -> tuple[Listed, ...]:
    """Return the devices of this machine, those that are not ready with the reason."""
    host = describe_host()
    found = [
        Listed(
            "host", f"{host.cpu_model}, {host.architecture}", "measured-host: latency, memory, operators",
            "onnxruntime, litert, tflite_runtime", "ready",
        )
    ]  # fmt: skip
    found += [
        Listed(
            f"emulated:{core.name}",
            core.description + (", int8 dot products" if core.dot_products else ""),
            "emulated-count: instructions, bytes",
            ", ".join(RUNTIMES_OF),
            _emulator_state(arm64.states(), "arm64"),
        )
        for core in CORES.values()
    ]
    found.append(
        Listed(
            "emulated-system:CORE", "a machine of these cores, several threads", "emulated-count: ticks",
            ", ".join(RUNTIMES_OF), _emulator_state((*arm64.states(), *arm64_system.states()), "arm64-system"),
        )
    )  # fmt: skip
    found += _attached()
    found += _simulated()
    return tuple(found)


def _emulator_state(states: Sequence[PartState], name: str) -> str:
    if sys.platform != "linux":
        return f"not available on {sys.platform}: it is made of Debian's packages, on Linux"
    wrong = [state for state in states if state.problem]
    if not wrong:
        return "ready"
    if all(state.problem == "not made yet" for state in wrong):
        return f"not set up: nagedge devices setup {name}"
    return f"{wrong[0].name}: {wrong[0].problem}; repair it with nagedge devices setup {name}"


def _attached() -> list[Listed]:
    evidence, runtimes = "measured-device: latency", "those of the Android app or of its own Python 3"
    try:
        with _server_as_it_was():
            listed = [
                Listed(
                    f"adb:{one.serial}", one.model or "attached device", evidence,
                    _found_on(one.serial) if one.state == "device" else runtimes,
                    "ready" if one.state == "device" else one.state,
                )
                for one in attached()
            ]  # fmt: skip
    except RuntimeUnavailableError as error:
        return [Listed("adb:SERIAL", "attached device", evidence, runtimes, f"not available: {error}")]
    return listed or [Listed("adb:SERIAL", "attached device", evidence, runtimes, "none is attached")]


def _found_on(serial: str) -> str:
    """Return what can run a bundle on an attached device."""
    try:
        said = shell(
            serial, f"pm path {PACKAGE} 2>/dev/null; command -v python3; ls /data/local/tmp 2>/dev/null; true"
        )
    except RuntimeUnavailableError:
        return "it does not answer"
    words = {
        "package:": "the Android app (onnxruntime)", "/python3": "those of its own Python 3",
        "onnxruntime_perf_test": "onnxruntime_perf_test", "benchmark_model": "benchmark_model",
    }  # fmt: skip
    return ", ".join(text for word, text in words.items() if word in said) or "none was found"


@contextlib.contextmanager
def _server_as_it_was() -> Iterator[None]:
    """Stop adb's server afterwards if it is adb that started it meanwhile: listing leaves no process behind."""
    # A server that was named is somebody's, and may be of another machine.
    before = "ADB_SERVER_SOCKET" in os.environ or _server_answers()
    try:
        yield
    finally:
        if not before and _server_answers():
            subprocess.run([adb_program(), "kill-server"], capture_output=True, check=False, timeout=30)


def _server_answers() -> bool:
    try:
        port = int(os.environ.get("ANDROID_ADB_SERVER_PORT") or 5037)
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except (OSError, ValueError, OverflowError):
        return False


def _simulated() -> list[Listed]:
    evidence = "measured-host: latency on this Mac"
    try:
        devices = simulators()
    except RuntimeUnavailableError as error:
        return [
            Listed(
                "ios-simulator", "Core ML", evidence, "coreml", f"not available: {why_unavailable() or error}"
            )
        ]
    if not devices:
        return [Listed("ios-simulator", "Core ML", evidence, "coreml", "Xcode has no simulated iPhone")]
    return [
        Listed(
            f"ios-simulator:{one.udid}", f"{one.name}, {one.system}", evidence, "coreml",
            "ready" if one.booted else "ready, starts when it is used",
        )
        for one in devices
    ]  # fmt: skip
