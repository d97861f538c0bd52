"""What is measured: a bundle's inference and its training step on the host, each as a loaded, repeatable call."""

from __future__ import annotations

import datetime as dt
import math
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from nagedge.bundle import Bundle
from nagedge.devices.host import HostDescription, describe_host
from nagedge.errors import ConfigurationError, nearest_name
from nagedge.profiling.measure import EVIDENCE_HOST, Distribution, measure, summarise
from nagedge.profiling.memory import Argument, MemoryPeak, peak_memory
from nagedge.profiling.operators import OperatorTable, read_trace
from nagedge.profiling.results import SCHEMA_VERSION, Profile, Version, WorkloadProfile
from nagedge.runtimes import open_inference, open_training
from nagedge.runtimes.batches import random_batch
from nagedge.runtimes.onnxruntime import load_session
from nagedge.runtimes.state import initial_state

if TYPE_CHECKING:
    from nagedge.manifest import Manifest

__all__ = ["ARTIFACT_OF", "load_workload", "notes_on", "profile"]

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]

ARTIFACT_OF = {"infer": "infer", "train": "train_step"}
"""What can be measured -> the role of its artifact."""

_USUAL_BATCH = {"infer": 1, "train": 16}
_TRACED_STEPS, _SKIPPED_STEPS, _TRACE_S = 20, 5, 2.0
_LOADED, _TIMED, _TRACED = 5, 70, 80
"""Progress of one workload in percent, after each stage; memory is the rest."""


def profile(
    bundle: Bundle,
    *,
    what: Sequence[str] = ("infer", "train"),
    device: str = "host",
    target: str | None = None,
    batch: int | None = None,
    threads: int = 1,
    budget_s: float = 3.0,
    progress: Progress | None = None,
) -> Profile:
    """Measure latency, memory and time by operator of a bundle's inference and training step.

    Args:
        bundle: what to measure.
        what: ``"infer"``, ``"train"`` or both.
        device: ``"host"``, the machine this runs on.
        target: whose artifacts; None takes the first that has them.
        batch: examples a call; None takes 1 for inference and 16 for training, or the bundle's fixed batch.
        threads: inside operators, >= 1.
        budget_s: seconds to spend on the timed calls of each, > 0.
        progress: called with a description, the steps done and the steps in all.

    Raises:
        ConfigurationError: an argument is unknown or out of range, or the bundle lacks the artifact.
    """
    if device != "host":
        raise ConfigurationError(f"unknown device {device!r}; this version profiles on 'host'.")
    for part in what:
        if part not in ARTIFACT_OF:
            raise ConfigurationError(
                f"cannot profile {part!r}; expected one of {', '.join(ARTIFACT_OF)}."
                + nearest_name(part, ARTIFACT_OF)
            )
    if not what:
        raise ConfigurationError("nothing to profile was named; expected infer, train or both.")
    for name, value in (("threads", threads), ("batch", 1 if batch is None else batch)):
        if value < 1:
            raise ConfigurationError(f"{name} is {value}, expected a number >= 1.")
    if not (math.isfinite(budget_s) and budget_s > 0):
        raise ConfigurationError(f"budget_s is {budget_s}, expected seconds > 0.")
    report = progress or (lambda description, completed, total: None)
    names = dict.fromkeys(bundle.target(target, role=ARTIFACT_OF[part])[0] for part in what)
    host = describe_host()  # before the work, which would raise the load average
    workloads = []
    for index, part in enumerate(what):

        def advance(stage: str, percent: int, part: str = part, index: int = index) -> None:
            report(f"{part}: {stage}", 100 * index + percent, 100 * len(what))

        size = _batch(bundle.manifest, part, batch)
        workloads.append(_workload(bundle, target, part, size, threads, budget_s, host, advance))
    report("profiled", 100 * len(what), 100 * len(what))
    return Profile(
        schema_version=SCHEMA_VERSION,
        created=dt.datetime.now().astimezone().isoformat(timespec="seconds"),
        bundle=bundle.path.name,
        target=", ".join(names),
        device=device,
        host=host,
        versions=(
            Version("nagedge", metadata.version("nagedge")),
            Version("python", platform.python_version()),
            *(Version(name, metadata.version(name)) for name in ("numpy", "onnxruntime")),
        ),
        workloads=tuple(workloads),
    )


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


def _batch(manifest: Manifest, what: str, batch: int | None) -> int:
    if manifest.batch is not None and batch not in (None, manifest.batch):
        raise ConfigurationError(f"batch is {batch}, but this bundle takes exactly {manifest.batch}.")
    return manifest.batch or batch or _USUAL_BATCH[what]


def _workload(
    bundle: Bundle,
    target: str | None,
    what: str,
    batch: int,
    threads: int,
    budget_s: float,
    host: HostDescription,
    advance: Callable[[str, int], None],
) -> WorkloadProfile:
    name, entry = bundle.target(target, role=ARTIFACT_OF[what])
    artifact = entry.artifacts[ARTIFACT_OF[what]]
    advance("loading", 0)
    started = time.perf_counter()
    run = _loaded(bundle, name, what, batch, threads)
    load_ms = (time.perf_counter() - started) * 1e3
    timed = measure(
        run,
        budget_s=budget_s,
        progress=lambda share: advance("timing", _LOADED + int(share * (_TIMED - _LOADED))),
    )
    latency = summarise(timed)
    advance("time by operator", _TIMED)
    operators = _operators(bundle, bundle.file(artifact), what, batch, threads)
    advance("memory", _TRACED)
    memory, failure = _memory(
        {"bundle": str(bundle.path), "target": name, "what": what, "batch": batch, "threads": threads}
    )
    return WorkloadProfile(
        name=what, artifact=artifact, runtime=f"onnxruntime {metadata.version('onnxruntime')}", threads=threads,
        batch=batch, evidence=EVIDENCE_HOST, load_ms=load_ms, latency=latency, operators=operators, memory=memory,
        notes=(*notes_on(latency, host, threads), *failure),
    )  # fmt: skip


def _memory(arguments: dict[str, Argument]) -> tuple[MemoryPeak | None, tuple[str, ...]]:
    """Measure in a child process; what goes wrong there must not lose the figures taken so far."""
    try:
        return peak_memory("nagedge.profiling.workloads:load_workload", arguments), ()
    except ConfigurationError as error:
        return None, (f"Peak memory was not measured: {error}",)


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


def _operators(bundle: Bundle, artifact: Path, what: str, batch: int, threads: int) -> OperatorTable:
    """Trace some steps in a session of its own: ONNX Runtime's profiler slows what it watches."""
    inputs, targets = random_batch(bundle.manifest, batch, np.random.default_rng(0))
    feeds: dict[str, Array] = dict(inputs)
    if what == "train":
        state = initial_state(bundle)
        feeds |= {f"target.{name}": value for name, value in targets.items()}
        feeds |= {f"params.{name}": value for name, value in state.params.items()}
        feeds |= {f"momentum.{name}": value for name, value in state.momentum.items()}
        feeds |= {f"buffers.{name}": value for name, value in state.buffers.items()}
        feeds |= {"sample_weight": np.ones(batch, np.float32)}
        feeds |= {name: np.zeros((), np.float32) for name in ("lr", "momentum", "weight_decay")}
    with tempfile.TemporaryDirectory() as folder:
        session = load_session(artifact, threads=threads, profile_prefix=str(Path(folder) / "trace"))
        wanted = {node.name for node in session.get_inputs()}
        fed = {name: value for name, value in feeds.items() if name in wanted}
        started = time.perf_counter()
        for step in range(_SKIPPED_STEPS + _TRACED_STEPS):
            session.run(None, fed)
            # A large graph writes thousands of events a step: a few steps are enough then.
            if step > _SKIPPED_STEPS and time.perf_counter() - started > _TRACE_S:
                break
        return read_trace(Path(session.end_profiling()), skip=_SKIPPED_STEPS)
