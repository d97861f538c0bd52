"""What this machine measures of an artifact: latency, memory and time by operator, each from a run of its own."""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from nagedge.bundle import Bundle
from nagedge.devices.host import HostDescription
from nagedge.errors import ConfigurationError, RuntimeUnavailableError
from nagedge.profiling.artifacts import Artifact, feeds
from nagedge.profiling.measure import EVIDENCE_HOST, Distribution, Samples, measure, summarise
from nagedge.profiling.memory import Argument, MemoryPeak, peak_memory
from nagedge.profiling.operators import OperatorTable, read_trace
from nagedge.profiling.parity import run_on_host
from nagedge.profiling.results import WorkloadProfile
from nagedge.runtimes import available_runtime, open_inference, open_training
from nagedge.runtimes.batches import random_batch
from nagedge.runtimes.onnxruntime import load_session

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from nagedge.manifest import TargetEntry

__all__ = ["load_workload", "measure_artifact", "notes_on"]

_TRACED_STEPS, _SKIPPED_STEPS, _TRACE_S = 20, 5, 2.0
_MOST_CALLS = 10_000
_LOADED, _TIMED, _TRACED = 5, 70, 80
"""Progress of one workload in percent, after each stage; memory is the rest."""


def measure_artifact(
    bundle: Bundle,
    artifact: Artifact,
    *,
    threads: int,
    budget_s: float,
    host: HostDescription,
    advance: Callable[[str, int], None],
) -> WorkloadProfile:
    """Measure an artifact on this machine.

    Args:
        bundle: where it is. artifact: what is measured.
        threads: inside operators. budget_s: for the timed calls.
        host: the machine, for the notes.
        advance: called with the stage and the percent done.

    Raises:
        RuntimeUnavailableError: no runtime here times such a file.
        BundleError: the runtime refuses the file.
    """
    advance("loading", 0)
    memory: MemoryPeak | None = None
    operators: OperatorTable | None = None
    failure: tuple[str, ...] = ()
    order: dict[str, Argument] = {
        "bundle": str(bundle.path), "target": artifact.target, "what": artifact.what, "batch": artifact.batch,
        "threads": threads,
    }  # fmt: skip
    if artifact.backend == "onnxruntime" or (artifact.backend == "coreml" and platform.system() == "Darwin"):
        started = time.perf_counter()
        run = _loaded(bundle, artifact.target, artifact.what, artifact.batch, threads)
        load_ms = (time.perf_counter() - started) * 1e3
        timed = measure(
            run,
            budget_s=budget_s,
            progress=lambda share: advance("timing", _LOADED + int(share * (_TIMED - _LOADED))),
        )
        runtime = available_runtime(artifact.backend)
        if artifact.backend == "onnxruntime":
            advance("time by operator", _TIMED)
            operators = _operators(feeds(bundle, artifact.what, artifact.batch), artifact.file, threads)
        else:
            failure = ("Timed is a prediction through coremltools, on the CPU, with what it converts.",)
    elif artifact.backend in ("litert", "tflite_runtime"):
        advance("timing", _LOADED)
        inputs = feeds(bundle, artifact.what, artifact.batch)
        found = run_on_host(artifact, inputs, threads=threads, calls=_MOST_CALLS, budget_s=budget_s)
        resolution = time.get_clock_info("perf_counter").resolution * 1e9
        timed = Samples(found.durations_ns, "budget", budget_s, None, resolution)
        load_ms, runtime = found.load_ms, found.runtime
        failure = (
            f"Timed is {found.call}, in a process of its own. This runtime tells no time by operator.",
        )
    else:
        raise RuntimeUnavailableError(
            f"{artifact.name!r} is not timed on the host: "
            + (
                "Core ML runs on Apple's systems only, and what evaluates its programs elsewhere is no runtime."
                if artifact.backend == "coreml"
                else f"runtime {artifact.backend!r} takes its arrays through files, which would be timed with it."
            )
        )
    latency = summarise(timed)
    advance("memory", _TRACED)
    if artifact.backend == "tflite_runtime":
        failure = (*failure, "Peak memory was not measured: the runtime lives in an environment of its own.")
    else:
        memory, more = _memory(order)
        failure = (*failure, *more)
        if memory is not None and artifact.what == "train":
            entry = bundle.manifest.targets[artifact.target]
            failure = (*failure, *_beside_the_plan(memory, entry, artifact.batch, threads))
    return WorkloadProfile(
        name=artifact.what, device="host", target=artifact.target, precision=artifact.precision,
        artifact=artifact.name, runtime=runtime, threads=threads, batch=artifact.batch, evidence=EVIDENCE_HOST,
        load_ms=load_ms, latency=latency, operators=operators, memory=memory,
        notes=(*notes_on(latency, host, threads), *failure),
    )  # fmt: skip


def load_workload(
    bundle: str, target: str | None, what: str, batch: int, threads: int
) -> Callable[[int], None]:
    """Return a call that runs one prediction or one training step of the bundle at path ``bundle``.

    The arguments are plain values, so that a child process can be told them.
    """
    return _loaded(Bundle.load(bundle), target, what, batch, threads)


def _loaded(bundle: Bundle, target: str | None, what: str, batch: int, threads: int) -> Callable[[int], None]:
    inputs, targets = random_batch(bundle.manifest, batch, np.random.default_rng(0))
    if what == "infer":
        inference = open_inference(bundle, target, threads=threads)

        def predict(iteration: int) -> None:
            del iteration
            inference.predict(inputs)

        return predict
    training = open_training(bundle, target, threads=threads)

    def step(iteration: int) -> None:
        # lr 0: the same numbers every time, so that no drift of the weights (denormals, saturation) is measured.
        del iteration
        training.step(inputs, targets, lr=0.0, momentum=0.9, weight_decay=0.0)

    return step


def _memory(arguments: dict[str, Argument]) -> tuple[MemoryPeak | None, tuple[str, ...]]:
    """Measure in a child process; what goes wrong there must not lose the figures taken so far."""
    try:
        return peak_memory("nagedge.profiling.workloads:load_workload", arguments, timeline=True), ()
    except ConfigurationError as error:
        return None, (f"Peak memory was not measured: {error}",)


def _beside_the_plan(memory: MemoryPeak, entry: TargetEntry, batch: int, threads: int) -> tuple[str, ...]:
    """Return what the bundle planned for such a step, as a sentence; nothing where it planned for another one."""
    if entry.planned_step_bytes is None or entry.planned_rows != batch or threads != 1:
        return ()
    planned, measured = entry.planned_step_bytes / 2**20, memory.step_bytes / 2**20
    return (
        f"The bundle plans {planned:.1f} MiB above the loaded session; {measured:.1f} MiB were measured.",
    )


def notes_on(latency: Distribution, host: HostDescription, threads: int) -> tuple[str, ...]:
    """Return what a reader must know before using the figures, in plain sentences."""
    notes = []
    if not latency.steady_reached:
        notes.append(
            "The durations had not settled when the time was up: the figures describe their second half. "
            "Profile with a larger budget."
        )
    if latency.drift.detected:
        direction = "slower" if latency.drift.relative_change > 0 else "faster"
        notes.append(
            f"Calls became {abs(latency.drift.relative_change):.0%} {direction} over the steady state: heat, a clock "
            "governor or other programs."
        )
    if latency.modes.bimodal:
        notes.append(
            f"The durations form two groups, around {latency.modes.low:.3g} ms and {latency.modes.high:.3g} ms "
            f"({latency.modes.share_high:.0%} in the slower): a single figure describes neither."
        )
    if host.load_average is not None and host.load_average + threads > host.usable_cores + 0.5:
        notes.append(
            f"The load average was {host.load_average:g} on {host.usable_cores} usable cores before the measurement: "
            "other programs may have slowed it down."
        )
    if threads > host.usable_cores:
        notes.append(f"{threads} threads share {host.usable_cores} usable cores.")
    if host.governor in ("powersave", "ondemand", "conservative"):
        notes.append(f"The clock governor is {host.governor!r}: the clock follows the load.")
    return tuple(notes)


def _operators(inputs: Mapping[str, npt.NDArray[np.generic]], file: Path, threads: int) -> OperatorTable:
    """Trace some steps in a session of its own: ONNX Runtime's profiler slows what it watches."""
    with tempfile.TemporaryDirectory() as folder:
        session = load_session(file, threads=threads, profile_prefix=str(Path(folder) / "trace"))
        wanted = {node.name for node in session.get_inputs()}
        fed = {name: value for name, value in inputs.items() if name in wanted}
        started = time.perf_counter()
        for step in range(_SKIPPED_STEPS + _TRACED_STEPS):
            session.run(None, fed)
            # A large graph writes thousands of events a step: a few steps are enough then.
            if step > _SKIPPED_STEPS and time.perf_counter() - started > _TRACE_S:
                break
        return read_trace(Path(session.end_profiling()), skip=_SKIPPED_STEPS)
