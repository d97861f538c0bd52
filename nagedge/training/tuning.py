"""A search for learning rate, momentum, task weights and balancing method, with Optuna."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError, TrainingDivergedError, nearest_name
from nagedge.training.balancing import BalancingConfig
from nagedge.training.balancing.methods import METHODS
from nagedge.training.events import EpochFinished, Event
from nagedge.training.fit import train
from nagedge.training.run import Run, load_run

if TYPE_CHECKING:
    import optuna

__all__ = ["Search", "Trial", "Tuned", "applied", "tune"]


@dataclass(frozen=True)
class Search:
    """What is searched.

    Attributes:
        lr: lowest and highest learning rate, on a logarithmic scale.
        momentum: lowest and highest momentum; 1 - momentum is on a logarithmic scale.
        weight: lowest and highest weight of every task but the first, on a logarithmic scale; ``None`` leaves them.
        methods: names of balancing methods; empty for that of the run.
    """

    lr: tuple[float, float] = (1e-3, 1.0)
    momentum: tuple[float, float] = (0.5, 0.98)
    weight: tuple[float, float] | None = None
    methods: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """One run of a search.

    Attributes:
        number: from 0. state: ``"complete"``, ``"pruned"`` or ``"fail"``.
        score: validation loss, each task counted once; ``None`` where there is none.
        values: what was tried, by name: ``lr``, ``momentum``, ``weight.<task>``, ``method``.
    """

    number: int
    state: str
    score: float | None
    values: dict[str, float | str]


@dataclass(frozen=True)
class Tuned:
    """The trials of a study, those of earlier calls with the same storage too, and the best of them."""

    trials: tuple[Trial, ...]
    best: Trial


def tune(
    run: Run | str | Path,
    *,
    trials: int = 20,
    search: Search | None = None,
    storage: str | Path | None = None,
    seed: int = 0,
    data: DataSplits | None = None,
    report: Callable[[int, int], None] = lambda done, of: None,
) -> Tuned:
    """Train ``trials`` times with different values and return what came of it.

    The score is the sum of the validation losses, each task counted once whatever its weight, after the last epoch. A
    trial that is worse than the median of the others at the same epoch is stopped; so is one that diverges. Models are
    not kept.

    Args:
        run: the run, or the path of its file.
        trials: to do now. search: what is searched.
        storage: a file that keeps the study; a later call with the same one goes on with it. ``None`` keeps nothing.
        seed: of the sampler.
        data: the examples, instead of those of the run; read once for all trials.
        report: is called with the trials done and those asked for.

    Raises:
        ConfigurationError: Optuna is not installed, the search is empty, or the storage belongs to another run.
        TrainingDivergedError: no trial ended with a finite loss.
    """
    try:
        import optuna
    except ImportError:
        raise ConfigurationError(
            "the search needs optuna, which is not installed: pip install 'nagedge[tune]'."
        ) from None
    run = run if isinstance(run, Run) else load_run(run)
    search = search or Search()
    _check(search, trials)
    if data is None:
        from nagedge.data.load import load_data

        data = load_data(run.data, run.task_specs())
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(
        study_name="nagedge",
        storage=None if storage is None else _storage(Path(storage)),
        sampler=optuna.samplers.TPESampler(seed=seed),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=1),
        load_if_exists=True,
    )
    _belongs(study, run, storage)
    study.set_user_attr("run", run.model_dump_json(exclude={"output"}))
    for done in range(trials):
        study.optimize(lambda trial: _score(trial, run, search, data), n_trials=1)
        report(done + 1, trials)
    found = tuple(Trial(t.number, t.state.name.lower(), t.value, dict(t.params)) for t in study.trials)
    complete = [trial for trial in found if trial.state == "complete" and trial.score is not None]
    if not complete:
        raise TrainingDivergedError(
            f"none of {len(found)} trials ended with a finite loss. Search lower learning rates, or check the data."
        )
    return Tuned(tuple(_named(trial) for trial in found), _named(min(complete, key=lambda t: t.score or 0.0)))


def applied(run: Run, values: dict[str, float | str]) -> Run:
    """Return the run with the values of a trial."""
    optimizer = run.optimizer.model_copy(update={"lr": values["lr"], "momentum": values["momentum"]})
    tasks = {
        name: task.model_copy(update={"weight": values.get(f"weight.{name}", task.weight)})
        for name, task in run.tasks.items()
    }
    balancing = run.balancing
    if "method" in values and values["method"] != balancing.method:
        balancing = BalancingConfig(method=str(values["method"]))
    return run.model_copy(update={"optimizer": optimizer, "tasks": tasks, "balancing": balancing})


def _score(trial: optuna.Trial, run: Run, search: Search, data: DataSplits) -> float:
    import optuna

    trial.suggest_float("lr", *search.lr, log=True)
    low, high = search.momentum
    trial.suggest_float("one_minus_momentum", 1 - high, 1 - low, log=True)
    if search.weight is not None:
        for name in list(run.tasks)[1:]:
            trial.suggest_float(f"weight.{name}", *search.weight, log=True)
    if search.methods:
        trial.suggest_categorical("method", search.methods)
    values = _with_momentum(trial.params)
    names = list(run.tasks)
    score = float("inf")

    def watch(event: Event) -> None:
        nonlocal score
        if isinstance(event, EpochFinished):
            score = sum(event.validation_losses[name] for name in names)
            trial.report(score, event.epoch)
            if trial.should_prune():
                raise optuna.TrialPruned

    folder = tempfile.mkdtemp(prefix="nagedge-tune-")
    try:
        train(applied(run, values), out=Path(folder) / "checkpoint", data=data, progress=watch)
    except TrainingDivergedError as error:
        raise optuna.TrialPruned(str(error)) from None
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return score


def _with_momentum(params: dict[str, Any]) -> dict[str, float | str]:
    values = {name: value for name, value in params.items() if name != "one_minus_momentum"}
    if "one_minus_momentum" in params:
        values["momentum"] = round(1 - float(params["one_minus_momentum"]), 6)
    return values


def _named(trial: Trial) -> Trial:
    return Trial(trial.number, trial.state, trial.score, _with_momentum(trial.values))


def _storage(path: Path) -> optuna.storages.BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"the study {str(path)!r} cannot be used: {error}. Give a file that `nagedge tune` wrote, or a new one."
        ) from None


def _belongs(study: optuna.Study, run: Run, storage: str | Path | None) -> None:
    stored = study.user_attrs.get("run")
    if stored is not None and stored != run.model_dump_json(exclude={"output"}):
        raise ConfigurationError(
            f"the study {str(storage)!r} belongs to another run. Give the run file that it was started with, or another"
            " file."
        )


def _check(search: Search, trials: int) -> None:
    ranges: Sequence[tuple[str, tuple[float, float] | None, float]] = (
        ("lr", search.lr, float("inf")), ("momentum", search.momentum, 1.0), ("weight", search.weight, float("inf")),
    )  # fmt: skip
    for name, ends, most in ranges:
        if ends is not None and not 0 < ends[0] <= ends[1] < most:
            raise ConfigurationError(
                f"the range of {name} is {ends[0]:g} to {ends[1]:g}, expected two rising numbers > 0"
                + (", below 1." if most == 1.0 else ".")
            )
    if trials < 1:
        raise ConfigurationError(f"{trials} trials were asked for, expected at least 1.")
    for method in search.methods:
        if method not in METHODS:
            raise ConfigurationError(
                f"{method!r} is no balancing method, expected one of {', '.join(METHODS)}."
                + nearest_name(method, METHODS)
            )
