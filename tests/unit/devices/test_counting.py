"""What is made of the plugin's lines, and of an emulator that dies."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from nagedge.devices import counting
from nagedge.devices.arm64 import Installation
from nagedge.devices.cores import CORES, find_core, write_system_files
from nagedge.devices.counting import Instructions, count_calls, summarise_regions
from nagedge.devices.names import parse_device
from nagedge.errors import BundleError, ConfigurationError
from nagedge.runtimes import runner


def line(label: int, instructions: int) -> dict[str, int]:
    table = {field.name: 0 for field in fields(Instructions)}
    return {**table, "label": label, "instructions": instructions, "integer": instructions - 5, "load": 5}


def test_the_median_region_counts_less_an_empty_one() -> None:
    calls = [line(number, value) for number, value in enumerate((900, 500, 400, 110, 150, 120, 130, 140))]
    empties = [
        line(runner.FIRST_EMPTY_LABEL + number, value) for number, value in enumerate((10, 12, 10, 11, 10))
    ]
    median, lowest, highest, first, empty = summarise_regions([*calls, *empties], warm_up=3)
    assert (median.instructions, lowest, highest, first.instructions, empty) == (120, 100, 140, 890, 10)
    assert median.integer + median.load == median.instructions  # one region: its classes add up
    assert median.load == 0  # the empty one has them too


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (
            "echo 'about to go' >&2; kill -SEGV $$",
            r"was killed by SIGSEGV while it ran 'm.onnx' on onnxruntime on an ",
        ),
        ("echo 'about to go' >&2; exit 139", "was killed by SIGSEGV"),
        ("echo 'about to go' >&2; exit 3", "ended with exit code 3"),
    ],
)
def test_an_emulator_that_crashes_names_the_artifact(
    script: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        counting, "guest_python", lambda *a, **k: (["sh", "-c", script], {"PATH": "/usr/bin:/bin"})
    )
    with pytest.raises(BundleError, match=text) as caught:
        count_calls(
            Installation(tmp_path),
            "cortex-a53",
            "onnxruntime",
            tmp_path / "m.onnx",
            {"x": np.zeros(2, np.float32)},
        )
    assert "Its last words: about to go" in str(caught.value)
    assert "What was measured before is kept" in str(caught.value)


def test_an_emulator_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        counting, "guest_python", lambda *a, **k: (["sh", "-c", "sleep 60"], {"PATH": "/usr/bin:/bin"})
    )
    with pytest.raises(BundleError, match=r"did not finish within 0\.1 s"):
        count_calls(Installation(tmp_path), "cortex-a53", "onnxruntime", tmp_path / "m", {}, timeout_s=0.1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "emulated:cortex-a99",
            r"unknown core 'cortex-a99'; the emulator has cortex-a35.*Did you mean 'cortex-a",
        ),
        ("emulated", "unknown core ''"),
        ("emulate:cortex-a53", r"unknown device .* Did you mean 'emulated'\?"),
        ("host:1", "unknown device 'host:1'"),
    ],
)
def test_a_device_that_does_not_exist_is_refused(name: str, text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        parse_device(name)


def test_device_names_are_kept() -> None:
    assert [parse_device(name).name for name in ("host", " emulated:cortex-a53")] == [
        "host",
        "emulated:cortex-a53",
    ]


@pytest.mark.parametrize("name", CORES)
def test_a_core_shows_its_own_part_number_and_features(name: str, tmp_path: Path) -> None:
    write_system_files(tmp_path, find_core(name))
    text = (tmp_path / "proc/cpuinfo").read_text()
    assert text.count(f"CPU part\t: {CORES[name].part}\n") == 2
    assert ("asimddp" in text) == CORES[name].dot_products
    assert (tmp_path / "sys/devices/system/cpu/cpu1/cache/index2/size").read_text() == "512K\n"
