"""How something was timed on an attached device: by what, on which cores, how hot, and what did not count."""

from __future__ import annotations

from dataclasses import dataclass

from nagedge.devices.conditions import Conditions

__all__ = ["DeviceRun", "Reading"]


@dataclass(frozen=True)
class Reading:
    """What the device said of itself at one time.

    Args:
        stage: ``"before"``, ``"during"`` or ``"after"`` what was timed. at_s: since the first reading.
        conditions: what it said.
    """

    stage: str
    at_s: float
    conditions: Conditions


@dataclass(frozen=True)
class DeviceRun:
    """The circumstances of figures of an attached device.

    Args:
        program: what ran the artifact: ``"app"``, ``"python"``, ``"benchmark_model"`` or ``"onnxruntime_perf_test"``.
        machine: the device, as it calls itself; empty where it does not.
        cores: which it ran on, and why.
        rounds: that count. rounds_throttled, calls_throttled: that do not, as the device was slowed down meanwhile.
        why_throttled: of the last of those; empty when there is none.
        ended: why it ended early; empty when it did not.
        readings: in order of time.
    """

    program: str
    machine: str
    cores: str
    rounds: int
    rounds_throttled: int
    calls_throttled: int
    why_throttled: str
    ended: str
    readings: tuple[Reading, ...]
