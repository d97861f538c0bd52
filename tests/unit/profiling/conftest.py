"""A profile with known figures, and a small bundle that is really profiled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

import nagedge
from nagedge.devices.counting import Instructions, Traffic
from nagedge.devices.device_profiles import load_device_profile
from nagedge.devices.host import HostDescription
from nagedge.profiling.measure import Samples, summarise
from nagedge.profiling.memory import MemoryPeak
from nagedge.profiling.memory_timeline import MemoryTimeline
from nagedge.profiling.modelled import model_latency
from nagedge.profiling.operators import OperatorRow, OperatorTable
from nagedge.profiling.parity import Parity
from nagedge.profiling.results import (
    SCHEMA_VERSION,
    CountProfile,
    Failure,
    Profile,
    SystemProfile,
    Version,
    WorkloadProfile,
)

TIMELINE = MemoryTimeline(
    "measured-host", "/proc", (0.0, 6.0, 9.0, 12.0, 15.0, 18.0, 21.0),
    tuple(size << 20 for size in (50, 80, 90, 93, 90, 93, 90)), 10.0, (11.0, 16.0, 22.0), 40,
)  # fmt: skip


def _host(**changes: object) -> HostDescription:
    facts: dict[str, object] = {
        "cpu_model": "Example CPU",
        "architecture": "x86_64",
        "logical_cores": 4,
        "usable_cores": 2,
        "memory_bytes": 8 << 30,
        "os_name": "Linux",
        "os_version": "6.1",
        "governor": None,
        "max_frequency_mhz": None,
        "virtual_machine": False,
        "load_average": 0.1,
    }
    return HostDescription(**{**facts, **changes})  # type: ignore[arg-type]


def workload(name: str, *, calls: int, notes: tuple[str, ...] = ()) -> WorkloadProfile:
    """First call 90 ms, 30 calls of 20 ms, then ``calls`` around 10 ms."""
    steady = 10.0 + 0.1 * np.random.default_rng(0).gamma(2.0, 1.0, calls)
    durations = np.concatenate([[90.0], np.full(30, 20.0), steady])
    samples = Samples(tuple(int(d * 1e6) for d in durations), "budget", 3.0, 2, 1.0)
    rows = tuple(OperatorRow(f"Op{i}", "", 1, 1.0, 1.0 / 2**i, 0.5**i) for i in range(1, 13))
    nodes = tuple(OperatorRow(f"Op{i}", f"node_{i}", 1, 1.0, 1.0 / 2**i, 0.5**i) for i in range(1, 13))
    return WorkloadProfile(
        name=name,
        device="host",
        target="any-any-onnxruntime-fp32-train",
        precision="fp32",
        artifact=f"targets/any/{name}.onnx",
        runtime="onnxruntime 1.2.3",
        threads=1,
        batch=16,
        evidence="measured-host",
        load_ms=12.0,
        latency=summarise(samples),
        operators=OperatorTable(20, 5, 12.0, 11.0, rows, nodes),
        memory=MemoryPeak("measured-host", "VmHWM", 3 << 20, False, 40 << 20, 90 << 20, 3, TIMELINE),
        notes=notes,
    )


@pytest.fixture(scope="session")
def known_profile() -> Profile:
    return Profile(
        schema_version=SCHEMA_VERSION,
        created="2026-01-02T03:04:05+00:00",
        bundle="digits",
        devices=("host",),
        host=_host(),
        versions=(Version("nagedge", "0.0"), Version("onnxruntime", "1.2.3")),
        workloads=(
            workload("infer", calls=500),
            workload("train", calls=120, notes=("A note to the reader.",)),
        ),
    )


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> nagedge.Bundle:
    import torch
    from torch import nn

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 64), nn.Tanh(), nn.Linear(64, 3))
    return nagedge.export(
        model,
        tasks=[nagedge.TaskSpec("state", "classification", size=3)],
        example_input=torch.randn(4, 32),
        targets=["any-any-onnxruntime-fp32-train"],
        out=tmp_path_factory.mktemp("profiled") / "bundle",
    )


@pytest.fixture(scope="session")
def host() -> Callable[..., HostDescription]:
    """Makes a quiet machine of two usable cores; keywords change its facts."""
    return _host


def _instructions(total: int) -> Instructions:
    return Instructions(total, total - 60, 5, 10, 5, 10, 5, 0, 5, 15, 5, 0, 140)


def count(name: str, core: str, precision: str, total: int, *, agrees: bool = True) -> CountProfile:
    parity = Parity(1, "loss", 1e-6, 1e-7, 0.1 if agrees else None, agrees, 1e-4, 1e-5)
    return CountProfile(
        name=name, device=f"emulated:{core}", target=f"android-arm64-litert-{precision}", precision=precision,
        artifact="model.tflite", runtime="litert 2.3", batch=1, evidence="emulated-count", call="an invocation",
        regions=5, median=_instructions(total), lowest=total, highest=total + 1, first=_instructions(2 * total),
        empty=7000, traffic=Traffic(10, 5, 400, 200, 8, 2), parity=parity,
    )  # fmt: skip


@pytest.fixture(scope="session")
def counted_profile(known_profile: Profile) -> Profile:
    """The known profile with counts of two cores, what is modelled from them, and a failure."""
    counts = (
        count("infer", "cortex-a53", "fp32", 100_000), count("infer", "cortex-a53", "int8", 190_000),
        count("train", "cortex-a53", "fp32", 400_000), count("infer", "cortex-a76", "fp32", 90_000, agrees=False),
    )  # fmt: skip
    sheet = load_device_profile("raspberry-pi-3b")
    modelled = [
        model_latency(
            one.median, one.traffic, sheet, name=one.name, target=one.target, precision=one.precision
        )
        for one in counts[:3]
        if one.traffic is not None
    ]
    return replace(
        known_profile,
        devices=("host", "emulated:cortex-a53", "emulated:cortex-a76", "emulated-system:cortex-a72"),
        counts=counts,
        modelled=tuple(modelled),
        systems=(
            SystemProfile(
                "train",
                "emulated-system:cortex-a72",
                "android-arm64-litert-fp32",
                "fp32",
                "model.tflite",
                "litert 2.3",
                2,
                16,
                "emulated-count",
                "an invocation",
                5,
                2_000_100,
                2_000_000,
                2_000_200,
                3_000_000,
                counts[0].parity,
            ),
        ),
        failures=(
            Failure("train", "emulated:cortex-a76", "android-arm64-litert-fp32", "the emulator was killed"),
        ),
    )
