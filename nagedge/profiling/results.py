"""A profile as data: what ``nagedge profile --json`` writes, the reports show and a later version reads back."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from nagedge.devices.host import HostDescription
from nagedge.errors import DataError
from nagedge.profiling.measure import Distribution
from nagedge.profiling.memory import MemoryPeak
from nagedge.profiling.operators import OperatorTable

__all__ = ["SCHEMA_VERSION", "Profile", "Version", "WorkloadProfile", "profile_schema"]

SCHEMA_VERSION = 1
"""Of the profile's JSON; it rises when a field changes its meaning or goes away."""


@dataclass(frozen=True)
class Version:
    """One piece of software that took part: its name and version."""

    name: str
    version: str


@dataclass(frozen=True)
class WorkloadProfile:
    """What one artifact costs.

    Args:
        name: ``"infer"`` or ``"train"``: one prediction, or one training step.
        artifact: the file, relative to the bundle. runtime: what ran it. threads: inside operators.
        batch: examples a call.
        evidence: the class of evidence of all these figures, ``"measured-host"``.
        load_ms: opening the session, once.
        latency: of a call, in ms.
        operators: where a call's time goes, from a separate traced run; ``None`` if not traced.
        memory: peak of a step above the loaded session, from a separate process; ``None`` if not measured.
        notes: what a reader must know before using the figures, in plain sentences.
    """

    name: str
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


@dataclass(frozen=True)
class Profile:
    """What a bundle costs on a device, and the circumstances.

    Args:
        schema_version: :data:`SCHEMA_VERSION`.
        created: ISO 8601 time with its zone.
        bundle: the folder's name. target: the target's name. device: ``"host"``.
        host: the machine. versions: software that took part.
        workloads: one for each of what was asked for.
    """

    schema_version: int
    created: str
    bundle: str
    target: str
    device: str
    host: HostDescription
    versions: tuple[Version, ...]
    workloads: tuple[WorkloadProfile, ...]

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
