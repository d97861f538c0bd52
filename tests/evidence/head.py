"""Table 4: heads on a frozen trunk, a convex problem: steps until the objective is near its optimum."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from nagedge.data.examples import DataSplits, Examples
from nagedge.data.mnist import demo_user
from nagedge.specs import BATCH, TensorSpec
from nagedge.tasks import total_loss
from nagedge.training.nesterov import is_decayed
from nagedge.training.step import Setup, training_step
from tests.evidence import training
from tests.evidence.training import Trial, set_up_trial

__all__ = ["METHODS", "HeadRow", "head_row", "identity"]

WEIGHT_DECAY = 1e-4
TOLERANCE = 1e-3
RATES = tuple(0.1 * 2 ** (k / 2) for k in range(6))
ADAPTIVE_RATES = tuple(0.02 * 2 ** (k / 2) for k in range(8))

_CONVEX = {"momentum": 0.999, "momentum_schedule": "nesterov"}
METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "SGD": ("sgd", {}),
    "heavy ball, 0.9": ("heavy_ball", {}),
    "Nesterov, constant 0.9": ("nesterov", {"momentum": 0.9}),
    "Nesterov, constant 0.99": ("nesterov", {"momentum": 0.99}),
    "Nesterov, k/(k+3)": ("nesterov", _CONVEX),
    "Nesterov, k/(k+3), gradient restart": ("nesterov", {**_CONVEX, "restart": "gradient"}),
    "Nesterov, k/(k+3), loss restart": ("nesterov", {**_CONVEX, "restart": "loss"}),
    "Adam": ("adam", {}),
    "NAdam": ("nadam", {}),
}


@dataclass(frozen=True)
class HeadRow:
    """One method.

    Attributes:
        name: of the method. lr: with which it was nearest or first.
        steps: until the objective was within the tolerance; ``None`` if it was not after ``limit`` of them.
        gap: above the optimum after the last step that was taken.
        gaps: above the optimum at every step.
    """

    name: str
    lr: float
    steps: int | None
    limit: int
    gap: float
    gaps: tuple[float, ...]


def identity() -> nn.Module:
    """Return the trunk of features that are computed already."""
    return nn.Identity()


@functools.cache
def features(epochs: int) -> DataSplits:
    """Return what a trained trunk makes of the simulated user's 500 digits, with the targets as it was taught them."""
    trial = Trial("digits", 0.005, epochs=epochs, warmup=0, settings={"clip_norm": None})
    data = training.prepared(trial)
    with torch.random.fork_rng(devices=[]):
        setup = set_up_trial(trial, data)
        assert training.all_steps(setup), "the trunk did not train"
    raw = dict(demo_user().fine_tune)
    pixels = data.preprocessing.apply({"image": raw.pop("image")})["image"]
    with torch.inference_mode():
        found = setup.module.eval().trunk(torch.from_numpy(pixels)).numpy()  # type: ignore[operator,union-attr]
    found = found / np.float32(
        np.sqrt((found**2).sum(axis=1).mean())
    )  # so that learning rates are of the usual size
    user = Examples({"features": found}, data.preprocessing.apply_targets(raw))
    spec = TensorSpec("features", "float32", (BATCH, found.shape[1]), "")
    none = user.take(np.arange(0))
    return dataclasses.replace(data, train=user, validation=none, test=none, input=spec)


def _setup(method: str, rate: float, data: DataSplits) -> Setup:
    optimizer, settings = METHODS[method]
    training.SOURCES["head"] = {
        **training.DIGITS, "batch_size": len(data.train),
        "model": {"trunk": "tests.evidence.head:identity"},
    }  # fmt: skip
    settings = {**settings, "weight_decay": WEIGHT_DECAY, "clip_norm": None}
    return set_up_trial(Trial("head", rate, optimizer=optimizer, settings=settings, warmup=0), data)


def _penalty(module: nn.Module) -> Tensor:
    squares = [(p * p).sum() for name, p in module.named_parameters() if is_decayed(name, p)]
    return WEIGHT_DECAY / 2 * torch.stack(squares).sum()


@functools.cache
def optimum(epochs: int) -> float:
    """Return the smallest objective: damped Newton steps in float64, until its gradient is below 1e-9."""
    setup = _setup("SGD", 0.1, features(epochs))
    module = setup.module.double()
    x = setup.train.x.double()
    targets = {k: v.double() if v.is_floating_point() else v for k, v in setup.train.targets.items()}
    names = list(dict(module.named_parameters()))
    shapes = [param.shape for param in module.parameters()]

    def objective(flat: Tensor) -> Tensor:
        parts = torch.split(flat, [shape.numel() for shape in shapes])
        params = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        outputs = torch.func.functional_call(module, params, (x,))
        squares = [(p * p).sum() for name, p in params.items() if is_decayed(name, p)]
        return total_loss(setup.tasks, outputs, targets)[0] + WEIGHT_DECAY / 2 * torch.stack(squares).sum()

    flat = torch.cat([param.detach().reshape(-1) for param in module.parameters()])
    ridge = 1e-10 * torch.eye(
        len(flat), dtype=flat.dtype
    )  # a shift of all biases of a softmax changes nothing
    for _ in range(100):
        gradient = torch.func.grad(objective)(flat)
        if float(gradient.norm()) < 1e-9:
            return float(objective(flat))
        direction = torch.linalg.solve(torch.func.hessian(objective)(flat) + ridge, gradient)
        size = 1.0
        while objective(flat - size * direction) > objective(flat) - 1e-4 * size * (direction @ gradient):
            size /= 2
            if size < 1e-12:
                return float(objective(flat))
        flat = flat - size * direction
    raise AssertionError("the optimum was not found in 100 Newton steps")


def _descend(method: str, rate: float, limit: int, epochs: int) -> list[float]:
    """Return the objective above its optimum before every step."""
    data, best = features(epochs), optimum(epochs)
    setup = _setup(method, rate, data)
    rows = torch.arange(len(setup.train))
    setup.model.train()
    gaps: list[float] = []
    for step in range(limit + 1):
        with torch.no_grad():
            penalty = float(_penalty(setup.module))
        gaps.append(float(training_step(setup, step, rows, rate=rate)[0]) + penalty - best)
        if not np.isfinite(gaps[-1]) or gaps[-1] > 1e3 or gaps[-1] <= TOLERANCE:
            break
    return gaps


def head_row(name: str, limit: int, epochs: int, rates: Sequence[float] = ()) -> HeadRow:
    """Return a method with the learning rate that needs the fewest steps; else that which comes nearest."""
    torch.set_num_threads(1)
    adaptive = METHODS[name][0] in ("adam", "nadam")
    best: HeadRow | None = None
    for rate in rates or (ADAPTIVE_RATES if adaptive else RATES):
        gaps = _descend(name, rate, limit if best is None or best.steps is None else best.steps, epochs)
        reached = gaps[-1] <= TOLERANCE
        row = HeadRow(name, rate, len(gaps) - 1 if reached else None, limit, gaps[-1], tuple(gaps))
        if not np.isfinite(row.gap):
            continue
        if best is None or _order(row) < _order(best):
            best = row
    assert best is not None
    return best


def _order(row: HeadRow) -> tuple[float, float]:
    return (float("inf") if row.steps is None else row.steps, row.gap)
