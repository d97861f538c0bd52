"""Rounds of the Android app's own benchmark, which runs a bundle on the app's ONNX Runtime."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING

from nagedge.devices import android_app
from nagedge.errors import BundleError, DataError
from nagedge.profiling.artifacts import ROLE_OF
from nagedge.profiling.measure import EVIDENCE_DEVICE
from nagedge.profiling.results import Profile
from nagedge.profiling.rounds import Round

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.devices.pinning import Pinning
    from nagedge.profiling.artifacts import Artifact

__all__ = ["app_rounds", "app_runs"]

_MOST_CALLS = 2000
"""A round's calls: each is a number in the text that comes back."""

_GRACE_S = 120.0
"""Beyond twice the budget: a process is started, a session opened, and a slow call is made twice at least."""


def app_runs(bundle: Bundle, artifact: Artifact) -> bool:
    """Whether the app runs an artifact: the file of the target that it takes, or another with the same content."""
    target = android_app.app_target(bundle.manifest)
    files = bundle.manifest.files
    return (
        target is not None
        and artifact.name in files
        and files[_path(bundle, target, artifact)].sha256 == files[artifact.name].sha256
    )


def _path(bundle: Bundle, target: str, artifact: Artifact) -> str:
    """Return the file of a target that computes what an artifact computes."""
    return bundle.manifest.targets[target].artifacts[ROLE_OF[artifact.what]]


def app_rounds(
    bundle: Bundle, artifact: Artifact, serial: str, *, threads: int, budget_s: float, pinning: Pinning
) -> Callable[[int, Callable[[], None]], Round]:
    """Hand the bundle over and return what takes one round of ``budget_s`` seconds.

    Raises:
        RuntimeUnavailableError: the device is gone.
    """
    target = android_app.app_target(bundle.manifest)
    assert target is not None  # app_runs said so
    folder = android_app.hand_over(serial, bundle, target)
    extras: dict[str, str | int] = {
        "bundle": folder, "what": artifact.what, "batch": artifact.batch, "threads": threads, "runs": _MOST_CALLS,
        "budget_ms": max(1, round(1000 * budget_s)),
    }  # fmt: skip
    extras |= {"cores": pinning.mask} if pinning.cores else {}
    path = _path(bundle, target, artifact)

    def take(number: int, watch: Callable[[], None]) -> Round:
        del number
        measured = android_app.measure(
            serial,
            {**extras, "token": uuid.uuid4().hex},
            timeout_s=2 * budget_s + _GRACE_S,
            watch=watch,
        )
        return _round(measured, artifact.what, path, serial)

    return take


def _round(measured: android_app.Measured, what: str, path: str, serial: str) -> Round:
    try:
        found = Profile.from_json(measured.profile)
        workload = found.workload(what)
    except (DataError, KeyError) as error:
        raise BundleError(
            f"the app on device {serial!r} wrote no profile that this version reads ({error}). Install that of this "
            "version."
        ) from None
    if workload.evidence != EVIDENCE_DEVICE or workload.artifact != path:
        raise BundleError(
            f"the app on device {serial!r} measured {workload.artifact!r} ({workload.evidence}), expected "
            f"{path!r} ({EVIDENCE_DEVICE}). Install that of this version."
        )
    notes = list(workload.notes)
    if measured.hidden:
        notes.append("Another screen covered the app for a while: Android slows such a process down.")
    return Round(
        durations_ns=tuple(round(1e6 * sample) for sample in workload.latency.samples_ms),
        runtime=workload.runtime, load_ms=workload.load_ms,
        machine=f"{found.host.cpu_model}, {found.host.os_name}", notes=tuple(notes),
    )  # fmt: skip
