"""The model against sums done by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nagedge.devices.counting import Instructions, Traffic
from nagedge.devices.device_profiles import DeviceProfile
from nagedge.profiling.modelled import model_latency

SHEET = DeviceProfile(
    name="sheet", title="A board", core="cortex-a53", exact_core=True, clock_mhz=1000, issue_width=2,
    integers_per_cycle=2, branches_per_cycle=1, loads_per_cycle=1, stores_per_cycle=1, vectors_per_cycle=1,
    lowest_ipc=0.5, level2_latency_cycles=10, memory_gb_per_s=2, sources=("an estimate",),
)  # fmt: skip
COUNTS = Instructions(
    1_000_000, 500_000, 50_000, 100_000, 50_000, 100_000, 0, 0, 50_000, 150_000, 0, 0, 600_000
)
TRAFFIC = Traffic(200_000, 50_000, 1_600_000, 400_000, 10_000, 1_000)


def modelled(counts: Instructions = COUNTS, traffic: Traffic = TRAFFIC, sheet: DeviceProfile = SHEET):  # noqa: ANN201
    return model_latency(counts, traffic, sheet, name="infer", target="t", precision="fp32")


def test_the_fast_end_is_the_busiest_part() -> None:
    found = modelled()
    assert found.evidence == "modelled"
    assert (found.bound_by, found.low_ms) == ("decoding", pytest.approx(0.5))  # 1e6 / 2 a cycle at 1 GHz
    vector = modelled(replace(COUNTS, multiply_add=700_000))
    assert (vector.bound_by, vector.low_ms) == ("vector units", pytest.approx(0.75))
    memory = modelled(traffic=replace(TRAFFIC, level2_misses=100_000))
    assert (memory.bound_by, memory.low_ms) == ("memory", pytest.approx(3.2))  # 6.4 MB at 2 GB/s


def test_the_slow_end_waits_for_everything() -> None:
    # 1e6 / 0.5 cycles, 10,000 misses of 10 cycles, 64 kB at 2 GB/s
    assert modelled().high_ms == pytest.approx(2.0 + 0.1 + 0.032)


def test_a_faster_clock_halves_what_is_not_memory() -> None:
    fast = modelled(sheet=replace(SHEET, clock_mhz=2000))
    assert fast.low_ms == pytest.approx(0.25)
    assert fast.high_ms == pytest.approx(1.05 + 0.032)


def test_the_assumptions_say_whose_core_was_counted() -> None:
    assert modelled().assumptions[0] == "The device has a cortex-a53."
    other = modelled(sheet=replace(SHEET, exact_core=False))
    assert "own core is not emulated: counted on cortex-a53" in other.assumptions[0]
    assert any("not throttled" in text for text in other.assumptions)
