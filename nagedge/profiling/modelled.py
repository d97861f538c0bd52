"""A range for the latency on a device, from counts and the core's data sheet. A model, never a measurement.

The fast end assumes that everything overlaps: the busiest of the decoder, the pipelines and the memory decides. The
slow end
assumes that nothing does: every instruction at the core's worst rate, every miss waited for. A real core lies between
them, one thread, at its highest clock, when nothing else runs and nothing is hot. This is a roofline (Williams,
Waterman and
Patterson 2009) with one roof a pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass

from nagedge.devices.counting import Instructions, Traffic
from nagedge.devices.device_profiles import DeviceProfile

__all__ = ["EVIDENCE_MODEL", "ModelledLatency", "model_latency"]

EVIDENCE_MODEL = "modelled"
"""The evidence class of every figure here: computed, from counts and a data sheet."""

_LINE_BYTES = 64


@dataclass(frozen=True)
class ModelledLatency:
    """What a call may take on a device.

    Args:
        name, target, precision: of the artifact.
        profile: name of the device profile. title: of the device. core: whose counts were used.
        evidence: ``"modelled"``.
        low_ms, high_ms: the range; there is no figure within it that is likelier than another.
        bound_by: what the fast end is decided by: ``decoding``, a pipeline, or ``memory``.
        assumptions: what the range rests on, in plain sentences.
    """

    name: str
    target: str
    precision: str
    profile: str
    title: str
    core: str
    evidence: str
    low_ms: float
    high_ms: float
    bound_by: str
    assumptions: tuple[str, ...]


def model_latency(
    counts: Instructions, traffic: Traffic, device: DeviceProfile, *, name: str, target: str, precision: str
) -> ModelledLatency:
    """Return the range for one call.

    Args:
        counts, traffic: of a call, counted on ``device.core``.
        device: the data sheet.
        name, target, precision: of the artifact.
    """
    cycles = {
        "decoding": counts.instructions / device.issue_width,
        "integer units": counts.integer / device.integers_per_cycle,
        "branches": counts.branch / device.branches_per_cycle,
        "loads": (counts.load + counts.vector_load) / device.loads_per_cycle,
        "stores": (counts.store + counts.vector_store) / device.stores_per_cycle,
        "vector units": (counts.vector + counts.multiply_add + counts.dot + counts.scalar_fp)
        / device.vectors_per_cycle,
    }
    cycles_a_ms = device.clock_mhz * 1e3
    memory_ms = traffic.level2_misses * _LINE_BYTES / (device.memory_gb_per_s * 1e6)
    roofs_ms = {unit: count / cycles_a_ms for unit, count in cycles.items()} | {"memory": memory_ms}
    bound_by = max(roofs_ms, key=lambda unit: roofs_ms[unit])
    stalled = counts.instructions / device.lowest_ipc + traffic.level1_misses * device.level2_latency_cycles
    nearest = f"The device has a {device.core}."
    if not device.exact_core:
        nearest = (
            f"The device's own core is not emulated: counted on {device.core}, where a runtime may choose other "
            "kernels."
        )
    return ModelledLatency(
        name=name, target=target, precision=precision, profile=device.name, title=device.title, core=device.core,
        evidence=EVIDENCE_MODEL, low_ms=roofs_ms[bound_by], high_ms=stalled / cycles_a_ms + memory_ms,
        bound_by=bound_by,
        assumptions=(
            nearest,
            f"One thread at {device.clock_mhz:,.0f} MHz, not throttled, nothing else running.",
            f"Fast end: {device.issue_width:g} instructions a cycle and every pipeline busy, all misses hidden.",
            (
                f"Slow end: {device.lowest_ipc:g} instructions a cycle, every miss waited for "
                f"({device.level2_latency_cycles:g} cycles, then {device.memory_gb_per_s:g} GB/s)."
            ),
            "Caches of 32 KiB and 512 KiB without prefetching.",
        ),
    )  # fmt: skip
