"""The search: what every candidate costs, a short run of those that fit, and the best of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nagedge.data.examples import DataSplits
from nagedge.data.load import load_data
from nagedge.devices.cores import find_core
from nagedge.errors import ConfigurationError, TrainingDivergedError
from nagedge.fitting.budget import Budget, excess, printed
from nagedge.fitting.candidates import Candidate, Choices, applied, candidates_of
from nagedge.fitting.costs import CHEAP, costs_of
from nagedge.fitting.short_run import Score, short_score
from nagedge.fitting.store import Store
from nagedge.models import build_model, with_vocabulary
from nagedge.specs import TensorSpec
from nagedge.training.run import Run, load_run

__all__ = ["Fitted", "Tried", "fit_device", "pareto"]

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Tried:
    """What came of one candidate.

    Attributes:
        candidate: the model.
        costs: by name; those that were looked at.
        affordable: whether all limits hold.
        score: of its short run; ``None`` where it was not affordable.
        efficient: whether no other one is as cheap and better, or as good and cheaper, by the first limit's cost.
    """

    candidate: Candidate
    costs: Mapping[str, float]
    affordable: bool
    score: Score | None = None
    efficient: bool = False


@dataclass(frozen=True)
class Fitted:
    """All candidates, and the run of the best one.

    Attributes:
        tried: in the order of the first limit's cost.
        best: the affordable one with the lowest validation loss.
        run: the run with its model.
        budgets: the limits.
    """

    tried: tuple[Tried, ...]
    best: Tried
    run: Run
    budgets: tuple[Budget, ...]


def fit_device(
    run: Run | str | Path,
    budgets: Sequence[Budget],
    *,
    choices: Choices | None = None,
    steps: int = 100,
    batch: int = 16,
    core: str = "cortex-a72",
    storage: str | Path | None = None,
    progress: Progress = lambda description, done, total: None,
) -> Fitted:
    """Choose trunk, width, resolution and normalisation of a run under the limits of a device.

    Every candidate's costs are found; those that fit are trained for the same number of steps on the same examples with
    the run's own optimizer, and the one with the lowest validation loss wins. Costs that take time (memory,
    instructions) are looked at only where the others fit.

    Args:
        run: the run, or the path of its file.
        budgets: at least one.
        choices: what may be chosen.
        steps: of each short run, at least.
        batch: examples of the training step whose memory or instructions are limited.
        core: the emulated core that counts instructions.
        storage: a file that keeps what was found; a later call with the same one goes on with it.
        progress: called with what is being done, the candidates done and those in all.

    Raises:
        ConfigurationError: nothing fits, or an argument means nothing for the run.
        RuntimeUnavailableError: instructions are limited, and the emulator is not set up.
        TrainingDivergedError: no short run ended with a finite loss.
    """
    run = run if isinstance(run, Run) else load_run(run)
    if not budgets:
        raise ConfigurationError("no budget was given, expected at least one.")
    if batch < 1:
        raise ConfigurationError(f"batch is {batch}, expected at least 1.")
    if any(budget.cost == "instructions" for budget in budgets):
        _emulator(core)
    store = Store.open(storage, run, steps=steps, batch=batch, core=core)
    base = load_data(run.data, run.task_specs())
    candidates = candidates_of(run, base.input, choices or Choices())
    found = []
    for done, candidate in enumerate(candidates):
        name = candidate.name
        progress(f"{name}: costs", done, 2 * len(candidates))
        costs = _costs(run, candidate, base, budgets, store, batch=batch, core=core)
        found.append(Tried(candidate, costs, affordable=excess(costs, budgets) <= 1))
    first = budgets[0].cost
    if not any(one.affordable for one in found):
        raise _nothing_fits(found, budgets)
    scored = []
    for done, one in enumerate(found):
        progress(f"{one.candidate.name}: training", len(found) + done, 2 * len(found))
        score = _score(run, one.candidate, base, store, steps) if one.affordable else None
        scored.append(replace(one, score=score))
    progress("fitted", 2 * len(found), 2 * len(found))
    tried = pareto(sorted(scored, key=lambda one: one.costs[first]), first)
    good = [one for one in tried if one.score is not None and one.score.loss is not None]
    if not good:
        raise TrainingDivergedError(
            f"none of {sum(one.affordable for one in tried)} short runs ended with a finite loss. Lower optimizer.lr,"
            " or check the data."
        )
    best = min(good, key=_loss)
    return Fitted(tried, best, applied(run, best.candidate), tuple(budgets))


def pareto(tried: Sequence[Tried], cost: str) -> tuple[Tried, ...]:
    """Mark those that no other one beats: none is at most as costly and better, or cheaper and as good."""

    def beaten(one: Tried) -> bool:
        return any(
            (_loss(other), other.costs[cost]) != (_loss(one), one.costs[cost])
            and _loss(other) <= _loss(one)
            and other.costs[cost] <= one.costs[cost]
            for other in tried
            if other.affordable
        )

    return tuple(
        replace(one, efficient=one.affordable and _loss(one) < float("inf") and not beaten(one))
        for one in tried
    )


def _loss(tried: Tried) -> float:
    return float("inf") if tried.score is None or tried.score.loss is None else tried.score.loss


def _costs(
    run: Run,
    candidate: Candidate,
    base: DataSplits,
    budgets: Sequence[Budget],
    store: Store,
    *,
    batch: int,
    core: str,
) -> dict[str, float]:
    """Return the costs that are needed to say whether a candidate fits, the cheap ones in any case."""
    limited = [budget.cost for budget in budgets]
    costs = store.costs(candidate.name)
    spec = _input_of(candidate, base.input)
    for stage in (CHEAP, *((cost,) for cost in ("memory", "instructions") if cost in limited)):
        missing = [cost for cost in stage if cost not in costs]
        wanted_first = limited[0] in stage  # every row of the table has the first limit's cost
        if missing and (stage is CHEAP or wanted_first or excess(costs, budgets) <= 1):
            model = build_model(
                with_vocabulary(candidate.model, base.preprocessing.vocabulary),
                spec,
                run.task_specs(),
                run.seed,
            )
            costs |= costs_of(model, spec, run.task_specs(), missing, batch=batch, core=core)
            store.keep_costs(candidate.name, costs)
    return costs


def _score(run: Run, candidate: Candidate, base: DataSplits, store: Store, steps: int) -> Score:
    known = store.score(candidate.name)
    if known is None:
        changed = applied(run, candidate)
        data = base if not candidate.size else load_data(changed.data, run.task_specs())
        known = short_score(changed, data, steps)
        store.keep_score(candidate.name, known)
    return known


def _input_of(candidate: Candidate, spec: TensorSpec) -> TensorSpec:
    if not candidate.size:
        return spec
    return TensorSpec(spec.name, spec.dtype, (*spec.shape[:2], *candidate.size), spec.unit)


def _nothing_fits(found: Sequence[Tried], budgets: Sequence[Budget]) -> ConfigurationError:
    nearest = min(found, key=lambda one: excess(one.costs, budgets))
    limits = ", ".join(f"{budget.cost} {printed(budget.cost, budget.limit)}" for budget in budgets)
    costs = ", ".join(f"{cost} {printed(cost, value)}" for cost, value in nearest.costs.items())
    return ConfigurationError(
        f"none of {len(found)} candidates fits the budget ({limits}). The smallest is {nearest.candidate.name!r} with"
        f" {costs}. Raise the budget, or allow a smaller --width or --resolution."
    )


def _emulator(core: str) -> None:
    """Say before any work that the emulator or the core is missing."""
    from nagedge.devices.arm64 import installed

    find_core(core)
    installed()
