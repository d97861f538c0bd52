"""What an artifact executes on an emulated core, as a part of a profile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from nagedge.devices.arm64 import Installation
from nagedge.devices.counting import EVIDENCE_COUNT, Counted, count_calls
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
        progress: called with the share done, which never falls.

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
    shown = 0.0

    def advance(share: float) -> None:
        nonlocal shown
        shown = max(shown, share)  # counting again does not take back what was shown
        progress(shown)

    def counted(regions: int) -> Counted:
        return count_calls(
            made, core, artifact.backend, artifact.file, inputs,
            signature=artifact.signature, regions=regions, progress=advance,
        )  # fmt: skip

    found = counted(regions)
    if found.median.instructions < _SHORT_CALL and regions < _REGIONS_OF_SHORT:
        found = counted(_REGIONS_OF_SHORT)
    return CountProfile(
        name=artifact.what, device=f"emulated:{core}", target=artifact.target, precision=artifact.precision,
        artifact=artifact.name, runtime=found.runtime, batch=artifact.batch, evidence=EVIDENCE_COUNT,
        call=found.call, regions=found.regions, median=found.median, lowest=found.lowest,
        highest=found.highest, first=found.first, empty=found.empty, traffic=found.traffic,
        parity=compare_outputs(found.outputs, expected, rtol=artifact.rtol, atol=artifact.atol),
    )  # fmt: skip
