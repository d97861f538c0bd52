"""A whole emulated machine for real: a kernel, two cores, two threads, and the same ticks every time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import nagedge
from nagedge.devices import arm64_system
from nagedge.devices.arm64 import Installation
from nagedge.profiling.results import Profile

pytestmark = pytest.mark.slow(reason="a kernel starts in an emulator, four times; 60 MB are downloaded once")
FP32, LITE = "any-any-onnxruntime-fp32-train", "android-arm64-litert-fp32-train"


def test_two_threads_tick_the_same_every_time(emulator: Installation, busy: None, tmp_path: Path) -> None:
    arm64_system.setup()
    torch.manual_seed(0)
    bundle = nagedge.export(
        nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 64)),
        tasks=[nagedge.TaskSpec("level", "regression", size=64)],
        example_input=torch.randn(8, 64),
        targets=[FP32, LITE],
        out=tmp_path / "bundle",
    )

    def profiled(target: str) -> Profile:
        return nagedge.profile(
            bundle, what=["train"], device="emulated-system:cortex-a72", target=target, threads=2, batch=16
        )

    for target in (FP32, LITE):
        (first,), (again,) = profiled(target).systems, profiled(target).systems
        assert first == again
        assert first.parity.within_tolerance
        assert (first.threads, first.evidence, first.calls) == (2, "emulated-count", 5)
        # Two products of matrices forward, and about twice that backward; four lanes an instruction, at the most.
        assert first.median_ticks > 3 * 16 * 2 * 64 * 256 / 4
