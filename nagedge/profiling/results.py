"""A profile as data: what ``nagedge profile --json`` writes, the reports show and a later version reads back.

Every group of figures names its class of evidence: ``measured-host`` and ``measured-device`` are times,
``emulated-count`` are exact counts and no time, ``modelled`` is computed from counts and a device's data sheet.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from nagedge.devices.counting import Instructions, Traffic
from nagedge.devices.host import HostDescription
from nagedge.errors import DataError
from nagedge.profiling.device_run import DeviceRun
from nagedge.profiling.measure import Distribution
from nagedge.profiling.memory import MemoryPeak
from nagedge.profiling.modelled import ModelledLatency
from nagedge.profiling.operators import OperatorTable
from nagedge.profiling.parity import Parity

__all__ = [
    "SCHEMA_VERSION",
    "CountProfile",
    "Failure",
    "Profile",
    "SystemProfile",
    "Version",
    "WorkloadProfile",
    "profile_schema",
]

SCHEMA_VERSION = 2
"""Of the profile's JSON; it rises when a field changes its meaning or goes away."""


@dataclass(frozen=True)
class Version:
    """One piece of software that took part: its name and version."""

    name: str
    version: str


@dataclass(frozen=True)
class WorkloadProfile:
    """What one artifact takes on a device that has a clock worth reading.

    Args:
        name: ``"infer"`` or ``"train"``: one prediction, or one training step.
        device: ``"host"``, ``"adb:SERIAL"``, or ``"android"``: the app measured itself.
        target: of the bundle. precision: of the target.
        artifact: the file, relative to the bundle. runtime: what ran it. threads: inside operators.
        batch: examples a call.
        evidence: the class of evidence of all these figures, ``"measured-host"`` or ``"measured-device"``.
        load_ms: opening the session, once.
        latency: of a call, in ms.
        operators: where a call's time goes, from a separate traced run; ``None`` if not traced.
        memory: peak of a step above the loaded session, from a separate process; ``None`` if not measured.
        notes: what a reader must know before using the figures, in plain sentences.
        device_run: what ran it on an attached device, on which cores, how hot; ``None`` elsewhere.
    """

    name: str
    device: str
    target: str
    precision: str
    artifact: str
    runtime: str
    threads: int
    batch: int
    evidence: str
    load_ms: float
    latency: Distribution
    operators: OperatorTable | None
    memory: MemoryPeak | None
    notes: tuple[str, ...]
    device_run: DeviceRun | None = None


@dataclass(frozen=True)
class CountProfile:
    """What one artifact executes on an emulated core, on one thread.

    Args:
        name, device, target, precision, artifact, runtime, batch: as in :class:`WorkloadProfile`; ``device`` is
            ``"emulated:CORE"``.
        evidence: ``"emulated-count"``.
        call: what a counted call is. regions: calls counted after the warm-up.
        median: the call with the median number of instructions, less an empty region.
        lowest, highest: numbers of instructions of the calls. first: the first call, which allocates.
        empty: instructions of an empty region.
        traffic: bytes and cache misses of a call.
        parity: whether it computes what this machine computes with the same runtime.
    """

    name: str
    device: str
    target: str
    precision: str
    artifact: str
    runtime: str
    batch: int
    evidence: str
    call: str
    regions: int
    median: Instructions
    lowest: int
    highest: int
    first: Instructions
    empty: int
    traffic: Traffic | None
    parity: Parity


@dataclass(frozen=True)
class SystemProfile:
    """What one artifact costs a whole emulated machine, on several threads.

    Args:
        name, device, target, precision, artifact, runtime, threads, batch: as in :class:`WorkloadProfile`; ``device``
            is ``"emulated-system:CORE"``, with as many cores as threads.
        evidence: ``"emulated-count"``.
        call: what a counted call is. calls: that were counted after the warm-up.
        median_ticks, lowest_ticks, highest_ticks, first_ticks: of QEMU's virtual clock, one for each instruction that
            any core executes, the kernel's included, and as many as pass while all wait. No time.
        parity: whether it computes what this machine computes with the same runtime.
    """

    name: str
    device: str
    target: str
    precision: str
    artifact: str
    runtime: str
    threads: int
    batch: int
    evidence: str
    call: str
    calls: int
    median_ticks: int
    lowest_ticks: int
    highest_ticks: int
    first_ticks: int
    parity: Parity


@dataclass(frozen=True)
class Failure:
    """What was asked for and could not be had.

    Args:
        name, device, target: of the artifact. reason: why, in plain words.
    """

    name: str
    device: str
    target: str
    reason: str


@dataclass(frozen=True)
class Profile:
    """What a bundle costs on devices, and the circumstances.

    Args:
        schema_version: :data:`SCHEMA_VERSION`.
        created: ISO 8601 time with its zone.
        bundle: the folder's name. devices: what was asked for.
        host: the machine. versions: software that took part.
        workloads: times, one for each artifact and device that measures.
        counts: instructions, one for each artifact and emulated core.
        modelled: latencies computed from the counts.
        failures: what could not be had; the rest is kept.
        systems: ticks of whole emulated machines.
    """

    schema_version: int
    created: str
    bundle: str
    devices: tuple[str, ...]
    host: HostDescription
    versions: tuple[Version, ...]
    workloads: tuple[WorkloadProfile, ...]
    counts: tuple[CountProfile, ...] = ()
    modelled: tuple[ModelledLatency, ...] = ()
    failures: tuple[Failure, ...] = ()
    systems: tuple[SystemProfile, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets that there are figures of, in the order of the figures."""
        found = [workload.target for workload in self.workloads] + [count.target for count in self.counts]
        found += [system.target for system in self.systems]
        return tuple(dict.fromkeys(found))

    def workload(self, name: str) -> WorkloadProfile:
        """The workload of this name; KeyError when it was not profiled."""
        for found in self.workloads:
            if found.name == name:
                return found
        raise KeyError(name)

    def to_json(self) -> str:
        """The profile as JSON text, as :func:`profile_schema` describes it."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Profile:
        """Read what :meth:`to_json` wrote.

        Raises:
            DataError: for text that is no profile, or one of another schema version.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            version = json.loads(text)["schema_version"]
        except (ValueError, KeyError, TypeError):
            version = None
        if version != SCHEMA_VERSION:
            raise DataError(
                f"profile: schema_version is {version!r}, expected {SCHEMA_VERSION}. "
                "Give the file that 'nagedge profile --json' wrote, or profile again with this version."
            )
        try:
            return TypeAdapter(cls).validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"profile: field {place!r}: {first['msg']}. Give the file that 'nagedge profile --json' wrote."
            ) from None


def profile_schema() -> dict[str, object]:
    """The JSON Schema of a profile."""
    from pydantic import TypeAdapter

    return TypeAdapter(Profile).json_schema()
