"""One training run, done with NagEdge's own steps, and the study that tunes its learning rate."""

from __future__ import annotations

import dataclasses
import functools
import math
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nagedge.data.examples import DataSplits, Examples
from nagedge.data.load import load_data
from nagedge.tasks import TASK_KINDS
from nagedge.training.batches import epoch_order
from nagedge.training.evaluate import evaluate
from nagedge.training.fit import make_fabric
from nagedge.training.run import Run, parse_run
from nagedge.training.step import Setup, set_up, training_step

__all__ = [
    "Scores",
    "Study",
    "Summary",
    "Trial",
    "all_steps",
    "carry_out",
    "prepared",
    "run_of",
    "small_cnn",
    "summaries",
    "train_once",
]

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
Document = dict[str, Any]
Map = Callable[[Callable[["Trial"], "Scores"], Sequence["Trial"]], Iterable["Scores"]]

DIGITS: Document = {
    "batch_size": 64,
    "data": {"source": "mnist", "preprocessing": {"scale": 1 / 255, "normalise": "train"}},
    "model": {"trunk": "tests.evidence.training:small_cnn"},
    "tasks": {
        "digit": {"kind": "classification", "size": 10},
        "slant": {"kind": "regression"},
        "stroke_mass": {"kind": "regression"},
    },
}
TEXT: Document = {
    "batch_size": 64,
    "data": {
        "source": "text",
        "path": str(EXAMPLES / "data" / "sentences.csv"),
        "columns": ["text"],
        "classes": {
            "domain": ["tweets", "amazon", "movie", "nyt"],
            "polarity": ["negative", "neutral", "positive"],
        },
        "preprocessing": {"tokens": 32, "vocabulary": 4000, "missing": "drop", "duplicates": "drop"},
    },
    "model": {"trunk": "tokens", "channels": [32, 32], "dropout": 0.2},
    "tasks": {
        "domain": {"kind": "classification", "size": 4},
        "polarity": {"kind": "classification", "size": 3},
        "intensity": {"kind": "regression", "loss": "huber"},
    },
}
SOURCES: dict[str, Document] = {"digits": DIGITS, "text": TEXT}


@dataclass(frozen=True)
class Trial:
    """What one run is.

    Attributes:
        source: ``"digits"`` or ``"text"``.
        lr, seed, epochs: of the run; the seed is that of weights and order, the rows are divided once for all.
        optimizer: ``"nesterov"`` is that of NagEdge, others are torch's: see :func:`torch_optimizer`.
        settings: of the ``[optimizer]`` table. balancing: that table. weights: of the tasks, by name.
        tasks: which are trained; empty for all.
        scales: factors of the standardised targets, by task.
        examples: training rows, 0 for all of them. warmup: epochs of it.

    The gradient's norm is limited to 5, as in the template of a run file, unless ``settings`` say otherwise.
    """

    source: str
    lr: float
    seed: int = 0
    epochs: int = 4
    optimizer: str = "nesterov"
    settings: Document = field(default_factory=dict)
    balancing: Document = field(default_factory=dict)
    weights: Mapping[str, float] = field(default_factory=dict)
    tasks: tuple[str, ...] = ()
    scales: Mapping[str, float] = field(default_factory=dict)
    examples: int = 0
    warmup: float = 0.5


@dataclass(frozen=True)
class Scores:
    """Task name -> accuracy, or R2 not below 0, in percent; all 0 for a run that diverged."""

    validation: dict[str, float]
    test: dict[str, float]

    @property
    def mean_validation(self) -> float:
        """The mean over the tasks, on the validation rows."""
        return float(np.mean(list(self.validation.values())))

    @property
    def mean_test(self) -> float:
        """The mean over the tasks, on the test rows."""
        return float(np.mean(list(self.test.values())))


@dataclass(frozen=True)
class Study:
    """One row of a table: how to make its trials, and where the search for the learning rate begins."""

    name: str
    trial: Trial
    rates: tuple[float, ...]


@dataclass(frozen=True)
class Summary:
    """What came of a study: the best trial, its scores on the test rows for each seed, all rates that were tried."""

    name: str
    trial: Trial
    tried: dict[float, float]
    scores: tuple[Scores, ...]

    @property
    def tests(self) -> list[float]:
        """The mean test score of every seed."""
        return [score.mean_test for score in self.scores]


def run_of(trial: Trial) -> Run:
    """Return the run of a trial."""
    document = SOURCES[trial.source]
    names = trial.tasks or tuple(document["tasks"])
    tables = {name: {**document["tasks"][name], "weight": trial.weights.get(name, 1.0)} for name in names}
    data = {**document["data"]}
    if "classes" in data:
        data["classes"] = {name: value for name, value in data["classes"].items() if name in names}
    return parse_run(
        {
            **document, "data": data, "tasks": tables, "seed": trial.seed, "schedule": {"epochs": trial.epochs, "warmup": trial.warmup},
            "optimizer": {"lr": trial.lr, "clip_norm": 5.0, **trial.settings}, "balancing": trial.balancing,
        },
        where="evidence",
    )  # fmt: skip


def small_cnn() -> nn.Module:
    """Return the trunk of the digits: two convolutions with stride, one layer on top; 59,000 parameters, no norms."""
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(784, 64), nn.ReLU(),
    )  # fmt: skip


@functools.cache
def _data(source: str, names: tuple[str, ...]) -> DataSplits:
    path = SOURCES[source]["data"].get("path")
    if path is not None and not Path(path).exists():
        subprocess.run([sys.executable, str(EXAMPLES / "fetch.py"), source], check=True)
    run = run_of(Trial(source, 0.1, tasks=names))
    return load_data(run.data, run.task_specs())


def prepared(trial: Trial) -> DataSplits:
    """Return the data of a trial: standardised targets, each times its factor."""
    data = _data(trial.source, trial.tasks)
    if trial.scales:
        data = dataclasses.replace(
            data,
            **{part: _scaled(getattr(data, part), trial.scales) for part in ("train", "validation", "test")},
            preprocessing=dataclasses.replace(data.preprocessing, targets={}),
        )
    if trial.examples:
        parts = {part: getattr(data, part) for part in ("train", "validation", "test")}
        fewer = {part: rows.take(np.arange(min(trial.examples, len(rows)))) for part, rows in parts.items()}
        data = dataclasses.replace(data, **fewer)
    return data


def _scaled(examples: Examples, scales: Mapping[str, float]) -> Examples:
    targets = {
        name: (array * np.float32(scales[name])).astype(np.float32) if name in scales else array
        for name, array in examples.targets.items()
    }
    return Examples(examples.inputs, targets, examples.sample_weight)


class PlainStepper:
    """Takes the steps of an optimizer of torch's, with the learning rate of the schedule and nothing else."""

    skipped = 0

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer

    def prepare(self, rate: float) -> None:
        """Set the learning rate."""
        for group in self._optimizer.param_groups:
            group["lr"] = rate

    def take(self, loss: torch.Tensor, norm: torch.Tensor) -> bool:
        """Take the step."""
        del loss, norm
        self._optimizer.step()
        return True


def torch_optimizer(name: str, params: Sequence[Any], lr: float) -> torch.optim.Optimizer:
    """Return one of torch's optimizers with its usual settings; momentum 0.9."""
    if name == "sgd":
        return torch.optim.SGD(params, lr=lr)
    if name == "heavy_ball":
        return torch.optim.SGD(params, lr=lr, momentum=0.9)
    if name == "adam":
        return torch.optim.Adam(params, lr=lr)
    return torch.optim.NAdam(params, lr=lr)


def set_up_trial(trial: Trial, data: DataSplits) -> Setup:
    """Return the steps' setup, with torch's optimizer in the place of NagEdge's where the trial asks for it."""
    run = run_of(trial)
    setup = set_up(
        make_fabric(1, "cpu", "auto"), run, Path(tempfile.gettempdir()), run.task_specs(), data, None
    )
    if trial.optimizer == "nesterov":
        return setup
    groups = [
        {key: group[key] for key in ("params", "weight_decay")} for group in setup.optimizer.param_groups
    ]
    optimizer = torch_optimizer(trial.optimizer, groups, trial.lr)
    return dataclasses.replace(
        setup, optimizer=optimizer, fabric_optimizer=optimizer, stepper=PlainStepper(optimizer)
    )  # type: ignore[arg-type]


def train_once(trial: Trial) -> Scores:
    """Train and measure; the state after the last step counts, whatever came before."""
    torch.set_num_threads(1)
    data = prepared(trial)
    with torch.random.fork_rng(devices=[]):
        setup = set_up_trial(trial, data)
        finite = all_steps(setup)
        parts = []
        for examples in (setup.validation, setup.test):
            metrics = evaluate(setup.module, examples, setup.tasks, data.preprocessing)[1] if finite else {}
            parts.append({task.name: _score(task.kind, metrics.get(task.name, {})) for task in setup.tasks})
    return Scores(*parts)


def all_steps(setup: Setup) -> bool:
    """Do all steps of a run; return whether every loss and parameter stayed finite."""
    setup.model.train()
    for epoch in range(setup.run.schedule.epochs):
        order = epoch_order(len(setup.train), seed=setup.run.seed, epoch=epoch)
        for place in range(setup.steps_per_epoch):
            rows = order[place * setup.batch_size : (place + 1) * setup.batch_size]
            step = epoch * setup.steps_per_epoch + place
            if not math.isfinite(float(training_step(setup, step, rows)[0])):
                return False
    return all(bool(torch.isfinite(param).all()) for param in setup.params.values())


def _score(kind: str, metrics: Mapping[str, float]) -> float:
    name = "accuracy" if TASK_KINDS[kind].answers == "labels" else "r2"
    value = metrics.get(name, 0.0)
    return 100 * max(0.0, value) if math.isfinite(value) else 0.0


def carry_out(study: Study, seeds: Sequence[int], tuning_seeds: Sequence[int], run_all: Map) -> Summary:
    """Tune the learning rate on the validation rows, then train once a seed with the best one.

    Where the best rate is the lowest or the highest tried, further ones are tried by factors of two, eight at most:
    no method is judged at the end of a range.
    """
    tried: dict[float, float] = {}
    rates = list(study.rates)
    for _ in range(9):
        todo = [rate for rate in rates if rate not in tried]
        trials = [
            dataclasses.replace(study.trial, lr=rate, seed=seed) for rate in todo for seed in tuning_seeds
        ]
        found = [score.mean_validation for score in run_all(train_once, trials)]
        for place, rate in enumerate(todo):
            count = len(tuning_seeds)
            tried[rate] = float(np.mean(found[place * count : (place + 1) * count]))
        best = max(tried, key=lambda rate: tried[rate])
        if best == min(tried):
            rates = [best / 2]
        elif best == max(tried):
            rates = [best * 2]
        else:
            break
        if len(study.rates) == 1:
            break
    trial = dataclasses.replace(study.trial, lr=best)
    scores = tuple(run_all(train_once, [dataclasses.replace(trial, seed=seed) for seed in seeds]))
    return Summary(study.name, trial, dict(sorted(tried.items())), scores)


def summaries(
    studies: Sequence[Study], seeds: Sequence[int], tuning_seeds: Sequence[int], run_all: Map
) -> list[Summary]:
    """Carry out all studies, one after the other; each uses both processes."""
    done = []
    for study in studies:
        done.append(carry_out(study, seeds, tuning_seeds, run_all))
        mean = float(np.mean(done[-1].tests))
        print(f"  {study.name}: lr {done[-1].trial.lr:g}, {mean:.2f}", flush=True)
    return done
