"""Table 5: what a step costs with every balancing method, and what importance-adaptive accumulation saves."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError
from nagedge.models import MultiTaskModel
from nagedge.training.balancing.methods import METHODS
from nagedge.training.batches import epoch_order
from nagedge.training.fit import make_fabric
from nagedge.training.run import parse_run
from nagedge.training.step import Setup, set_up, training_step
from tests.benchmarks.rounds import Ratio, measure, ratio
from tests.evidence.training import DIGITS, Document, Trial, prepared

__all__ = ["Cost", "Saving", "costs", "savings"]

PLAIN = "sum"


@dataclass(frozen=True)
class Cost:
    """The step of one method: its name, its scope (empty where it has none), processor time over a plain sum's."""

    method: str
    scope: str
    ratio: Ratio


@dataclass(frozen=True)
class Saving:
    """One way to accumulate.

    Attributes:
        model: which heads it has. shares: by task; how they came to be is in ``name``.
        head_passes: of the heads, of those that equal shares would take.
        ratio: of processor time over equal shares' of the same model.
        plain: of processor time over a plain sum's.
    """

    model: str
    name: str
    shares: tuple[float, ...]
    head_passes: float
    ratio: Ratio
    plain: Ratio


def _stepper(document: Document, data: DataSplits) -> tuple[Setup, Callable[[], None]]:
    run = parse_run({**document, "optimizer": {"lr": 0.005}, "schedule": {"epochs": 10}}, where="evidence")
    folder = Path(tempfile.gettempdir())
    setup = set_up(make_fabric(1, "cpu", "auto"), run, folder, run.task_specs(), data, None)
    setup.model.train()
    order = epoch_order(len(setup.train), seed=0, epoch=0)
    count = 0

    def step() -> None:
        nonlocal count
        place = count % setup.steps_per_epoch
        training_step(
            setup, count % setup.steps, order[place * setup.batch_size : (place + 1) * setup.batch_size]
        )
        count += 1

    return setup, step


def costs(rounds: int, methods: Sequence[str] = tuple(METHODS)) -> tuple[list[Cost], dict[str, str]]:
    """Return the ratios, and why a method could not be measured; all methods take a step in turn, many times.

    The model is the CNN of ``docs/examples/digits.toml``: 16, 32 and 64 channels, three tasks, batch 64.
    """
    torch.set_num_threads(1)
    data = prepared(Trial("digits", 0.1))
    base = {**DIGITS, "model": {"trunk": "cnn", "channels": [16, 32, 64]}}
    steps: dict[str, Callable[[], None]] = {}
    missing: dict[str, str] = {}
    for method in dict.fromkeys([PLAIN, *methods]):
        scopes = ("features", "trunk") if METHODS[method].family == "gradients" else ("",)
        for scope in scopes:
            table = {"method": method, **({"scope": scope} if scope else {})}
            try:
                steps[f"{method}/{scope}"] = _stepper({**base, "balancing": table}, data)[1]
            except ConfigurationError as error:
                missing[method] = str(error).split(":", maxsplit=1)[0]
    samples = measure(steps, rounds=rounds, warm_up=2)
    reference = samples.pop(f"{PLAIN}/").cpu_ms
    found = [Cost(*name.split("/"), ratio(times.cpu_ms, reference)) for name, times in samples.items()]
    return found, missing


def savings(rounds: int) -> list[Saving]:
    """Return what accumulation saves with small heads (11,000 parameters a step is nothing) and with large ones."""
    torch.set_num_threads(1)
    found = []
    for name, document, data in (_small_heads(), _large_heads()):
        found += _savings_of(name, document, data, rounds)
    return found


def _savings_of(model: str, document: Document, data: DataSplits, rounds: int) -> list[Saving]:
    names = list(document["tasks"])
    tables: Mapping[str, Document] = {
        "equal shares": {"options": {"importance": "preference"}},
        "shares 1, 1/2, 1/4": {
            "options": {"importance": "preference"},
            "preference": {names[0]: 1.0, names[1]: 0.5, names[2]: 0.25},
        },
        "shares 1, 1/10, 1/10": {
            "options": {"importance": "preference"},
            "preference": {names[0]: 1.0, names[1]: 0.1, names[2]: 0.1},
        },
        "by loss rate": {"options": {"importance": "loss_rate"}},
        "by gradient norm": {"options": {"importance": "gradient_norm"}},
    }
    steps, passes = {}, {}
    _, steps["plain"] = _stepper(document, data)
    for name, table in tables.items():
        setup, steps[name] = _stepper({**document, "balancing": {"method": "accumulation", **table}}, data)
        passes[name] = _counted(setup)
    samples = measure(steps, rounds=rounds, warm_up=2)
    reference, plain = samples["equal shares"].cpu_ms, samples["plain"].cpu_ms
    return [
        Saving(
            model, name, tuple(np.array(passes[name]) / max(passes[name])),
            sum(passes[name]) / sum(passes["equal shares"]),
            ratio(samples[name].cpu_ms, reference), ratio(samples[name].cpu_ms, plain),
        )
        for name in tables
    ]  # fmt: skip


def _counted(setup: Setup) -> list[int]:
    """Return counters, one a task, of the backward passes that its head's parameters see from now on."""
    assert isinstance(setup.module, MultiTaskModel)
    counts = [0] * len(setup.tasks)
    for place, task in enumerate(setup.tasks):
        first = next(setup.module.heads[task.name].parameters())

        def note(gradient: Tensor, place: int = place) -> None:
            del gradient
            counts[place] += 1

        first.register_hook(note)
    return counts


def _small_heads() -> tuple[str, Document, DataSplits]:
    data = prepared(Trial("digits", 0.1))
    return (
        "digits, heads of 12 outputs",
        {**DIGITS, "model": {"trunk": "cnn", "channels": [16, 32, 64]}},
        data,
    )


def _large_heads() -> tuple[str, Document, DataSplits]:
    """Return the digits with their pixels to be drawn again by two of three heads: 784 outputs of 512 features each."""
    import dataclasses

    from nagedge.data.examples import Examples

    data = prepared(Trial("digits", 0.1))

    def drawn(examples: Examples) -> Examples:
        flat = examples.inputs["image"].reshape(len(examples), -1)
        return Examples(
            examples.inputs,
            {"digit": examples.targets["digit"], "drawn": flat, "mirrored": flat[:, ::-1].copy()},
        )

    data = dataclasses.replace(
        data, train=drawn(data.train), validation=drawn(data.validation), test=drawn(data.test),
        preprocessing=dataclasses.replace(data.preprocessing, targets={}),
    )  # fmt: skip
    tasks = {
        "digit": {"kind": "classification", "size": 10},
        "drawn": {"kind": "regression", "size": 784},
        "mirrored": {"kind": "regression", "size": 784},
    }
    document = {**DIGITS, "batch_size": 256, "model": {"trunk": "mlp", "hidden": [512]}, "tasks": tasks}
    return "digits, two heads that draw 784 pixels", document, data
