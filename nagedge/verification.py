"""Does the exported artifact compute what PyTorch computes? Step by step, tensor by tensor.

A trajectory is run twice from the same state on the same batches: in the runtime, and in PyTorch (its own kernels, its
autograd, ``torch.optim.SGD(nesterov=True)``). After every step all losses, parameters, momentum buffers and updated
buffers are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.bundle import Bundle
from nagedge.errors import ConfigurationError
from nagedge.manifest import ComparisonEntry, Manifest, TargetEntry, VerificationEntry
from nagedge.runtimes import TrainingSession, TrainingState, open_inference, open_training
from nagedge.runtimes.batches import random_batch

__all__ = ["Comparison", "verify", "worst_first"]

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]

_BATCH = 8
_OTHER_BATCH = 5
_SPREAD = 2.0  # two dozen samples see about half of a range
_KEPT_IN_MANIFEST = 8
_LR_ATTEMPTS = 6
_LEAST_WEIGHT_DECAY = 0.05  # with a usual one, of 1e-4, a step without any decay would be within tolerance


@dataclass(frozen=True)
class Comparison:
    """The agreement of one tensor after one step.

    It is within tolerance when ``max_abs <= atol + rtol * max|expected|``: float32 sums err in proportion to the
    largest of their terms, so a tensor is measured by its own scale.

    Attributes:
        tensor: ``loss``, ``loss.<task>``, ``params.<name>``, ``momentum.<name>``, ``buffers.<name>``;
            ``infer.<task>``, an output of inference; ``update.<name>``, a parameter after one long step.
        step: 1 for the first step of the trajectory; 0 for inference and the long step.
        max_abs: largest absolute difference; infinite when one side is not finite.
        max_rel: it over the largest absolute value of the reference.
        rtol, atol: the target's tolerances.
        within_tolerance: the verdict.
        target: name of the verified target.
    """

    tensor: str
    step: int
    max_abs: float
    max_rel: float
    rtol: float
    atol: float
    within_tolerance: bool
    target: str = ""

    @property
    def excess(self) -> float:
        """The difference over what is allowed: above 1 is out of tolerance."""
        if math.isinf(self.max_abs):
            return math.inf
        scale = self.max_abs / self.max_rel if self.max_rel > 0 and math.isfinite(self.max_rel) else 0.0
        allowed = self.atol + self.rtol * scale
        return self.max_abs / allowed if allowed > 0 else (math.inf if self.max_abs > 0 else 0.0)


def verify(
    bundle: Bundle,
    *,
    steps: int = 20,
    target: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Compare every target of ``bundle`` with PyTorch and store the verdicts in the manifest.

    Args:
        bundle: what :func:`nagedge.load` or :func:`nagedge.export` returned.
        steps: length of the training trajectory, >= 1.
        target: verify only this one.
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
    comparisons: list[Comparison] = []
    entries: dict[str, VerificationEntry] = {}
    for name in [target] if target is not None else list(bundle.manifest.targets):
        entry = bundle.manifest.targets[name]
        found = list(_inference(bundle, name, entry, seed))
        lr = 0.0
        realigned: list[int] = []
        if "train_step" in entry.artifacts:
            lr = _stable_lr(bundle, steps, seed, report)
            found += _long_step(bundle, name, entry, seed)
            found += _trajectory(bundle, name, entry, steps, lr, seed, report, realigned)
        comparisons += found
        entries[name] = _entry(bundle, found, steps if lr else 0, lr, realigned)
    bundle.with_verification(entries)
    return sorted(comparisons, key=_severity)


def worst_first(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return one comparison a tensor, the most telling one, in the order of :func:`verify`."""
    by_tensor: dict[tuple[str, str], Comparison] = {}
    for item in sorted(comparisons, key=_severity):
        by_tensor.setdefault((item.target, item.tensor), item)
    return list(by_tensor.values())


def _severity(item: Comparison) -> tuple[bool, bool, int, float]:
    if item.within_tolerance:
        return (True, False, 0, -item.excess)
    # A wrong gradient makes a wrong update: what the trajectory found comes before what the long step found.
    return (False, item.tensor.startswith("update."), item.step, -item.excess)


@dataclass(frozen=True)
class _Batch:
    inputs: dict[str, Array]
    targets: dict[str, Array]
    sample_weight: Array


def _batch_sizes(manifest: Manifest) -> tuple[int, int]:
    """Return the usual size and another one, which proves that a free batch is free."""
    return (_BATCH, _OTHER_BATCH) if manifest.batch is None else (manifest.batch, manifest.batch)


def _batches(manifest: Manifest, steps: int, seed: int) -> Iterator[_Batch]:
    usual, other = _batch_sizes(manifest)
    for step in range(steps):
        rng = np.random.default_rng([seed, step])
        size = other if step % 5 == 2 else usual
        inputs, targets = random_batch(manifest, size, rng)
        yield _Batch(inputs, targets, rng.uniform(0.5, 1.5, size).astype(np.float32))


def _step(session: TrainingSession, batch: _Batch, manifest: Manifest, lr: float) -> dict[str, float]:
    training = manifest.training
    assert training is not None  # the caller verifies a training step
    return session.step(
        batch.inputs, batch.targets, batch.sample_weight, lr=lr, momentum=training.momentum,
        weight_decay=max(training.weight_decay, _LEAST_WEIGHT_DECAY),
    )  # fmt: skip


def _stable_lr(bundle: Bundle, steps: int, seed: int, report: Progress) -> float:
    """Return the default learning rate, or a smaller one at which PyTorch's own trajectory does not diverge.

    A diverging trajectory amplifies the last bit of float32 without bound and would say nothing about the artifact.
    """
    training = bundle.manifest.training
    assert training is not None
    lr = training.lr
    for attempt in range(_LR_ATTEMPTS):
        session = open_training(bundle, runtime="torch")
        losses: list[float] = []
        for i, batch in enumerate(_batches(bundle.manifest, steps, seed)):
            report("reference trajectory", i, steps)
            losses.append(_step(session, batch, bundle.manifest, lr)["loss"])
            if not math.isfinite(losses[-1]) or losses[-1] > 4 * losses[0] + 1:
                break
        else:
            return lr
        lr = min(lr / 10, _cautious_lr(bundle, seed)) if attempt == 0 else lr / 10
    return lr


def _cautious_lr(bundle: Bundle, seed: int) -> float:
    """Return the learning rate that changes no weight's largest entry by more than a hundredth in the first step."""
    ratios = _steepness(bundle, seed)
    return 0.01 / max(ratios) if ratios else math.inf


def _steepness(bundle: Bundle, seed: int) -> list[float]:
    """Return, for each weight that has a gradient, its largest gradient over its largest entry."""
    session = open_training(bundle, runtime="torch")
    _step(session, next(_batches(bundle.manifest, 1, seed)), bundle.manifest, 0.0)
    state = session.state()
    ratios = [
        float(np.abs(state.momentum[name]).max() / np.abs(param).max())
        for name, param in state.params.items()
        if param.ndim > 1 and np.abs(param).max() > 0
    ]
    return [ratio for ratio in ratios if math.isfinite(ratio) and ratio > 0]


def _long_step(bundle: Bundle, name: str, entry: TargetEntry, seed: int) -> list[Comparison]:
    """Compare one step in which the update outweighs the parameters.

    A step of the usual length moves a parameter by less than its tolerance, so that a wrong learning rate or a wrong
    last line of the update could pass; in this one the new parameters are the update.
    """
    ratios = _steepness(bundle, seed)
    felt = [ratio for ratio in ratios if ratio > 1e-6 * max(ratios)]
    lr = min(10.0 / min(felt), 1e30) if felt else 1.0
    batch = next(_batches(bundle.manifest, 1, seed))
    reference = open_training(bundle, runtime="torch")
    runtime = open_training(bundle, name, runtime=entry.backend)
    before = runtime.state()
    expected = _step(reference, batch, bundle.manifest, lr), reference.state()
    got = _step(runtime, batch, bundle.manifest, lr), runtime.state()
    found = _compare_step(0, got, [expected], entry, name)
    if not all(c.within_tolerance for c in found):
        found, _ = _explained(bundle, entry, name, 0, before, batch, lr, got, found)
    updates = [c for c in found if c.tensor.startswith("params.")]
    return [replace(c, tensor=f"update.{c.tensor.removeprefix('params.')}") for c in updates]


def _trajectory(
    bundle: Bundle,
    name: str,
    entry: TargetEntry,
    steps: int,
    lr: float,
    seed: int,
    report: Progress,
    realigned: list[int],
) -> Iterator[Comparison]:
    """Yield the comparisons of every step; the steps after which the reference was realigned are added to the list."""
    reference = open_training(bundle, runtime="torch")
    runtime = open_training(bundle, name, runtime=entry.backend)
    before = runtime.state()
    for i, batch in enumerate(_batches(bundle.manifest, steps, seed)):
        expected = _step(reference, batch, bundle.manifest, lr)
        got = _step(runtime, batch, bundle.manifest, lr)
        after = runtime.state()
        found = _compare_step(i + 1, (got, after), [(expected, reference.state())], entry, name)
        if not all(c.within_tolerance for c in found):
            found, accepted = _explained(bundle, entry, name, i + 1, before, batch, lr, (got, after), found)
            if accepted:
                realigned.append(i + 1)
                reference = open_training(bundle, runtime="torch", state=after)
        yield from found
        before = after
        report(f"verifying {name}", i + 1, steps)


def _explained(
    bundle: Bundle,
    entry: TargetEntry,
    name: str,
    step: int,
    before: TrainingState,
    batch: _Batch,
    lr: float,
    result: tuple[dict[str, float], TrainingState],
    found: list[Comparison],
) -> tuple[list[Comparison], bool]:
    """Repeat one step in PyTorch from the runtime's own state; return the comparisons and whether all then agree.

    Two trajectories that both round correctly part at kinks: an activation within rounding of a ReLU's corner falls on
    either side, and the gradient jumps. So the runtime's result is held against the set of results that PyTorch gives
    for data perturbed in the last bits (its backward error: Higham 2002, section 1.5), at the same tolerance.
    """
    references: list[tuple[dict[str, float], TrainingState]] = []
    rng = np.random.default_rng([step])
    for count in (1, 4, 8, 12):
        for _ in range(count):
            size = entry.backward_error if references else 0.0
            session = open_training(bundle, runtime="torch", state=_perturbed(before, size, rng))
            inputs = {k: _noisy(v, size, rng) for k, v in batch.inputs.items()}
            losses = _step(session, _Batch(inputs, batch.targets, batch.sample_weight), bundle.manifest, lr)
            references.append((losses, session.state()))
        repeated = _compare_step(step, result, references, entry, name)
        if all(c.within_tolerance for c in repeated):
            return repeated, True
    return [r if r.excess < f.excess else f for r, f in zip(repeated, found, strict=True)], False


def _perturbed(state: TrainingState, size: float, rng: np.random.Generator) -> TrainingState:
    return TrainingState(
        {k: _noisy(v, size, rng) for k, v in state.params.items()}, state.momentum, state.buffers
    )


def _noisy(array: Array, size: float, rng: np.random.Generator) -> Array:
    if size == 0.0 or array.dtype != np.float32:
        return array
    noise = rng.uniform(-size, size, array.shape).astype(np.float32)
    perturbed: Array = array * (1 + noise)
    return perturbed


def _compare_step(
    step: int,
    result: tuple[dict[str, float], TrainingState],
    references: Sequence[tuple[dict[str, float], TrainingState]],
    entry: TargetEntry,
    name: str,
) -> list[Comparison]:
    """Compare losses and state with the references: one, or several that span a range for every element."""
    got = dict(_named(*result))
    expected = [dict(_named(*reference)) for reference in references]
    return [
        compare(tensor, step, value, [e[tensor] for e in expected], entry.rtol, entry.atol, name)
        for tensor, value in got.items()
    ]


def _named(losses: dict[str, float], state: TrainingState) -> Iterator[tuple[str, Array]]:
    for loss, value in losses.items():
        yield (loss if loss == "loss" else f"loss.{loss}"), np.asarray(value)
    for role in ("params", "momentum", "buffers"):
        for name, array in getattr(state, role).items():
            yield f"{role}.{name}", array


def _inference(bundle: Bundle, name: str, entry: TargetEntry, seed: int) -> Iterator[Comparison]:
    reference = open_inference(bundle, runtime="torch")
    runtime = open_inference(bundle, name, runtime=entry.backend)
    for i, size in enumerate(dict.fromkeys(_batch_sizes(bundle.manifest))):
        inputs, _ = random_batch(bundle.manifest, size, np.random.default_rng([seed, 10**6 + i]))
        got, expected = runtime.predict(inputs), reference.predict(inputs)
        for task, value in expected.items():
            yield compare(
                f"infer.{task}", 0, got[task], [value], entry.inference_rtol, entry.inference_atol, name
            )


def compare(
    tensor: str, step: int, got: Array, expected: Sequence[Array], rtol: float, atol: float, target: str = ""
) -> Comparison:
    """Compare one tensor with its reference, in float64; see :class:`Comparison` for the rule.

    Args:
        tensor, step, target: what is compared.
        got: the runtime's values.
        expected: the reference; or, after it, its results on perturbed data: they span a range for every element
            (twice as far from the reference as the farthest of them), and the distance is to that range.
        rtol, atol: the tolerances.
    """
    ours = np.asarray(got, np.float64)
    theirs = [np.asarray(e, np.float64) for e in expected]
    whole = all(e.shape == ours.shape and np.isfinite(e).all() for e in theirs) and np.isfinite(ours).all()
    if not whole:
        return Comparison(tensor, step, math.inf, math.inf, rtol, atol, False, target)
    reference = theirs[0]
    below, above = reference - np.min(theirs, axis=0), np.max(theirs, axis=0) - reference
    outside = np.maximum(reference - _SPREAD * below - ours, ours - reference - _SPREAD * above)
    max_abs = float(np.maximum(outside, 0.0).max(initial=0.0))
    scale = float(np.abs(reference).max(initial=0.0))
    max_rel = max_abs / scale if scale > 0 else (0.0 if max_abs == 0 else math.inf)
    return Comparison(tensor, step, max_abs, max_rel, rtol, atol, max_abs <= atol + rtol * scale, target)


def _entry(
    bundle: Bundle, comparisons: Sequence[Comparison], steps: int, lr: float, realigned: list[int]
) -> VerificationEntry:
    def finite(value: float) -> float | None:
        return value if math.isfinite(value) else None

    return VerificationEntry(
        runtime=f"onnxruntime {metadata.version('onnxruntime')}",
        reference=f"torch {metadata.version('torch')}",
        steps=steps,
        batch=_batch_sizes(bundle.manifest)[0],
        lr=lr,
        realigned=realigned,
        within_tolerance=all(c.within_tolerance for c in comparisons),
        worst=[
            ComparisonEntry(
                tensor=c.tensor, step=c.step, max_abs=finite(c.max_abs), max_rel=finite(c.max_rel), rtol=c.rtol,
                atol=c.atol, within_tolerance=c.within_tolerance,
            )
            for c in worst_first(comparisons)[:_KEPT_IN_MANIFEST]
        ],
    )  # fmt: skip
