"""A training trajectory, run twice from the same state on the same batches: in the runtime, and in PyTorch.

The reference has its own kernels, its autograd and ``torch.optim.SGD(nesterov=True)``. After every step all losses,
parameters, momentum buffers and updated buffers are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.bundle import Bundle
from nagedge.manifest import Manifest, TargetEntry
from nagedge.runtimes import TrainingSession, TrainingState, open_training
from nagedge.verification.batches import Batch, batch_sizes, batches
from nagedge.verification.comparison import Comparison, compare

__all__ = ["Lane", "long_step", "stable_lr", "trajectory"]

Array = npt.NDArray[Any]
Progress = Callable[[str, int, int], None]

_LR_ATTEMPTS = 6
_LEAST_WEIGHT_DECAY = 0.05  # with a usual one, of 1e-4, a step without any decay would be within tolerance


@dataclass(frozen=True)
class Lane:
    """What is verified: a target of a bundle, run by one runtime, on batches drawn with a seed."""

    bundle: Bundle
    target: str
    runtime: str
    seed: int

    @property
    def entry(self) -> TargetEntry:
        """The target's entry in the manifest."""
        return self.bundle.manifest.targets[self.target]

    def batches(self, steps: int) -> Iterator[Batch]:
        """Yield the batches of a trajectory."""
        manifest = self.bundle.manifest
        return batches(manifest, batch_sizes(manifest, self.target), steps, self.seed)


def _step(session: TrainingSession, batch: Batch, manifest: Manifest, lr: float) -> dict[str, float]:
    training = manifest.training
    assert training is not None  # the caller verifies a training step
    return session.step(
        batch.inputs, batch.targets, batch.sample_weight, lr=lr, momentum=training.momentum,
        weight_decay=max(training.weight_decay, _LEAST_WEIGHT_DECAY),
    )  # fmt: skip


def stable_lr(lane: Lane, steps: int, report: Progress) -> float:
    """Return the default learning rate, or a smaller one at which PyTorch's own trajectory does not diverge.

    A diverging trajectory amplifies the last bit of float32 without bound and would say nothing about the artifact.
    """
    bundle = lane.bundle
    training = bundle.manifest.training
    assert training is not None
    lr = training.lr
    for attempt in range(_LR_ATTEMPTS):
        session = open_training(bundle, runtime="torch")
        losses: list[float] = []
        for i, batch in enumerate(lane.batches(steps)):
            report("reference trajectory", i, steps)
            losses.append(_step(session, batch, bundle.manifest, lr)["loss"])
            if not math.isfinite(losses[-1]) or losses[-1] > 4 * losses[0] + 1:
                break
        else:
            return lr
        lr = min(lr / 10, _cautious_lr(lane)) if attempt == 0 else lr / 10
    return lr


def _cautious_lr(lane: Lane) -> float:
    """Return the learning rate that changes no weight's largest entry by more than a hundredth in the first step."""
    ratios = _steepness(lane)
    return 0.01 / max(ratios) if ratios else math.inf


def _steepness(lane: Lane) -> list[float]:
    """Return, for each weight that has a gradient, its largest gradient over its largest entry."""
    session = open_training(lane.bundle, runtime="torch")
    _step(session, next(lane.batches(1)), lane.bundle.manifest, 0.0)
    state = session.state()
    ratios = [
        float(np.abs(state.momentum[name]).max() / np.abs(param).max())
        for name, param in state.params.items()
        if param.ndim > 1 and np.abs(param).max() > 0
    ]
    return [ratio for ratio in ratios if math.isfinite(ratio) and ratio > 0]


def long_step(lane: Lane) -> list[Comparison]:
    """Compare one step in which the update outweighs the parameters.

    A step of the usual length moves a parameter by less than its tolerance, so that a wrong learning rate or a wrong
    last line of the update could pass; in this one the new parameters are the update.
    """
    ratios = _steepness(lane)
    felt = [ratio for ratio in ratios if ratio > 1e-6 * max(ratios)]
    lr = min(10.0 / min(felt), 1e30) if felt else 1.0
    batch = next(lane.batches(1))
    bundle = lane.bundle
    reference = open_training(bundle, runtime="torch")
    runtime = open_training(bundle, lane.target, runtime=lane.runtime)
    before = runtime.state()
    expected = _step(reference, batch, bundle.manifest, lr), reference.state()
    got = _step(runtime, batch, bundle.manifest, lr), runtime.state()
    found = _compare_step(0, got, [expected], lane)
    if not all(c.within_tolerance for c in found):
        found, _ = _explained(lane, 0, before, batch, lr, got, found)
    updates = [c for c in found if c.tensor.startswith("params.")]
    return [replace(c, tensor=f"update.{c.tensor.removeprefix('params.')}") for c in updates]


def trajectory(
    lane: Lane, steps: int, lr: float, report: Progress, realigned: list[int]
) -> Iterator[Comparison]:
    """Yield the comparisons of every step; the steps after which the reference was realigned are added to the list."""
    bundle = lane.bundle
    reference = open_training(bundle, runtime="torch")
    runtime = open_training(bundle, lane.target, runtime=lane.runtime)
    before = runtime.state()
    for i, batch in enumerate(lane.batches(steps)):
        expected = _step(reference, batch, bundle.manifest, lr)
        got = _step(runtime, batch, bundle.manifest, lr)
        after = runtime.state()
        found = _compare_step(i + 1, (got, after), [(expected, reference.state())], lane)
        if not all(c.within_tolerance for c in found):
            found, accepted = _explained(lane, i + 1, before, batch, lr, (got, after), found)
            if accepted:
                realigned.append(i + 1)
                reference = open_training(bundle, runtime="torch", state=after)
        yield from found
        before = after
        report(f"verifying {lane.target}", i + 1, steps)


def _explained(
    lane: Lane,
    step: int,
    before: TrainingState,
    batch: Batch,
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
            size = lane.entry.backward_error if references else 0.0
            session = open_training(lane.bundle, runtime="torch", state=_perturbed(before, size, rng))
            inputs = {k: _noisy(v, size, rng) for k, v in batch.inputs.items()}
            losses = _step(
                session, Batch(inputs, batch.targets, batch.sample_weight), lane.bundle.manifest, lr
            )
            references.append((losses, session.state()))
        repeated = _compare_step(step, result, references, lane)
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
    lane: Lane,
) -> list[Comparison]:
    """Compare losses and state with the references: one, or several that span a range for every element."""
    got = dict(_named(*result))
    expected = [dict(_named(*reference)) for reference in references]
    entry = lane.entry
    return [
        compare(tensor, step, value, [e[tensor] for e in expected], entry.rtol, entry.atol, lane.target)
        for tensor, value in got.items()
    ]


def _named(losses: dict[str, float], state: TrainingState) -> Iterator[tuple[str, Array]]:
    for loss, value in losses.items():
        yield (loss if loss == "loss" else f"loss.{loss}"), np.asarray(value)
    for role in ("params", "momentum", "buffers"):
        for name, array in getattr(state, role).items():
            yield f"{role}.{name}", array
