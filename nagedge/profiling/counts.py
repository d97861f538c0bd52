"""What an artifact executes on an emulated core, as a part of a profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nagedge.devices.arm64 import Installation
from nagedge.devices.counting import EVIDENCE_COUNT, count_calls
from nagedge.devices.emulator import RUNTIMES_OF
from nagedge.errors import RuntimeUnavailableError
from nagedge.profiling.artifacts import Artifact, feeds
from nagedge.profiling.parity import compare_outputs, host_outputs
from nagedge.profiling.results import CountProfile

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["count_artifact"]

_SHORT_CALL, _REGIONS_OF_SHORT = 5_000_000, 25
"""Instructions below which the memory allocator's turns show: calls differ by 1 %, the median of five by 0.15 %."""


def count_artifact(
    bundle: Bundle,
    artifact: Artifact,
    made: Installation,
    core: str,
    *,
    regions: int = 5,
    progress: Callable[[float], None] = lambda share: None,
) -> CountProfile:
    """Count what one call of an artifact executes on a core, and compare what it computes with this machine.

    A training step is run with the bundle's learning rate from the same state every time: it computes an update, and
    nothing drifts.

    Args:
        bundle: where the artifact is. artifact: what is run.
        made: the emulator. core: of :data:`nagedge.devices.cores.CORES`.
        regions: calls to count after the warm-up, at least; short calls are counted more often.
        progress: called with the share done.

    Raises:
        BundleError: the runtime refuses the artifact, or the emulator crashes.
        RuntimeUnavailableError: no runtime for arm64 runs such a file.
    """
    if artifact.backend not in RUNTIMES_OF:
        raise RuntimeUnavailableError(
            f"the emulator cannot run {artifact.name!r}: it has {', '.join(RUNTIMES_OF)}, and "
            f"{artifact.backend!r} has no "
            "aarch64 package."
        )
    training = bundle.manifest.training
    inputs = feeds(bundle, artifact.what, artifact.batch, lr=training.lr if training is not None else 0.0)
    expected = host_outputs(artifact, inputs)
    counted = count_calls(
        made, core, artifact.backend, artifact.file, inputs,
        signature=artifact.signature, regions=regions, progress=progress,
    )  # fmt: skip
    if counted.median.instructions < _SHORT_CALL and regions < _REGIONS_OF_SHORT:
        counted = count_calls(
            made, core, artifact.backend, artifact.file, inputs,
            signature=artifact.signature, regions=_REGIONS_OF_SHORT, progress=progress,
        )  # fmt: skip
    return CountProfile(
        name=artifact.what, device=f"emulated:{core}", target=artifact.target, precision=artifact.precision,
        artifact=artifact.name, runtime=counted.runtime, batch=artifact.batch, evidence=EVIDENCE_COUNT,
        call=counted.call, regions=counted.regions, median=counted.median, lowest=counted.lowest,
        highest=counted.highest, first=counted.first, empty=counted.empty, traffic=counted.traffic,
        parity=compare_outputs(counted.outputs, expected, rtol=artifact.rtol, atol=artifact.atol),
    )  # fmt: skip
