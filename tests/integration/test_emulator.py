"""Counting for real: Debian's QEMU, an arm64 Python and the aarch64 wheels, made once in the user's cache."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from adb_device import TestDevice, attached_device
from android_device import two_kinds_of_cores
from torch import nn

import nagedge
from nagedge.devices import adb
from nagedge.devices.arm64 import Installation
from nagedge.devices.catalogue import list_devices
from nagedge.devices.counting import count_calls
from nagedge.devices.emulator import guest_python
from nagedge.errors import BundleError, RuntimeUnavailableError
from nagedge.fitting.costs import costs_of
from nagedge.profiling import attached
from nagedge.profiling.artifacts import artifacts_of, feeds
from nagedge.profiling.results import Profile
from nagedge.runtimes import runner
from nagedge.specs import TaskSpec, TensorSpec

FP32, LITE, INT8 = (
    "any-any-onnxruntime-fp32-train",
    "android-arm64-litert-fp32-train",
    "linux-arm64-tflite_runtime-int8",
)
WIDTH = 64


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> nagedge.Bundle:
    torch.manual_seed(0)
    return nagedge.export(
        nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 4)),
        tasks=[nagedge.TaskSpec("state", "classification", size=4)],
        example_input=torch.randn(8, WIDTH),
        targets=[FP32, LITE, INT8],
        out=tmp_path_factory.mktemp("emulated") / "bundle",
    )


@pytest.fixture(scope="module")
def profile(bundle: nagedge.Bundle, emulator: Installation) -> Profile:
    return nagedge.profile(bundle, device="emulated:cortex-a53", batch=4)


def test_every_runtime_is_counted_and_agrees_with_the_host(profile: Profile) -> None:
    assert profile.failures == ()
    assert {(count.target, count.name) for count in profile.counts} == {
        (FP32, "infer"), (FP32, "train"), (LITE, "infer"), (LITE, "train"), (INT8, "infer"),
    }  # fmt: skip
    for count in profile.counts:
        assert count.evidence == "emulated-count"
        assert count.parity.within_tolerance, count.parity
        assert count.parity.tensors >= (9 if count.name == "train" else 1)
        assert count.regions >= 5
        classes = vars(count.median)
        assert sum(classes[name] for name in classes if name not in ("instructions", "multiply_adds")) == (
            count.median.instructions
        )
        assert count.traffic is not None
        assert (
            count.traffic.read_bytes > (1 if count.precision == "int8" else 4) * WIDTH * WIDTH
        )  # each weight once
        assert count.first.instructions > 0
    assert Profile.from_json(profile.to_json()) == profile
    assert any(version.name == "arm64 qemu-user" for version in profile.versions)


def test_multiply_adds_are_those_of_the_model(profile: Profile) -> None:
    batch, products = 4, WIDTH * WIDTH + WIDTH * 4
    found = {(count.target, count.name): count.median.multiply_adds for count in profile.counts}
    # Kernels compute whole tiles: a little more than the model has.
    assert batch * products <= found[FP32, "infer"] <= 1.3 * batch * products
    # Forward, and the gradients of both weights and of the hidden layer; the update multiplies too.
    steps = batch * (2 * products + WIDTH * 4)
    assert steps <= found[FP32, "train"] <= 1.6 * steps + 8 * products


def test_latency_is_modelled_and_said_to_be(profile: Profile) -> None:
    assert {one.profile for one in profile.modelled} == {"raspberry-pi-3b"}  # the only one with this core
    for one in profile.modelled:
        assert one.evidence == "modelled"
        assert 0 < one.low_ms < one.high_ms
        assert one.assumptions


@pytest.fixture
def count(bundle: nagedge.Bundle, emulator: Installation) -> Callable[[], int]:
    """Return what counts the instructions of a training step in a process of its own."""
    (artifact,) = artifacts_of(bundle, [FP32], ["train"], 4)
    training = bundle.manifest.training
    assert training is not None
    inputs = feeds(bundle, "train", 4, lr=training.lr)

    def counted() -> int:
        found = count_calls(
            emulator, "cortex-a53", "onnxruntime", artifact.file, inputs, regions=25, traffic=False
        )
        return found.median.instructions

    return counted


@pytest.fixture
def counted_in_quiet(count: Callable[[], int]) -> int:
    """The count before anything else keeps the machine busy."""
    return count()


def test_counts_repeat_under_load_and_beside_each_other(
    count: Callable[[], int], counted_in_quiet: int, busy: None
) -> None:
    with ThreadPoolExecutor(2) as pool:  # two profiles at once in one cache
        again = [future.result() for future in [pool.submit(count) for _ in range(2)]]
    assert again == pytest.approx([counted_in_quiet] * 2, rel=1e-3)


def test_a_file_that_the_runtime_refuses_is_named(emulator: Installation, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no model")
    with pytest.raises(
        BundleError, match=r"onnxruntime refuses 'damaged\.onnx' on onnxruntime on an emulated cortex-a76"
    ):
        count_calls(emulator, "cortex-a76", "onnxruntime", damaged, {})


def test_what_fails_keeps_the_rest(
    bundle: nagedge.Bundle, emulator: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    from nagedge.devices import counting

    def crashing(
        made: Installation, runtime: str, core: str, **options: object
    ) -> tuple[list[str], dict[str, str]]:
        if runtime == "onnxruntime":
            return ["sh", "-c", "kill -SEGV $$"], {"PATH": "/usr/bin:/bin"}
        return guest_python(made, runtime, core, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(counting, "guest_python", crashing)
    found = nagedge.profile(
        bundle, what=["infer"], device="emulated:cortex-a53", target=[FP32, INT8], batch=4
    )
    assert [count.target for count in found.counts] == [INT8]
    assert [(one.target, one.device) for one in found.failures] == [(FP32, "emulated:cortex-a53")]
    assert "was killed by SIGSEGV" in found.failures[0].reason


def test_the_guest_sees_its_own_processor(emulator: Installation) -> None:
    command, variables = guest_python(emulator, "onnxruntime", "cortex-a76")
    script = "import platform; print(platform.machine(), '0xd0b' in open('/proc/cpuinfo').read())"
    done = subprocess.run([*command, "-c", script], capture_output=True, text=True, check=True, env=variables)
    assert done.stdout.split() == ["aarch64", "True"]


@pytest.mark.parametrize("runtime", ["litert", "onnxruntime"])
def test_a_training_step_learns_on_the_guest_as_on_the_host(
    bundle: nagedge.Bundle, emulator: Installation, runtime: str, tmp_path: Path
) -> None:
    (artifact,) = artifacts_of(bundle, [LITE if runtime == "litert" else FP32], ["train"], 4)
    given = feeds(bundle, "train", 4, lr=0.1)
    roles = ("params.", "momentum.", "buffers.")
    state = {name: array for name, array in given.items() if name.startswith(roles) and name != "momentum"}
    carry = {f"next.{name}": name for name in state}
    runner.save_arrays(tmp_path / "inputs.npz", {name: a for name, a in given.items() if name not in state})
    runner.save_arrays(tmp_path / "state.npz", state)
    opening: dict[str, object] = {
        "op": "open", "session": "s", "kind": runtime, "model": str(artifact.file.resolve()), "carry": carry,
        "state": "state.npz", "signature": artifact.signature,
    }  # fmt: skip
    steps = [{"op": "step", "session": "s", "inputs": "inputs.npz", "outputs": f"{i}.npz"} for i in range(3)]
    requests = "\n".join(json.dumps(request) for request in [opening, *steps])
    guest, variables = guest_python(emulator, runtime, "cortex-a53")
    losses = []
    for command, environment in ((guest, variables), ([sys.executable, "-I"], None)):
        done = subprocess.run(
            [*command, runner.__file__, "--folder", str(tmp_path)],
            input=requests, capture_output=True, text=True, check=True, env=environment,
        )  # fmt: skip
        assert [json.loads(line)["ok"] for line in done.stdout.splitlines()] == [True] * 4, done.stdout
        losses.append([float(runner.load_arrays(tmp_path / f"{i}.npz")["loss"]) for i in range(3)])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0][0] > losses[0][1] > losses[0][2]


@pytest.fixture
def board(
    emulator: Installation, tmp_path: Path, adb_server: int, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestDevice]:
    """A device behind the real adb, whose ``python3`` is the emulated one."""
    command, variables = guest_python(emulator, "onnxruntime", "cortex-a53")
    programs = tmp_path / "bin"
    programs.mkdir()
    settings = " ".join(f"{name}={shlex.quote(value)}" for name, value in variables.items())
    script = f'#!/bin/sh\nexec env -i {settings} {shlex.join(command)} "$@"\n'
    (programs / "python3").write_text(script)
    (programs / "python3").chmod(0o755)
    (programs / "dumpsys").write_text('#!/bin/sh\necho "  level: 77"; echo "Thermal Status: ${THERMAL:-0}"\n')
    (programs / "dumpsys").chmod(0o755)
    with attached_device(tmp_path / "device", f"{programs}:/usr/bin:/bin", adb_server, monkeypatch) as device:
        yield device


def test_a_device_behind_adb_is_listed_and_measured(bundle: nagedge.Bundle, board: TestDevice) -> None:
    assert adb.attached() == (adb.Attached(board.serial, "device", "Test board"),)
    (listed,) = [one for one in list_devices() if one.name == f"adb:{board.serial}"]
    assert listed.runtimes == "those of its own Python 3"
    slow, fast = two_kinds_of_cores(board.folder)
    found = nagedge.profile(
        bundle, what=["infer"], device=f"adb:{board.serial}", target=FP32, batch=4, budget_s=0.5
    )
    (workload,) = found.workloads
    assert (workload.device, workload.evidence) == (f"adb:{board.serial}", "measured-device")
    assert workload.latency.evidence == "measured-device"
    assert workload.runtime.startswith("onnxruntime ")
    assert len(workload.latency.samples_ms) >= 10 + 4 * 8
    assert "5 rounds in new processes count, 0 were dropped as the device was throttled." in workload.notes
    assert workload.device_run is not None
    assert workload.device_run.program == "python"
    if slow != fast:
        assert workload.device_run.cores == f"{fast}, the fastest of 2 kinds"
    stages = [one.stage for one in workload.device_run.readings]
    assert stages == ["before", *["during"] * (len(stages) - 2), "after"]
    assert len(stages) >= 6
    assert {one.conditions.battery_percent for one in workload.device_run.readings} == {77}


def test_a_device_that_is_unplugged_leaves_what_was_complete(
    bundle: nagedge.Bundle, board: TestDevice
) -> None:
    runs: list[str] = []

    def third_time(command: str) -> None:
        if "runner.py" in command:
            runs.append(command)
            if len(runs) == 3:
                board.unplug()

    board.before = third_time
    found = nagedge.profile(
        bundle, what=["infer"], device=f"adb:{board.serial}", target=FP32, batch=4, budget_s=0.5
    )
    (workload,) = found.workloads
    assert workload.notes[0].startswith("2 rounds in new processes count")
    assert workload.notes[-1].startswith("Ended early, the complete rounds are kept: device '127.0.0.1:")
    assert len(workload.latency.samples_ms) >= 10 + 8


def test_a_device_that_is_not_there_is_named(bundle: nagedge.Bundle, board: TestDevice) -> None:
    with pytest.raises(
        RuntimeUnavailableError, match=r"device 'nowhere' is gone \(.*not found.*\)\. Plug it in"
    ):
        nagedge.profile(bundle, what=["infer"], device="adb:nowhere", target=FP32)


def test_a_budget_of_instructions_is_what_a_profile_counts(profile: Profile, emulator: Installation) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 4))
    costs = costs_of(
        model, TensorSpec("input", "float32", ("batch", WIDTH)), [TaskSpec("state", "classification", size=4)],
        ("instructions",), batch=4, core="cortex-a53",
    )  # fmt: skip
    counted = next(one for one in profile.counts if one.name == "train" and one.target == FP32)
    assert costs["instructions"] == pytest.approx(counted.median.instructions, rel=0.1)


# What the programs are told and print, see nagedge/profiling/on_native.py; what they time is real.
_PERF_TEST = """\
import pathlib, sys, time
import numpy, onnx, onnxruntime
arguments = sys.argv[1:]
runs, model, result = int(arguments[arguments.index("-r") + 1]), *arguments[-2:]
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = int(arguments[arguments.index("-x") + 1])
options.enable_mem_pattern = "-M" not in arguments
session = onnxruntime.InferenceSession(model, options)
data = pathlib.Path(model).parent / "test_data_set_0"
fed = [onnx.TensorProto.FromString(path.read_bytes()) for path in data.glob("input_*.pb")]
fed = {one.name: onnx.numpy_helper.to_array(one) for one in fed}
with open(result, "a") as file:
    for run in range(runs):
        started = time.perf_counter()
        session.run(None, fed)
        file.write(f"model,{time.perf_counter() - started},104857600,12,{run}\\n")
print("Session creation time cost: 0.012 s")
"""
_BENCHMARK_MODEL = """\
import sys, time
import numpy
from ai_edge_litert.interpreter import Interpreter
flags = dict(word.lstrip("-").split("=", 1) for word in sys.argv[1:])
interpreter = Interpreter(flags["graph"], num_threads=int(flags["num_threads"]))
keys = list(interpreter.get_signature_list())
if len(keys) > 1 and flags.get("signature_to_run_for") not in keys:
    print("ERROR: Signature not specified or incorrect for graph with multiple signatures.", file=sys.stderr)
    sys.exit(1)
run = interpreter.get_signature_runner(flags.get("signature_to_run_for", keys[0]))
fed = {name: numpy.zeros(one["shape"], one["dtype"]) for name, one in run.get_input_details().items()}
took = []
for _ in range(1 + int(flags["num_runs"])):
    started = time.perf_counter()
    run(**fed)
    took.append(1e6 * (time.perf_counter() - started))
first, rest = took[0], took[1:]
print(f"INFO: count=1 curr={first:.0f}")
print(f"INFO: count={len(rest)} first={rest[0]:.0f} curr={rest[-1]:.0f} min={min(rest):.0f} max={max(rest):.0f} "
      f"avg={sum(rest) / len(rest):g} std=1 p5={min(rest):.0f} median={sorted(rest)[len(rest) // 2]:.0f} "
      f"p95={max(rest):.0f}")
print(f"INFO: Inference timings in us: Init: 812, First inference: {first:.0f}, Warmup (avg): {first:g}, "
      f"Inference (avg): {sum(rest) / len(rest):g}")
print("INFO: Memory footprint delta from the start of the tool (MB): init=1.5 overall=4.25")
"""


def test_the_benchmark_programs_of_the_user_are_driven(
    bundle: nagedge.Bundle, board: TestDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, script in (("onnxruntime_perf_test", _PERF_TEST), ("benchmark_model", _BENCHMARK_MODEL)):
        (programs / f"{name}.py").write_text(script)
        (programs / name).write_text(f'#!/bin/sh\nexec {sys.executable} {programs / name}.py "$@"\n')
    monkeypatch.setenv("NAGEDGE_DEVICE_PROGRAMS", str(programs))
    monkeypatch.setattr(attached, "_ROUNDS", 2)
    monkeypatch.setattr(attached, "_FIGURE_ROUNDS", 7)
    device = f"adb:{board.serial}/native"
    found = nagedge.profile(bundle, device=device, target=[FP32, LITE], budget_s=0.2)
    measured = {(one.name, one.target): one for one in found.workloads}
    assert set(measured) == {("infer", FP32), ("train", FP32), ("infer", LITE)}
    for key, one in measured.items():
        assert one.evidence == "measured-device"
        assert one.device_run is not None
        assert one.device_run.program == ("benchmark_model" if LITE in key else "onnxruntime_perf_test")
        assert one.latency.quantile(0.5).value is not None
    assert len(measured["infer", FP32].latency.samples_ms) >= 10 + 8
    assert "The process took 100 MiB at most, says onnxruntime_perf_test." in measured["train", FP32].notes
    # The first call, and one figure a round.
    assert len(measured["infer", LITE].latency.samples_ms) == 1 + 7
    assert measured["infer", LITE].latency.first_ms == measured["infer", LITE].latency.samples_ms[0]
    assert measured["infer", LITE].load_ms == 0.812
    assert "The process grew by 4.2 MB, says benchmark_model." in measured["infer", LITE].notes
    (failure,) = found.failures
    assert (failure.name, failure.target) == ("train", LITE)
    assert "benchmark_model feeds random numbers" in failure.reason

    (programs / "onnxruntime_perf_test").write_text(
        "#!/bin/sh\necho 'library \"libc++_shared.so\" not found'; exit 1\n"
    )
    with pytest.raises(
        BundleError,
        match=r'onnxruntime_perf_test on device .* cannot run .*: it ended with code 1: library "libc',
    ):
        nagedge.profile(bundle, what=["infer"], device=device, target=FP32, budget_s=0.2)
