"""Every target of a bundle, each in the runtimes that can run it here."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nagedge.bundle import Bundle
from nagedge.errors import ConfigurationError, RuntimeUnavailableError, UnsupportedOperatorError
from nagedge.evaluation import compare_metrics, examples_of
from nagedge.manifest import CheckEntry, ComparisonEntry, MetricEntry, TargetEntry, VerificationEntry
from nagedge.runtimes import available_runtime, runtimes_of
from nagedge.verification.batches import batch_sizes
from nagedge.verification.comparison import Comparison, severity, worst_first
from nagedge.verification.inference import inference
from nagedge.verification.trajectory import Lane, long_step, stable_lr, trajectory

if TYPE_CHECKING:
    from nagedge.data.examples import Examples

__all__ = ["verify"]

Progress = Callable[[str, int, int], None]
Half = Literal["inference", "training"]

_KEPT_IN_MANIFEST = 8


def verify(
    bundle: Bundle,
    *,
    steps: int = 20,
    target: str | None = None,
    data: str | Path | Examples | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Compare every target of ``bundle`` with PyTorch and store the verdicts in the manifest.

    A target whose runtime cannot be had on this machine is skipped, with its reason in the manifest: it has no
    comparisons, and its entry is not within tolerance.

    Args:
        bundle: what :func:`nagedge.load` or :func:`nagedge.export` returned.
        steps: length of the training trajectory, >= 1.
        target: verify only this one.
        data: held-out examples (a file of raw ones, or prepared ones), on which each task's metric of quantised
            targets is compared with PyTorch's; None leaves the metrics out.
        seed: of the batches: inputs like the example input, random targets and sample weights.
        progress: called with a description, the steps done and the steps in all.

    Returns:
        One comparison a tensor and step. Those out of tolerance come first, the earliest step before later ones
        (what goes wrong first is the cause of what follows), then the others; each by how little they agree.
    """
    if steps < 1:
        raise ConfigurationError(f"steps is {steps}, expected a number >= 1.")
    if target is not None:
        bundle.target(target)
    report = progress or (lambda description, completed, total: None)
    held_out = None if data is None else examples_of(bundle, data)
    names = [target] if target is not None else list(bundle.manifest.targets)
    comparisons: list[Comparison] = []
    entries: dict[str, list[VerificationEntry]] = {}
    rates: dict[tuple[int, int], float] = {}  # by batch sizes: the search is PyTorch's alone
    for name in names:
        entry = bundle.manifest.targets[name]
        for runtime in runtimes_of(entry.backend):
            lane = Lane(bundle, name, runtime, seed)
            lr = 0.0
            realigned: list[int] = []
            try:
                version = available_runtime(runtime, progress)
                found = list(inference(lane))
                if "train_step" in entry.artifacts:
                    sizes = batch_sizes(bundle.manifest, name)
                    lr = rates.setdefault(sizes, 0.0) or stable_lr(lane, steps, report)
                    rates[sizes] = lr
                    found += long_step(lane)
                    found += trajectory(lane, steps, lr, report, realigned)
                metrics = [] if held_out is None or entry.precision == "fp32" else _metrics(lane, held_out)
            except (RuntimeUnavailableError, UnsupportedOperatorError) as error:
                entries.setdefault(name, []).append(_skipped(lane, str(error)))
                continue
            comparisons += found
            stored = _entry(lane, version, found, steps if lr else 0, lr, realigned, metrics)
            entries.setdefault(name, []).append(stored)
    bundle.with_verification(entries)
    return sorted(comparisons, key=severity)


def _metrics(lane: Lane, held_out: Examples) -> list[MetricEntry]:
    return [
        MetricEntry(task=task, metric=metric, reference=reference, target=got, examples=len(held_out))
        for task, metric, reference, got in compare_metrics(
            lane.bundle, held_out, target=lane.target, runtime=lane.runtime
        )
    ]


def _skipped(lane: Lane, reason: str) -> VerificationEntry:
    halves: list[Half] = ["inference", "training"] if "train_step" in lane.entry.artifacts else ["inference"]
    return VerificationEntry(
        runtime=lane.runtime, reference=_reference(), steps=0, batch=batch_sizes(lane.bundle.manifest, lane.target)[0],
        lr=0.0, worst=[],
        checks={half: _check(lane.entry, half, [], reason) for half in halves},
    )  # fmt: skip


def _entry(
    lane: Lane, runtime: str, comparisons: Sequence[Comparison], steps: int, lr: float, realigned: list[int],
    metrics: list[MetricEntry],
) -> VerificationEntry:  # fmt: skip
    worst = worst_first(comparisons)
    halves: dict[Half, list[Comparison]] = {
        "inference": [c for c in worst if c.tensor.startswith("infer.")],
        "training": [c for c in worst if not c.tensor.startswith("infer.")],
    }
    return VerificationEntry(
        runtime=runtime,
        reference=_reference(),
        steps=steps,
        batch=batch_sizes(lane.bundle.manifest, lane.target)[0],
        lr=lr,
        realigned=realigned,
        checks={half: _check(lane.entry, half, found) for half, found in halves.items() if found},
        worst=[
            ComparisonEntry(
                tensor=c.tensor, step=c.step, max_abs=_finite(c.max_abs), max_rel=_finite(c.max_rel), rtol=c.rtol,
                atol=c.atol, within_tolerance=c.within_tolerance,
            )
            for c in worst[:_KEPT_IN_MANIFEST]
        ],
        metrics=metrics,
    )  # fmt: skip


def _check(entry: TargetEntry, half: Half, worst: Sequence[Comparison], reason: str = "") -> CheckEntry:
    rtol, atol = (
        (entry.inference_rtol, entry.inference_atol) if half == "inference" else (entry.rtol, entry.atol)
    )
    if not worst:
        return CheckEntry(verdict="skipped", reason=reason, rtol=rtol, atol=atol)
    first = worst[0]
    return CheckEntry(
        verdict="within tolerance" if first.within_tolerance else "out of tolerance", tensor=first.tensor,
        step=first.step, max_abs=_finite(first.max_abs), max_rel=_finite(first.max_rel), rtol=rtol, atol=atol,
    )  # fmt: skip


def _reference() -> str:
    return f"torch {metadata.version('torch')}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
