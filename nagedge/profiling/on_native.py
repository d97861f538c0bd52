"""Rounds of upstream's benchmark programs on an attached device, where the user has them.

``benchmark_model`` (TensorFlow Lite, LiteRT) and ``onnxruntime_perf_test`` are built by whoever wants them, for Android
or for a board. They are taken from the folder that the environment variable ``NAGEDGE_DEVICE_PROGRAMS`` names, with the
shared libraries (``*.so``) beside them, or are on the device already, in ``/data/local/tmp``.
"""

from __future__ import annotations

import os
import re
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from nagedge.devices import adb
from nagedge.errors import BundleError, DataError, RuntimeUnavailableError
from nagedge.profiling.artifacts import feeds
from nagedge.profiling.native_output import parse_benchmark_model, parse_perf_test
from nagedge.profiling.rounds import Round, run_watched
from nagedge.runtimes.onnxruntime import load_session

if TYPE_CHECKING:
    from nagedge.bundle import Bundle
    from nagedge.devices.pinning import Pinning
    from nagedge.profiling.artifacts import Artifact

__all__ = [
    "PROGRAMS_VARIABLE",
    "has_native",
    "native_problem",
    "native_program",
    "native_rounds",
    "tensor_proto",
]

_Found = TypeVar("_Found")

PROGRAMS_VARIABLE = "NAGEDGE_DEVICE_PROGRAMS"

_FOLDER = "/data/local/tmp/nagedge/native"
_INSTALLED = "/data/local/tmp"
_PILOT_RUNS, _MOST_RUNS, _FEWEST_RUNS = 20, 2000, 10
_PROGRAM_OF = {
    "onnxruntime": "onnxruntime_perf_test", "litert": "benchmark_model", "tflite_runtime": "benchmark_model"
}  # fmt: skip

_ONNX_TYPES = {
    "float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7, "bool": 9, "float16": 10, "float64": 11
}  # fmt: skip
"""``TensorProto.DataType`` (onnx/onnx.proto)."""


def native_program(artifact: Artifact) -> str:
    """Return the name of the program for an artifact."""
    return _PROGRAM_OF.get(artifact.backend, "a benchmark program")


def native_problem(artifact: Artifact) -> str:
    """Return why no benchmark program times an artifact; empty when one does."""
    if artifact.backend not in _PROGRAM_OF:
        return "there is no benchmark program for its runtime"
    if native_program(artifact) == "benchmark_model":
        if artifact.what != "infer":
            return "benchmark_model feeds random numbers, with which a training step means nothing"
        if artifact.batch != 1:
            return f"benchmark_model runs the file's own batch of 1, not {artifact.batch}"
    return ""


def has_native(serial: str, artifact: Artifact) -> bool:
    """Whether the program for an artifact is here or on the device."""
    name = native_program(artifact)
    return _local(name) is not None or bool(
        adb.shell(serial, f"ls {_INSTALLED}/{name} 2>/dev/null; true").strip()
    )


@dataclass(frozen=True)
class _Asked:
    """What :func:`native_rounds` is asked for; ``program`` starts the program on its cores."""

    bundle: Bundle
    artifact: Artifact
    serial: str
    program: str
    threads: int
    budget_s: float


def native_rounds(
    bundle: Bundle, artifact: Artifact, serial: str, *, threads: int, budget_s: float, pinning: Pinning
) -> Callable[[int, Callable[[], None]], Round]:
    """Push the program, the artifact and its inputs, and return what takes one round of ``budget_s`` seconds.

    Raises:
        RuntimeUnavailableError: the device is gone.
    """
    adb.shell(serial, f"rm -rf {_FOLDER}/model && mkdir -p {_FOLDER}/model/test_data_set_0")
    program = _pushed_program(serial, native_program(artifact))
    asked = _Asked(bundle, artifact, serial, f"{pinning.prefix}{program}", threads, budget_s)
    return _perf_test(asked) if artifact.backend == "onnxruntime" else _benchmark_model(asked)


def _benchmark_model(asked: _Asked) -> Callable[[int, Callable[[], None]], Round]:
    artifact, serial = asked.artifact, asked.serial
    model = f"{_FOLDER}/model/{artifact.file.name}"
    adb.push(serial, artifact.file, model)
    # A file with several signatures is refused until one is named (benchmark_tflite_model.cc); older programs, which do
    # not know the flag, ignore the signatures.
    several = "train_step" in asked.bundle.manifest.targets[artifact.target].artifacts
    flags = (
        f"--graph={model} --num_threads={asked.threads} --warmup_runs=1 --num_runs={_FEWEST_RUNS} "
        f"--min_secs={asked.budget_s:.3f} --max_secs={10 * asked.budget_s + 10:.0f}"
        + (f" --signature_to_run_for={artifact.signature}" if several else "")
    )

    def take(number: int, watch: Callable[[], None]) -> Round:
        found = _read(
            lambda: parse_benchmark_model(_run(serial, f"{asked.program} {flags}", watch)),
            artifact, serial,
        )  # fmt: skip
        figure_us = found.mean_us if found.median_us is None else found.median_us
        # The first inference is a call; what follows is one figure of many calls.
        durations = ([found.first_us] if number == 0 else []) + [figure_us]
        kind = "mean" if found.median_us is None else "median"
        notes = [
            f"After the first call, each sample is the {kind} of a round's calls: it prints no single one."
        ]
        if number == 0 and found.memory_mb is not None:
            notes.append(f"The process grew by {found.memory_mb:.1f} MB, says benchmark_model.")
        return Round(
            tuple(round(1e3 * value) for value in durations),
            "benchmark_model",
            found.init_us / 1e3,
            notes=tuple(notes),
        )

    return take


def _perf_test(asked: _Asked) -> Callable[[int, Callable[[], None]], Round]:
    artifact, serial = asked.artifact, asked.serial
    adb.push(serial, artifact.file, f"{_FOLDER}/model/model.onnx")
    fed = feeds(asked.bundle, artifact.what, artifact.batch)
    with tempfile.TemporaryDirectory(prefix="nagedge-adb-") as name:
        for number, node in enumerate(load_session(artifact.file).get_inputs()):
            file = Path(name) / f"input_{number}.pb"
            file.write_bytes(tensor_proto(node.name, fed[node.name]))
            adb.push(serial, file, f"{_FOLDER}/model/test_data_set_0/{file.name}")
    # A training step is run without a memory pattern, as NagEdge's own sessions run it.
    plain = " -M" if artifact.what == "train" else ""
    runs = _PILOT_RUNS

    def once(count: int, watch: Callable[[], None]) -> tuple[tuple[float, ...], Round]:
        command = (
            f"cd {_FOLDER} && rm -f result.csv && LD_LIBRARY_PATH=. {asked.program} -e cpu -m times "
            f"-r {count} -x {asked.threads} -y 1{plain} model/model.onnx result.csv && echo && echo '#result' "
            "&& cat result.csv"
        )
        printed, _, written = _run(serial, command, watch).partition("#result")
        found = parse_perf_test(printed, written)
        note = (
            f"The process took {found.peak_bytes / 2**20:.0f} MiB at most, says onnxruntime_perf_test."
            if found.peak_bytes
            else ""
        )
        return found.durations_s, Round(
            tuple(round(1e9 * value) for value in found.durations_s), "onnxruntime_perf_test",
            1e3 * (found.session_s or 0.0), notes=(note,) if note else (),
        )  # fmt: skip

    def take(number: int, watch: Callable[[], None]) -> Round:
        nonlocal runs
        if number == 0:
            durations, _ = _read(lambda: once(_PILOT_RUNS, watch), artifact, serial)
            runs = int(min(_MOST_RUNS, max(_FEWEST_RUNS, asked.budget_s / float(np.median(durations)))))
        return _read(lambda: once(runs, watch), artifact, serial)[1]

    return take


def _run(serial: str, command: str, watch: Callable[[], None]) -> str:
    """Return what a program prints, errors too; when it fails, that is all there is to say why."""
    text = run_watched(serial, f'({command}) 2>&1; code=$?; echo; echo "#exit $code"', watch)
    said, _, code = text.rpartition("#exit ")
    if code.strip() != "0" and "Inference timings" not in said and "#result" not in said:
        lines = [line.strip() for line in said.splitlines() if line.strip()]
        raise DataError(f"it ended with code {code.strip()}: {(lines or ['it said nothing'])[-1][:300]}")
    return said


def _read(take: Callable[[], _Found], artifact: Artifact, serial: str) -> _Found:
    try:
        return take()
    except DataError as error:
        raise BundleError(
            f"{native_program(artifact)} on device {serial!r} cannot run {artifact.name!r}: {error}"
        ) from None


def _local(name: str) -> Path | None:
    folder = os.environ.get(PROGRAMS_VARIABLE)
    if not folder:
        return None
    if not Path(folder).is_dir():
        raise RuntimeUnavailableError(f"{PROGRAMS_VARIABLE} names {folder!r}, which is no folder.")
    file = Path(folder) / name
    return file if file.is_file() else None


def _pushed_program(serial: str, name: str) -> str:
    """Return the program's path on the device, pushed with the libraries beside it when it is here."""
    local = _local(name)
    if local is None:
        return f"{_INSTALLED}/{name}"
    for file in (local, *sorted(local.parent.glob("*.so*"))):
        if re.fullmatch(r"[\w.+-]+", file.name):
            adb.push(serial, file, f"{_FOLDER}/{file.name}")
    adb.shell(serial, f"chmod 755 {_FOLDER}/{name}")
    return f"{_FOLDER}/{name}"


def tensor_proto(name: str, array: npt.NDArray[Any]) -> bytes:
    """Return an array as ONNX's ``TensorProto``: ``dims`` (1), ``data_type`` (2), ``name`` (8), ``raw_data`` (9).

    The program's test data are such files; they are written by hand because nothing but the lowering needs onnx.
    """
    raw = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<")).tobytes()
    text = name.encode()
    parts = [b"\x08" + _varint(size) for size in array.shape]
    parts += [b"\x10" + _varint(_ONNX_TYPES[array.dtype.name]), b"\x42" + _varint(len(text)) + text]
    return b"".join([*parts, b"\x4a" + _varint(len(raw)) + raw])


def _varint(value: int) -> bytes:
    found = b""
    while value >= 128:
        found += struct.pack("B", value & 127 | 128)
        value >>= 7
    return found + struct.pack("B", value)
