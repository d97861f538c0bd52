"""Latency on a device that adb reaches, of the runner in the device's own Python: a board, or Termux on a phone.

The calls are made in rounds. Before and after each the device is asked how hot and how fast it is: a round in which
it was
throttled does not count, and is counted. A device that is unplugged leaves the rounds that were complete.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from nagedge.devices import adb
from nagedge.devices.adb import Conditions
from nagedge.errors import BundleError, RuntimeUnavailableError
from nagedge.profiling.artifacts import Artifact, feeds
from nagedge.profiling.measure import EVIDENCE_DEVICE, Samples, summarise
from nagedge.profiling.results import WorkloadProfile
from nagedge.runtimes import runner

if TYPE_CHECKING:
    from nagedge.bundle import Bundle

__all__ = ["is_throttled", "measure_attached"]

_FOLDER = "/data/local/tmp/nagedge"
_ROUNDS = 5
_WARM_UP = 2
"""Calls at the beginning of each later round that do not count: its process is new."""
_SEVERE, _SLOW = 3, 0.6


def is_throttled(before: Conditions, after: Conditions) -> bool:
    """Whether a round was slowed down: Android says "severe", or the clock after it is far below its highest."""
    status = max(before.thermal_status or 0, after.thermal_status or 0)
    clock, highest = after.clock_mhz, after.highest_clock_mhz
    return status >= _SEVERE or (clock is not None and highest is not None and clock < _SLOW * highest)


def measure_attached(
    bundle: Bundle,
    artifact: Artifact,
    serial: str,
    *,
    threads: int,
    budget_s: float,
    advance: Callable[[str, int], None],
) -> WorkloadProfile:
    """Measure an artifact on an attached device.

    Args:
        bundle: where it is. artifact: what is measured. serial: of the device.
        threads: inside operators. budget_s: for the timed calls.
        advance: called with the stage and the percent done.

    Raises:
        RuntimeUnavailableError: the device is gone before a round was complete, or lacks Python or the runtime.
        BundleError: the runtime there refuses the artifact.
    """
    if artifact.backend not in ("onnxruntime", "litert", "tflite_runtime"):
        raise RuntimeUnavailableError(
            f"{artifact.name!r} is not timed over adb: its runtime takes arrays through files."
        )
    advance("copying", 0)
    model = f"{_FOLDER}/{artifact.file.name}"
    adb.shell(serial, f"mkdir -p {_FOLDER}")
    with tempfile.TemporaryDirectory(prefix="nagedge-adb-") as name:
        folder = Path(name)
        runner.save_arrays(folder / "inputs.npz", feeds(bundle, artifact.what, artifact.batch))
        opening = {
            "op": "open", "session": "s", "kind": artifact.backend, "model": artifact.file.name, "threads": threads,
            "signature": artifact.signature,
        }  # fmt: skip
        repeating = {
            "op": "repeat", "session": "s", "inputs": "inputs.npz", "outputs": "outputs.npz", "calls": 10_000,
            "budget_s": budget_s / _ROUNDS,
        }  # fmt: skip
        text = "\n".join(json.dumps(request) for request in (opening, repeating))
        (folder / "requests.jsonl").write_text(text, encoding="utf-8")
        for file, target in (
            (Path(runner.__file__), f"{_FOLDER}/runner.py"), (artifact.file, model),
            (folder / "inputs.npz", f"{_FOLDER}/inputs.npz"), (folder / "requests.jsonl", f"{_FOLDER}/requests.jsonl"),
        ):  # fmt: skip
            adb.push(serial, file, target)
        rounds, dropped, ended, states, opened = _rounds(serial, folder, artifact, advance)
    kept = rounds[0] + [number for later in rounds[1:] for number in later[_WARM_UP:]]
    latency = summarise(Samples(tuple(kept), "budget", budget_s, None, 1.0), evidence=EVIDENCE_DEVICE)
    return WorkloadProfile(
        name=artifact.what, device=f"adb:{serial}", target=artifact.target, precision=artifact.precision,
        artifact=artifact.name, runtime=str(opened["runtime"]), threads=threads, batch=artifact.batch,
        evidence=EVIDENCE_DEVICE, load_ms=float(str(opened["seconds"])) * 1e3, latency=latency, operators=None,
        memory=None, notes=_notes(len(rounds), dropped, ended, states),
    )  # fmt: skip


def _rounds(
    serial: str, folder: Path, artifact: Artifact, advance: Callable[[str, int], None]
) -> tuple[list[list[int]], int, str, list[Conditions], dict[str, object]]:
    """Return nanoseconds a round, rounds dropped, why it ended early, conditions, and the answer to opening."""
    rounds: list[list[int]] = []
    states = [adb.conditions(serial)]
    opened: dict[str, object] = {}
    dropped = 0
    for number in range(_ROUNDS):
        advance("timing", 10 + 90 * number // _ROUNDS)
        try:
            command = "python3 runner.py --requests requests.jsonl --answers answers.jsonl --folder ."
            adb.shell(serial, f"cd {_FOLDER} && rm -f answers.jsonl && {command}")
            adb.pull(serial, f"{_FOLDER}/answers.jsonl", folder / "answers.jsonl")
            states.append(adb.conditions(serial))
        except RuntimeUnavailableError as error:
            if not rounds:
                raise
            return rounds, dropped, str(error), states, opened
        answers = [
            json.loads(line) for line in (folder / "answers.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        for answer in answers:
            if not answer["ok"]:
                raise BundleError(
                    f"{artifact.backend} on {serial!r} refuses {artifact.name!r}: {answer['error']}"
                )
        opened = answers[0]
        if is_throttled(states[-2], states[-1]):
            dropped += 1
        else:
            rounds.append(answers[1]["durations_ns"])
    if not rounds:
        raise RuntimeUnavailableError(
            f"device {serial!r} was throttled in all of {_ROUNDS} rounds. Let it cool down, and profile again."
        )
    return rounds, dropped, "", states, opened


def _notes(kept: int, dropped: int, ended: str, states: list[Conditions]) -> tuple[str, ...]:
    notes = [f"{kept} rounds in new processes count, {dropped} were dropped as the device was throttled."]
    hot = [state.temperature_c for state in states if state.temperature_c is not None]
    if hot:
        notes.append(f"Hottest sensor: {hot[0]:.0f} degrees Celsius before, {max(hot):.0f} at most.")
    if states[-1].battery_percent is not None:
        notes.append(f"Battery: {states[-1].battery_percent} %.")
    if ended:
        notes.append(f"Ended early, the complete rounds are kept: {ended}")
    return tuple(notes)
