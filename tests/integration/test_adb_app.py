"""``nagedge profile --device adb:SERIAL`` drives the app's own benchmark, through the real adb, on a test device.

The device is adb_device.py with the commands of android_device.py: the activity, `core` and ONNX Runtime are the real
ones, on this machine's JVM.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from adb_device import TestDevice, attached_device
from android_built import Built
from android_device import AndroidCommands, two_kinds_of_cores
from android_golden import TARGET

import walkthrough  # isort: skip
import nagedge
from nagedge.devices import android_app
from nagedge.devices.catalogue import list_devices
from nagedge.devices.host import describe_host
from nagedge.errors import BundleError, RuntimeUnavailableError
from nagedge.profiling import attached
from nagedge.profiling.report import render_report
from nagedge.profiling.results import SCHEMA_VERSION, Profile
from nagedge.profiling.tables import profile_sheets, to_markdown


@dataclass(frozen=True)
class Phone:
    """A device with Android's commands."""

    device: TestDevice
    commands: AndroidCommands

    @property
    def name(self) -> str:
        return f"adb:{self.device.serial}"


@pytest.fixture
def phone(built: Built, tmp_path: Path, adb_server: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Phone]:
    """A phone with the app and without Python."""
    monkeypatch.setattr(attached, "_ROUNDS", 2)  # a JVM is started in each
    monkeypatch.setattr(android_app, "_POLL_S", 0.2)
    java, environment = walkthrough.launch_command(
        built.tools, built.core, built.folder, built.folder / "assets"
    )
    commands = AndroidCommands(tmp_path / "android", java, environment)
    with attached_device(tmp_path / "device", _without_python(commands), adb_server, monkeypatch) as device:
        yield Phone(device, commands)
    commands.kill()


def _without_python(commands: AndroidCommands) -> str:
    """The PATH of a phone: what toybox has, by the names of this machine's programs; no python3."""
    folder = commands.folder / "toybox"
    folder.mkdir()
    for name in ("cat", "chmod", "echo", "grep", "ls", "mkdir", "rm", "sh", "taskset"):
        for place in ("/usr/bin", "/bin"):
            if (Path(place) / name).exists():
                (folder / name).symlink_to(Path(place) / name)
                break
    return f"{commands.programs}:{folder}"


def profile(bundle: nagedge.Bundle, device: str, *what: str) -> Profile:
    return nagedge.profile(bundle, what=what, device=device, target=TARGET, batch=3, budget_s=0.6)


def test_the_app_measures_what_was_pushed(built: Built, phone: Phone) -> None:
    slow, fast = two_kinds_of_cores(phone.device.folder)
    found = profile(built.exported, phone.name, "infer", "train")
    assert found.failures == ()
    assert [workload.name for workload in found.workloads] == ["infer", "train"]
    for workload in found.workloads:
        assert (workload.device, workload.evidence) == (phone.name, "measured-device")
        assert workload.latency.evidence == "measured-device"
        assert (workload.target, workload.batch, workload.threads) == (TARGET, 3, 1)
        assert (
            workload.artifact
            == built.exported.manifest.targets[TARGET].artifacts[
                {"infer": "infer", "train": "train_step"}[workload.name]
            ]
        )
        assert workload.runtime == "onnxruntime 1.26.0", "the app's own, not that of this Python"
        assert workload.latency.quantile(0.5).value is not None
        assert "Measured by the NagEdge app on stand-in." in workload.notes
        run = workload.device_run
        assert run is not None
        assert (run.program, run.rounds, run.rounds_throttled, run.ended) == ("app", 2, 0, "")
        assert run.machine == "NagEdge stand-in, none, Android 7.0 (API 24)"
        if slow != fast:
            assert run.cores == f"{fast}, the fastest of 2 kinds"
            assert {one.conditions.highest_clock_mhz for one in run.readings} == {2800.0}, "of that core"
        readings = [
            (one.stage, one.conditions.battery_percent, one.conditions.temperature_c) for one in run.readings
        ]
        assert readings[0] == ("before", 77, 31.6)
        assert readings[-1] == ("after", 77, 31.6)
    (listed,) = [one for one in list_devices() if one.name == phone.name]
    assert (listed.runtimes, listed.state) == ("the Android app (onnxruntime)", "ready")
    # The bundle went over once; each round is a new process, told what to do.
    started = phone.commands.started()
    assert len(started) == 4
    assert all("start -S -W -n dev.nagedge.demo/.BenchmarkActivity" in line for line in started)
    assert [("--es what infer" in line, "--ei budget_ms 300" in line) for line in started] == [
        (True, True), (True, True), (False, True), (False, True)
    ]  # fmt: skip
    digest = built.exported.manifest.content_hash()
    pushed = phone.device.real(f"/data/local/tmp/nagedge/bundles/{digest[:16]}")
    modes = {path.name: path.stat().st_mode & 0o777 for path in pushed.rglob("*") if path.name != "complete"}
    assert modes["manifest.json"] == 0o644
    assert {mode for name, mode in modes.items() if (pushed / name).is_dir()} <= {0o755}

    again = Profile.from_json(found.to_json())
    assert again == found
    page, text = render_report(found), to_markdown(profile_sheets(found))
    for said in (page, text):
        assert "Attached devices, before, during and after" in said
        assert "NagEdge stand-in, none, Android 7.0 (API 24)" in said


def test_a_round_of_a_hot_phone_is_dropped_and_counted(
    built: Built, phone: Phone, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attached, "_ROUNDS", 3)

    def second_is_hot(command: str) -> None:
        if command.startswith("am start"):
            phone.commands.weather(status=3 if len(phone.commands.started()) == 1 else 0, heat=44.0)

    phone.device.before = second_is_hot
    (workload,) = profile(built.exported, f"{phone.name}/app/all", "infer").workloads
    run = workload.device_run
    assert run is not None
    # The third begins as hot as the second ended: what was read before it says so.
    assert run.rounds + run.rounds_throttled == 3
    assert run.rounds_throttled in (1, 2)
    assert run.calls_throttled > 0
    assert run.why_throttled == "Android's thermal status was 3"
    assert run.cores == "any: as its system schedules them"
    assert max(one.conditions.thermal_status or 0 for one in run.readings) == 3
    assert (
        f"{run.rounds} rounds in new processes count, {run.rounds_throttled} were dropped"
        in workload.notes[0]
    )
    assert f"({run.calls_throttled} calls: Android's thermal status was 3)" in workload.notes[0]
    data = json.loads(Profile.to_json(replace(_empty(), workloads=(workload,))))
    assert data["workloads"][0]["device_run"]["calls_throttled"] == run.calls_throttled
    sheet = next(
        one for one in profile_sheets(replace(_empty(), workloads=(workload,))) if "Attached" in one.title
    )
    (row,) = sheet.rows
    assert dict(zip(sheet.columns, row, strict=True))["throttled calls"] == run.calls_throttled


def _empty() -> Profile:
    return Profile(SCHEMA_VERSION, "2026-01-01T00:00:00+00:00", "folded", ("adb:x",), describe_host(), (), ())


def test_a_phone_that_is_always_hot_is_told_to_cool_down(built: Built, phone: Phone) -> None:
    phone.commands.weather(status=4)
    with pytest.raises(
        RuntimeUnavailableError,
        match=r"throttled in all of 2 rounds: Android's thermal status was 4\. Let it cool",
    ):
        profile(built.exported, phone.name, "infer")


def test_a_phone_that_is_unplugged_leaves_the_rounds_that_were_complete(built: Built, phone: Phone) -> None:
    def in_the_second(command: str) -> None:
        if command.startswith("dumpsys activity") and len(phone.commands.started()) == 2:
            phone.device.unplug()

    phone.device.before = in_the_second
    found = profile(built.exported, phone.name, "infer", "train")
    (workload,) = found.workloads
    assert workload.device_run is not None
    assert workload.device_run.rounds == 1
    assert "is gone" in workload.device_run.ended
    assert workload.notes[-1].startswith("Ended early, the complete rounds are kept: device '127.0.0.1:")
    assert len(workload.latency.samples_ms) >= 2
    (failure,) = found.failures
    assert (failure.name, failure.device) == ("train", phone.name)
    assert "Plug it in" in failure.reason


def test_an_app_that_is_killed_or_closed_is_noticed(built: Built, phone: Phone) -> None:
    def once_it_measures(command: str) -> None:
        dump = phone.commands.folder / "dump"
        if command.startswith("dumpsys activity") and dump.exists() and "state=measuring" in dump.read_text():
            looked.append(command)
            if len(looked) == 2:
                phone.commands.kill()

    looked: list[str] = []
    phone.device.before = once_it_measures
    with pytest.raises(
        RuntimeUnavailableError, match=r"was closed or killed before it was done\. Leave the phone alone"
    ):
        # Steps that are long enough to be looked at twice.
        nagedge.profile(
            built.exported, what=["train"], device=phone.name, target=TARGET, batch=512, budget_s=60
        )


def test_a_bundle_that_arrives_damaged_is_refused_with_the_apps_words(built: Built, phone: Phone) -> None:
    def damage(command: str) -> None:
        if command.startswith("am start"):
            for path in phone.device.real("/data/local/tmp/nagedge/bundles").rglob("infer.onnx"):
                path.write_bytes(path.read_bytes()[:-1])

    phone.device.before = damage
    with pytest.raises(
        BundleError, match=r"the app on device .* cannot measure it: .*infer\.onnx has \d+ bytes"
    ):
        profile(built.exported, phone.name, "infer")


def test_a_device_without_app_and_python_says_what_it_lacks(
    built: Built, tmp_path: Path, adb_server: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = AndroidCommands(tmp_path / "android", None, {})
    with attached_device(tmp_path / "device", _without_python(commands), adb_server, monkeypatch) as device:
        with pytest.raises(RuntimeUnavailableError) as caught:
            profile(built.exported, f"adb:{device.serial}", "infer")
        for part in (
            "the app (dev.nagedge.demo) is not installed", "the device has no python3",
            "onnxruntime_perf_test is neither in the folder that NAGEDGE_DEVICE_PROGRAMS names nor in /data/local/tmp",
        ):  # fmt: skip
            assert part in str(caught.value)
        with pytest.raises(RuntimeUnavailableError, match=r"on device .*: the device has no python3\.$"):
            profile(built.exported, f"adb:{device.serial}/python", "infer")
        # An app that is there by name only: Android says so, with the exit code 0.
        (commands.programs / "pm").write_text('#!/bin/sh\necho "package:/data/app/old.apk"\n')
        with pytest.raises(
            RuntimeUnavailableError, match=r"cannot be started: Error type 3.*Install the app"
        ):
            profile(built.exported, f"adb:{device.serial}", "infer")
