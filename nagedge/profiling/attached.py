"""Latency on a device that adb reaches: of the Android app, of its own Python, or of upstream's benchmark programs.

The calls are made in rounds, each in a new process; see :mod:`nagedge.profiling.rounds`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nagedge.devices import android_app
from nagedge.devices.pinning import Pinning, choose_cores
from nagedge.errors import RuntimeUnavailableError
from nagedge.profiling.artifacts import Artifact
from nagedge.profiling.device_run import DeviceRun
from nagedge.profiling.measure import EVIDENCE_DEVICE, Samples, summarise
from nagedge.profiling.on_app import app_rounds, app_runs
from nagedge.profiling.on_native import has_native, native_problem, native_program, native_rounds
from nagedge.profiling.on_python import has_python, python_rounds, python_runs
from nagedge.profiling.results import WorkloadProfile
from nagedge.profiling.rounds import Rounds, take_rounds

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.devices.names import Device

__all__ = ["measure_attached"]

_ROUNDS = 5
_FIGURE_ROUNDS = 12
"""Rounds of a program that prints one figure a process: an interval of the median needs six."""
_WARM_UP = 2
"""Calls at the beginning of each later round that do not count: its process is new."""

_TAKERS = {"app": app_rounds, "python": python_rounds, "native": native_rounds}


def measure_attached(
    bundle: Bundle,
    artifact: Artifact,
    device: Device,
    *,
    threads: int,
    budget_s: float,
    advance: Callable[[str, int], None],
) -> WorkloadProfile:
    """Measure an artifact on an attached device.

    Args:
        bundle: where it is. artifact: what is measured.
        device: of the kind ``"adb"``; says what runs it and on which cores.
        threads: inside operators. budget_s: for the timed calls.
        advance: called with the stage and the percent done.

    Raises:
        RuntimeUnavailableError: the device is gone before a round was complete, or has nothing that runs the artifact.
        BundleError: what runs there refuses the artifact.
    """
    serial = device.serial
    chosen = _chosen(bundle, artifact, device)
    pinning = choose_cores(serial, device.cores)
    advance("copying", 0)
    single = chosen == "native" and artifact.backend != "onnxruntime"  # prints one figure a process
    count = _FIGURE_ROUNDS if single else _ROUNDS
    take = _TAKERS[chosen](
        bundle, artifact, serial, threads=threads, budget_s=budget_s / count, pinning=pinning
    )
    found = take_rounds(
        serial, count, take,
        core=pinning.cores[0] if pinning.cores else 0,
        advance=lambda number: advance("timing", 10 + 90 * number // count),
    )  # fmt: skip
    first, *later = found.kept
    skipped = 0 if single else _WARM_UP
    kept = [*first.durations_ns, *(number for one in later for number in one.durations_ns[skipped:])]
    notes = [_counted(found), *dict.fromkeys(note for one in found.kept for note in one.notes)]
    if found.ended:
        notes.append(f"Ended early, the complete rounds are kept: {found.ended}")
    return WorkloadProfile(
        name=artifact.what, device=device.name, target=artifact.target, precision=artifact.precision,
        artifact=artifact.name, runtime=first.runtime, threads=threads, batch=artifact.batch,
        evidence=EVIDENCE_DEVICE, load_ms=first.load_ms,
        latency=summarise(Samples(tuple(kept), "budget", budget_s, None, 1.0), evidence=EVIDENCE_DEVICE),
        operators=None, memory=None, notes=tuple(notes),
        device_run=_run(native_program(artifact) if chosen == "native" else chosen, pinning, found),
    )  # fmt: skip


def _chosen(bundle: Bundle, artifact: Artifact, device: Device) -> str:
    """Return what runs an artifact: what the user named, else the app, else Python, else a benchmark program."""
    serial = device.serial
    lacking: dict[str, str] = {}
    for name in (device.runner,) if device.runner else _TAKERS:
        if name == "app":
            if not app_runs(bundle, artifact):
                lacking[name] = (
                    "the app runs the float32 files of one target that trains on ONNX Runtime only"
                )
            elif not android_app.is_installed(serial):
                lacking[name] = f"the app ({android_app.PACKAGE}) is not installed"
        elif name == "python":
            if not python_runs(artifact):
                lacking[name] = "its runtime takes arrays through files, which would be timed with it"
            elif not has_python(serial):
                lacking[name] = "the device has no python3"
        elif problem := native_problem(artifact):
            lacking[name] = problem
        elif not has_native(serial, artifact):
            lacking[name] = (
                f"{native_program(artifact)} is neither in the folder that NAGEDGE_DEVICE_PROGRAMS names nor in "
                "/data/local/tmp on the device"
            )
        if name not in lacking:
            return name
    raise RuntimeUnavailableError(
        f"{artifact.name!r} cannot be timed on device {serial!r}: {'; '.join(lacking.values())}."
    )


def _counted(found: Rounds) -> str:
    text = (
        f"{len(found.kept)} rounds in new processes count, {found.rounds_throttled} were dropped as the device was "
        "throttled"
    )
    return (
        f"{text} ({found.calls_throttled} calls: {found.why_throttled})."
        if found.why_throttled
        else f"{text}."
    )


def _run(program: str, pinning: Pinning, found: Rounds) -> DeviceRun:
    unpinned = any("cores could not be chosen" in note for one in found.kept for note in one.notes)
    return DeviceRun(
        program=program, machine=found.kept[0].machine,
        cores="any: they could not be chosen" if unpinned else pinning.text,
        rounds=len(found.kept), rounds_throttled=found.rounds_throttled, calls_throttled=found.calls_throttled,
        why_throttled=found.why_throttled, ended=found.ended, readings=found.readings,
    )  # fmt: skip
