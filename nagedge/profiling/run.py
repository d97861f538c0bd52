"""A profile of a bundle on one or more devices: what each can tell, and what it could not."""

from __future__ import annotations

import datetime as dt
import math
import platform
from collections.abc import Callable, Sequence
from importlib import metadata

from nagedge.bundle import Bundle
from nagedge.devices import arm64_system
from nagedge.devices.arm64 import Installation, installed
from nagedge.devices.device_profiles import available_device_profiles, load_device_profile
from nagedge.devices.host import describe_host
from nagedge.devices.names import Device, parse_device
from nagedge.devices.simulator import find_simulator
from nagedge.errors import BundleError, ConfigurationError, RuntimeUnavailableError
from nagedge.profiling.artifacts import Artifact, artifacts_of
from nagedge.profiling.attached import measure_attached
from nagedge.profiling.counts import count_artifact
from nagedge.profiling.modelled import model_latency
from nagedge.profiling.results import (
    SCHEMA_VERSION,
    CountProfile,
    Failure,
    Profile,
    SystemProfile,
    Version,
    WorkloadProfile,
)
from nagedge.profiling.simulated import measure_simulated
from nagedge.profiling.system_counts import count_in_system
from nagedge.profiling.workloads import measure_artifact

__all__ = ["profile"]

Progress = Callable[[str, int, int], None]


def profile(
    bundle: Bundle,
    *,
    what: Sequence[str] = ("infer", "train"),
    device: str | Sequence[str] = "host",
    target: str | Sequence[str] | None = None,
    batch: int | None = None,
    threads: int = 1,
    budget_s: float = 3.0,
    regions: int = 5,
    models: Sequence[str] | None = None,
    progress: Progress | None = None,
) -> Profile:
    """Measure, count and model what a bundle's inference and training step cost.

    What one artifact or device cannot do stands in the profile's ``failures``, and the rest is kept. An error is raised
    when nothing at all was found.

    Args:
        bundle: what to profile.
        what: ``"infer"``, ``"train"`` or both.
        device: one or more of ``"host"`` (times on this machine), ``"emulated:CORE"`` (instructions, see
            :data:`nagedge.devices.cores.CORES`), ``"emulated-system:CORE"`` (ticks, on several threads),
            ``"adb:SERIAL"`` (times on an attached device; after the serial may come what runs there and on which cores,
            such as ``"adb:SERIAL/app/big"``, see :mod:`nagedge.devices.names`) and ``"ios-simulator"`` (Core ML
            programs in Xcode's simulator, on macOS).
        target: whose artifacts, one or more; None takes every target, and an artifact that two targets share once.
        batch: examples a call; None takes 1 for inference and 16 for training, or the bundle's fixed batch.
        threads: inside operators, >= 1; an emulated core always has one.
        budget_s: seconds to spend on the timed calls of each, > 0.
        regions: calls to count on an emulated core after the warm-up, >= 5.
        models: names or files of device profiles to model latencies of, from the counts of their core; None takes all
            that come with NagEdge, and none without emulated cores.
        progress: called with a description, the steps done and the steps in all.

    Raises:
        ConfigurationError: an argument is unknown or out of range, or the bundle lacks the artifact.
        RuntimeUnavailableError: a device that was named cannot be had; or nothing could be profiled.
        BundleError: nothing could be profiled, because the artifacts are refused.
    """
    _check_numbers(threads, batch, regions, budget_s)
    devices = [parse_device(name) for name in ([device] if isinstance(device, str) else device)]
    if not devices:
        raise ConfigurationError(
            "no device was named; expected host, emulated:CORE, adb:SERIAL or ios-simulator."
        )
    targets = [target] if isinstance(target, str) else target
    artifacts = artifacts_of(bundle, targets, what, batch)
    data_sheets = [load_device_profile(name) for name in (models or available_device_profiles())]
    made = installed() if any(one.kind == "emulated" for one in devices) else None
    system = arm64_system.installed() if any(one.kind == "emulated-system" for one in devices) else None
    simulated = {one: find_simulator(one.detail) for one in devices if one.kind == "ios-simulator"}
    host = describe_host()  # before the work, which would raise the load average
    report = progress or (lambda description, completed, total: None)
    pairs = [(one, artifact) for one in dict.fromkeys(devices) for artifact in artifacts]
    workloads: list[WorkloadProfile] = []
    counts: list[CountProfile] = []
    systems: list[SystemProfile] = []
    failures: list[Failure] = []
    errors: list[BundleError | RuntimeUnavailableError] = []
    for index, (one, artifact) in enumerate(pairs):

        def advance(
            stage: str, percent: int, index: int = index, one: Device = one, what: str = artifact.what
        ) -> None:
            where = "" if one.kind == "host" else f" on {one.name}"
            report(f"{what}{where}: {stage}", 100 * index + percent, 100 * len(pairs))

        try:
            if one.kind == "host":
                workloads.append(
                    measure_artifact(
                        bundle, artifact, threads=threads, budget_s=budget_s, host=host, advance=advance
                    )
                )
            elif one.kind == "adb":
                workloads.append(
                    measure_attached(
                        bundle, artifact, one, threads=threads, budget_s=budget_s, advance=advance
                    )
                )
            elif one.kind == "ios-simulator":
                workloads.append(
                    measure_simulated(bundle, artifact, simulated[one], budget_s=budget_s, advance=advance)
                )
            elif system is not None and one.kind == "emulated-system":
                advance("counting", 0)
                systems.append(
                    count_in_system(bundle, artifact, system, one.detail, threads=threads, regions=regions)
                )
            else:
                counts.append(_count(bundle, artifact, made, one, regions, advance))
        except (BundleError, RuntimeUnavailableError) as error:
            errors.append(error)
            failures.append(Failure(artifact.what, one.name, artifact.target, str(error)))
    report("profiled", 100 * len(pairs), 100 * len(pairs))
    if not (workloads or counts or systems):
        raise type(errors[0])(f"nothing could be profiled. {errors[0]}")
    modelled = [
        model_latency(
            count.median,
            count.traffic,
            sheet,
            name=count.name,
            target=count.target,
            precision=count.precision,
        )
        for count in counts
        for sheet in data_sheets
        if count.traffic is not None and count.device == f"emulated:{sheet.core}"
    ]
    return Profile(
        schema_version=SCHEMA_VERSION,
        created=dt.datetime.now().astimezone().isoformat(timespec="seconds"),
        bundle=bundle.path.name,
        devices=tuple(dict.fromkeys(one.name for one in devices)),
        host=host,
        versions=_versions(made),
        workloads=tuple(workloads),
        counts=tuple(counts),
        modelled=tuple(sorted(modelled, key=lambda one: (one.name, one.target, one.profile))),
        failures=tuple(failures),
        systems=tuple(systems),
    )


def _check_numbers(threads: int, batch: int | None, regions: int, budget_s: float) -> None:
    for name, value in (("threads", threads), ("batch", 1 if batch is None else batch)):
        if value < 1:
            raise ConfigurationError(f"{name} is {value}, expected a number >= 1.")
    if regions < 5:
        raise ConfigurationError(
            f"regions is {regions}, expected a number >= 5: a median of fewer says little."
        )
    if not (math.isfinite(budget_s) and budget_s > 0):
        raise ConfigurationError(f"budget_s is {budget_s}, expected seconds > 0.")


def _count(
    bundle: Bundle,
    artifact: Artifact,
    made: Installation | None,
    device: Device,
    regions: int,
    advance: Callable[[str, int], None],
) -> CountProfile:
    assert made is not None  # it was asked for when an emulated device was named
    return count_artifact(
        bundle, artifact, made, device.detail,
        regions=regions, progress=lambda share: advance("counting", int(100 * share)),
    )  # fmt: skip


def _versions(made: Installation | None) -> tuple[Version, ...]:
    found = {"nagedge": metadata.version("nagedge"), "python": platform.python_version()}
    found |= {name: metadata.version(name) for name in ("numpy", "onnxruntime")}
    found |= {f"arm64 {name}": version for name, version in (made.versions().items() if made else ())}
    return tuple(Version(name, version) for name, version in found.items())
