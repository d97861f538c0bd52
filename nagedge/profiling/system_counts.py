"""What an artifact costs a whole emulated machine, as a part of a profile."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

from nagedge.devices.arm64_system import SystemInstallation
from nagedge.devices.counting import EVIDENCE_COUNT
from nagedge.devices.emulator import RUNTIMES_OF
from nagedge.devices.system_emulation import run_in_system
from nagedge.errors import RuntimeUnavailableError
from nagedge.profiling.artifacts import Artifact, feeds
from nagedge.profiling.parity import compare_differences, host_outputs
from nagedge.profiling.results import SystemProfile

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["count_in_system"]

_WARM_UP = 3


def count_in_system(
    bundle: Bundle,
    artifact: Artifact,
    made: SystemInstallation,
    core: str,
    *,
    threads: int,
    regions: int,
    progress: Callable[[float], None] = lambda share: None,
) -> SystemProfile:
    """Run an artifact in an emulated machine with as many cores as threads.

    See :mod:`nagedge.devices.system_emulation`.

    Args:
        bundle: where it is. artifact: what is run.
        made: the emulator. core: of :data:`nagedge.devices.cores.CORES`.
        threads: inside operators. regions: calls that count, after the warm-up.
        progress: called with the share done.

    Raises:
        BundleError: the runtime refuses the artifact, or the machine ends without an answer.
        RuntimeUnavailableError: no runtime for arm64 runs such a file.
    """
    if artifact.backend not in RUNTIMES_OF:
        raise RuntimeUnavailableError(
            f"the emulator cannot run {artifact.name!r}: {artifact.backend!r} has no aarch64 package."
        )
    training = bundle.manifest.training
    inputs = feeds(bundle, artifact.what, artifact.batch, lr=training.lr if training is not None else 0.0)
    run = run_in_system(
        made, core, artifact.backend, artifact.file, inputs, host_outputs(artifact, inputs),
        signature=artifact.signature, threads=threads, calls=_WARM_UP + regions, progress=progress,
    )  # fmt: skip
    steady = sorted(run.ticks[_WARM_UP:])
    return SystemProfile(
        name=artifact.what, device=f"emulated-system:{core}", target=artifact.target, precision=artifact.precision,
        artifact=artifact.name, runtime=run.runtime, threads=threads, batch=artifact.batch, evidence=EVIDENCE_COUNT,
        call=run.call, calls=len(steady), median_ticks=statistics.median_low(steady), lowest_ticks=steady[0],
        highest_ticks=steady[-1], first_ticks=run.ticks[0],
        parity=compare_differences(run.differences, rtol=artifact.rtol, atol=artifact.atol),
    )  # fmt: skip
