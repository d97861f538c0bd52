"""Core ML programs in the iOS simulator: whether they compute what they say there, and how long this Mac takes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nagedge.devices.simulator import Simulator, build_runner, compile_program, run_program
from nagedge.errors import RuntimeUnavailableError
from nagedge.profiling.artifacts import Artifact, feeds
from nagedge.profiling.measure import EVIDENCE_HOST, Samples, summarise
from nagedge.profiling.parity import Parity, compare_outputs
from nagedge.profiling.results import WorkloadProfile
from nagedge.runtimes.ml_program_features import features

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["measure_simulated"]

_MOST_CALLS, _LEAST_CALLS = 10_000, 10


def measure_simulated(
    bundle: Bundle,
    artifact: Artifact,
    device: Simulator,
    *,
    budget_s: float,
    advance: Callable[[str, int], None],
) -> WorkloadProfile:
    """Run a Core ML program in a simulated device.

    The evidence is ``measured-host``: the simulator runs on this Mac's processor.

    Args:
        bundle: where it is. artifact: what is measured. device: where.
        budget_s: for the timed calls.
        advance: called with the stage and the percent done.

    Raises:
        RuntimeUnavailableError: it is no Core ML program, or Xcode is not set up.
        BundleError: Core ML refuses it.
    """
    if artifact.backend != "coreml":
        raise RuntimeUnavailableError(
            f"{artifact.name!r} is not run in the iOS simulator: it takes Core ML programs, and this one is of "
            f"{artifact.backend!r}. Profile it on the host."
        )
    from nagedge.runtimes.mil_program import load_program  # loads torch

    advance("compiling", 0)
    program = load_program(artifact.file)
    given = features(feeds(bundle, artifact.what, artifact.batch), program.names)
    inputs = {name: given[name] for name in program.inputs if name in given}
    with tempfile.TemporaryDirectory(prefix="nagedge-ios-") as name:
        folder = Path(name).resolve()  # the simulator is given paths of this machine
        compiled = compile_program(artifact.file, folder)
        runner = build_runner(folder)
        advance("timing", 20)
        run = run_program(
            device,
            runner,
            compiled,
            inputs,
            folder,
            calls=_MOST_CALLS,
            least_calls=_LEAST_CALLS,
            budget_s=budget_s,
        )
    advance("comparing", 90)
    parity = compare_outputs(run.outputs, program.run(inputs), rtol=artifact.rtol, atol=artifact.atol)
    latency = summarise(Samples(run.durations_ns, "budget", budget_s, None, 1.0))
    return WorkloadProfile(
        name=artifact.what, device=f"ios-simulator:{device.udid}", target=artifact.target,
        precision=artifact.precision, artifact=artifact.name, runtime=f"Core ML, {device.system}", threads=1,
        batch=artifact.batch, evidence=EVIDENCE_HOST, load_ms=run.load_ms, latency=latency, operators=None,
        memory=None, notes=_notes(device, run.system, parity),
    )  # fmt: skip


def _notes(device: Simulator, system: str, parity: Parity) -> tuple[str, ...]:
    agrees = (
        f"It computes what the program says, evaluated operator by operator ({parity.tensors} tensors, at most "
        f"{parity.excess or 0:.2g} of what is allowed)."
        if parity.within_tolerance
        else f"It does NOT compute what the program says: {parity.worst} is out of tolerance."
    )
    return (
        f"A simulated {device.name} ({system}), which computes on this Mac's CPU: no iPhone took these times.",
        "Core ML chooses the number of threads itself.",
        agrees,
    )
