"""The iOS simulator behind a stand-in for Xcode's programs: what they are asked, and what is made of their answers.

The stand-in has no Core ML: it answers with what the program's evaluation gave. The Swift runner was run on no Mac.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import nagedge
from nagedge.devices import catalogue, simulator
from nagedge.devices.simulator import Simulator, find_simulator, simulators, why_unavailable
from nagedge.errors import BundleError, ConfigurationError, RuntimeUnavailableError
from nagedge.profiling.artifacts import artifacts_of, feeds
from nagedge.profiling.results import Profile
from nagedge.runtimes.mil_program import load_program
from nagedge.runtimes.ml_program_features import features

TARGET = "ios-arm64-coreml-fp32-train"
DEVICES = {
    "devices": {
        "com.apple.CoreSimulator.SimRuntime.watchOS-11-2": [
            {"udid": "W", "name": "Watch", "state": "Booted", "isAvailable": True}
        ],
        "com.apple.CoreSimulator.SimRuntime.iOS-17-5": [
            {"udid": "OLD", "name": "iPhone 15", "state": "Shutdown", "isAvailable": True},
        ],
        "com.apple.CoreSimulator.SimRuntime.iOS-18-2": [
            {"udid": "PAD", "name": "iPad Pro", "state": "Shutdown", "isAvailable": True},
            {"udid": "NEW", "name": "iPhone 16", "state": "Shutdown", "isAvailable": True},
        ],
    }
}

XCRUN = """#!{python}
import json, pathlib, shutil, sys
arguments = sys.argv[1:]
with open({log!r}, "a") as log:
    log.write(json.dumps(arguments) + "\\n")
if arguments[:2] == {failing!r}:
    sys.exit("ERROR: it went wrong. And more")
if arguments[:3] == ["simctl", "list", "devices"]:
    print({devices!r})
elif arguments[:2] == ["coremlcompiler", "compile"]:
    package, folder = map(pathlib.Path, arguments[2:])
    shutil.copytree(package, folder / (package.stem + ".mlmodelc"))
elif "swiftc" in arguments:
    program = pathlib.Path(arguments[arguments.index("-o") + 1])
    assert "import CoreML" in pathlib.Path(arguments[-1]).read_text()
    program.write_text("#!{python}\\n" + {runner!r})
    program.chmod(0o755)
elif arguments[:2] == ["simctl", "spawn"]:
    import subprocess
    sys.exit(subprocess.run(arguments[3:]).returncode)
elif arguments[:2] != ["simctl", "bootstatus"]:
    sys.exit("unknown command")
"""

RUNNER = """
import json, pathlib, sys
import numpy as np
folder = pathlib.Path(sys.argv[1]).parent
request = json.loads(pathlib.Path(sys.argv[1]).read_text())
prepared = np.load({prepared!r} + "/" + pathlib.Path(request["model"]).stem + ".npz")
for one in request["inputs"]:
    dtype = "<i4" if one["type"] == "int32" else "<f4"
    got = np.frombuffer((folder / one["file"]).read_bytes(), dtype).reshape(one["shape"])
    np.testing.assert_array_equal(got, prepared["in." + one["name"]])
outputs = []
for number, key in enumerate(name for name in prepared if name.startswith("out.")):
    value = prepared[key] + OFF
    (folder / f"out-{{number}}").write_bytes(np.ascontiguousarray(value, "<f4").tobytes())
    outputs.append({{"name": key[4:], "shape": list(value.shape), "type": "float32", "file": f"out-{{number}}"}})
answer = {{
    "system": "Version 18.2", "loadMilliseconds": 5.5, "durationsNanoseconds": [2000000] + [1000000] * 30,
    "outputs": outputs,
}}
(folder / "answer.json").write_text(json.dumps(answer))
"""
"""Compares the inputs with those that were evaluated beforehand, and answers with those outputs, off by ``OFF``."""

Xcode = Callable[..., Callable[[], list[list[str]]]]


@pytest.fixture
def xcode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Xcode:
    """Put a stand-in for ``xcrun`` in PATH; what it returns returns the commands that it was given."""

    def install(
        failing: tuple[str, ...] = (), devices: object = DEVICES, runner: str = ""
    ) -> Callable[[], list[list[str]]]:
        log = tmp_path / "log.jsonl"
        script = XCRUN.format(
            python=sys.executable, log=str(log), failing=list(failing), devices=json.dumps(devices), runner=runner
        )  # fmt: skip
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin/xcrun").write_text(script)
        (tmp_path / "bin/xcrun").chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr(
            simulator, "platform", SimpleNamespace(system=lambda: "Darwin", machine=lambda: "arm64")
        )
        return lambda: [json.loads(line) for line in log.read_text().splitlines()]

    return install


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> nagedge.Bundle:
    torch.manual_seed(0)
    return nagedge.export(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)).eval(),
        tasks=[nagedge.TaskSpec("gesture", "classification", size=3)],
        example_input=torch.randn(4, 6),
        targets=[TARGET, "any-any-onnxruntime-fp32"],
        out=tmp_path_factory.mktemp("simulated") / "bundle",
    )


@pytest.fixture(scope="module")
def runner(bundle: nagedge.Bundle, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The stand-in's runner; what it is to be given, and to answer, is evaluated here."""
    folder = tmp_path_factory.mktemp("prepared")
    for artifact in artifacts_of(bundle, [TARGET], ["infer", "train"], 4):
        program = load_program(artifact.file)
        given = features(feeds(bundle, artifact.what, 4), program.names)
        inputs = {name: given[name] for name in program.inputs if name in given}
        outputs = program.run(inputs)
        prepared = {f"in.{name}": value for name, value in inputs.items()}
        prepared |= {f"out.{name}": value for name, value in outputs.items()}
        np.savez(folder / f"{artifact.file.stem}.npz", **prepared)
    return RUNNER.format(prepared=str(folder))


def profiled(bundle: nagedge.Bundle, **options: object) -> Profile:
    return nagedge.profile(
        bundle,
        device="ios-simulator",
        target=TARGET,
        batch=4,
        budget_s=0.1,
        **options,  # type: ignore[arg-type]
    )


def test_elsewhere_it_is_unavailable_with_the_reason(
    bundle: nagedge.Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulator, "platform", SimpleNamespace(system=lambda: "Linux"))
    assert why_unavailable() == "it needs macOS with Xcode, this is Linux"
    (listed,) = [one for one in catalogue.list_devices() if one.name == "ios-simulator"]
    assert listed.state == "not available: it needs macOS with Xcode, this is Linux"
    with pytest.raises(
        RuntimeUnavailableError, match=r"iOS simulator is not available: it needs macOS with Xcode"
    ):
        profiled(bundle)


def test_a_mac_without_xcode_is_told_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(simulator, "platform", SimpleNamespace(system=lambda: "Darwin"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeUnavailableError, match="xcrun was not found; install Xcode"):
        simulators()


def test_devices_are_those_of_ios_the_newest_first(xcode: Xcode) -> None:
    commands = xcode()
    assert [one.udid for one in simulators()] == ["PAD", "NEW", "OLD"]
    assert simulators()[1] == Simulator("NEW", "iPhone 16", "iOS 18.2", booted=False)
    assert find_simulator("OLD").name == "iPhone 15"
    assert commands()[0] == ["simctl", "list", "devices", "available", "--json"]
    names = [one.name for one in catalogue.list_devices()]
    assert names[-3:] == ["ios-simulator:PAD", "ios-simulator:NEW", "ios-simulator:OLD"]


def test_one_that_runs_is_preferred(xcode: Xcode) -> None:
    devices = json.loads(json.dumps(DEVICES).replace("Shutdown", "Booted", 1))
    xcode(devices=devices)
    assert find_simulator() == Simulator("OLD", "iPhone 15", "iOS 17.5", booted=True)


@pytest.mark.parametrize(
    ("devices", "udid", "text"),
    [
        (DEVICES, "NONE", r"no simulated device 'NONE'; there is PAD \(iPad Pro, iOS 18\.2\)"),
        ({"devices": {}}, "", "no simulated iPhone: add one with `xcodebuild -downloadPlatform iOS`"),
        ([], "", "what is not understood"),
    ],
)
def test_a_device_that_is_not_there_is_said(xcode: Xcode, devices: object, udid: str, text: str) -> None:
    xcode(devices=devices)
    with pytest.raises(RuntimeUnavailableError, match=text):
        find_simulator(udid)


def test_programs_are_compiled_run_and_compared(bundle: nagedge.Bundle, runner: str, xcode: Xcode) -> None:
    commands = xcode(runner=runner.replace("OFF", "0"))
    found = profiled(bundle)
    assert found.failures == ()
    assert [one.name for one in found.workloads] == ["infer", "train"]
    for workload in found.workloads:
        assert workload.device == "ios-simulator:PAD"
        assert workload.evidence == workload.latency.evidence == "measured-host"
        assert workload.runtime == "Core ML, iOS 18.2"
        assert workload.latency.quantile(0.5).value == 1.0
        assert (workload.latency.first_ms, workload.load_ms) == (2.0, 5.5)
        assert "no iPhone took these times" in workload.notes[0]
        assert workload.notes[-1].startswith("It computes what the program says")
    steps = [command for command in commands() if "list" not in command]
    compiling, building, booting, spawning = steps[:4]
    assert compiling[:2] == ["coremlcompiler", "compile"]
    assert compiling[2].endswith(".mlpackage")
    assert building[:3] == ["--sdk", "iphonesimulator", "swiftc"]
    assert building[building.index("-target") + 1] == "arm64-apple-ios16.0-simulator"
    assert booting == ["simctl", "bootstatus", "PAD", "-b"]
    assert spawning[:3] == ["simctl", "spawn", "PAD"]
    assert spawning[4].endswith("request.json")


def test_a_program_that_computes_something_else_is_not_called_right(
    bundle: nagedge.Bundle, runner: str, xcode: Xcode
) -> None:
    xcode(runner=runner.replace("OFF", "0.1"))
    found = profiled(bundle, what=["infer"])
    assert found.workloads[0].notes[-1].startswith("It does NOT compute what the program says")


@pytest.mark.parametrize(
    ("failing", "text"),
    [
        (("coremlcompiler", "compile"), r"compiler refuses '.*infer\.mlpackage': ERROR: it went wrong"),
        (("simctl", "spawn"), r"iOS simulator \(iPad Pro, iOS 18\.2\) ended while it ran 'infer\.mlmodelc': ERROR: it"),
    ],
)  # fmt: skip
def test_what_apple_refuses_is_named(
    bundle: nagedge.Bundle, xcode: Xcode, failing: tuple[str, str], text: str
) -> None:
    xcode(failing)
    with pytest.raises(BundleError, match=text):
        profiled(bundle, what=["infer"])


@pytest.mark.parametrize(
    "failing", [("--sdk", "iphonesimulator"), ("simctl", "bootstatus"), ("simctl", "list")]
)
def test_an_xcode_that_fails_says_what(
    bundle: nagedge.Bundle, xcode: Xcode, failing: tuple[str, str]
) -> None:
    xcode(failing)
    with pytest.raises(
        RuntimeUnavailableError, match=f"`xcrun {failing[0]} {failing[1]}` failed: ERROR: it went wrong"
    ):
        profiled(bundle, what=["infer"])


def test_a_runner_that_leaves_no_answer_is_an_error(bundle: nagedge.Bundle, xcode: Xcode) -> None:
    xcode()
    with pytest.raises(BundleError, match="it left no answer"):
        profiled(bundle, what=["infer"])


def test_only_core_ml_programs_are_run(bundle: nagedge.Bundle, xcode: Xcode) -> None:
    xcode()
    with pytest.raises(
        RuntimeUnavailableError, match="takes Core ML programs, and this one is of 'onnxruntime'"
    ):
        nagedge.profile(bundle, device="ios-simulator", target="any-any-onnxruntime-fp32", what=["infer"])


def test_a_name_without_a_device_is_refused(bundle: nagedge.Bundle) -> None:
    with pytest.raises(ConfigurationError, match="adb:SERIAL or ios-simulator"):
        nagedge.profile(bundle, device="ios")


def test_arrays_keep_their_shape_and_kind(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.int32).reshape(2, 3)
    (tmp_path / "a").write_bytes(values.tobytes())
    read = simulator._read(tmp_path, {"type": "int32", "shape": [2, 3], "file": "../a"})
    assert read.dtype == np.int32
    np.testing.assert_array_equal(read, values)
