"""The training loop."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import math
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError
from nagedge.specs import TaskSpec
from nagedge.training.balancing import BalancerState
from nagedge.training.batches import epoch_order
from nagedge.training.checkpoint import CHECKPOINT_FILE, Checkpoint, TrainingState, write_checkpoint
from nagedge.training.cosines import gradient_cosines
from nagedge.training.divergence import check_losses, check_tensors, diverged
from nagedge.training.evaluate import evaluate
from nagedge.training.events import (
    CheckpointWritten,
    EpochFinished,
    Progress,
    StepsDone,
    StepSkipped,
    TrainingFinished,
    TrainingStarted,
)
from nagedge.training.processes import is_lost_worker, leave_the_end_to_us, lost_worker
from nagedge.training.run import Run, load_run
from nagedge.training.step import Setup, set_up, training_step
from nagedge.training.stepper import LARGEST_RUN_OF_SKIPS

__all__ = ["Precision", "make_fabric", "train"]

Precision = Literal["32", "bf16"]

COSINE_EXAMPLES = 256
_REPORT_STEPS = 20
"""Losses are looked at, and reported, every so many steps: on a GPU each look waits for the device."""


def train(
    run: Run | str | Path,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    progress: Progress | None = None,
    data: DataSplits | None = None,
    devices: int | str = 1,
    accelerator: str = "auto",
    strategy: str = "auto",
    precision: Precision = "32",
    compiled: bool = False,
) -> Checkpoint:
    """Train a model and return its last checkpoint.

    A checkpoint is written before the first step, after each epoch, and every ``checkpoint_steps`` steps. A run that
    was killed at any point and is resumed, on the same machine with as many threads, ends with the same bits as one
    that was not.

    Args:
        run: the run, or the path of its file.
        out: folder of the checkpoint, instead of the run's ``output``.
        resume: continue from the checkpoint in that folder, if there is one.
        progress: is called with an :data:`~nagedge.training.events.Event` now and then.
        data: the examples, instead of those that the run's ``[data]`` describes.
        devices: how many, as Lightning Fabric takes them; each takes its part of every batch.
        accelerator: as Fabric takes it: ``"auto"``, ``"cpu"``, ``"cuda"``, ...
        strategy: as Fabric takes it: ``"auto"``, ``"ddp"``, ...
        precision: of the forward pass: ``"32"``, or ``"bf16"``; parameters, losses and updates stay float32.
        compiled: train through ``torch.compile``.

    Raises:
        ConfigurationError: the run is wrong, or the folder already holds a checkpoint, or that of another run.
        DataError: the data is wrong.
        TrainingDivergedError: a loss, a gradient or a parameter became NaN or infinite; the last checkpoint is kept.
        BundleError: the checkpoint to resume from is damaged, or the folder cannot be written.
        WorkerLostError: another process of this run was killed or failed; the last checkpoint is kept.
    """
    run = run if isinstance(run, Run) else load_run(run)
    path = Path(run.output if out is None else out).resolve()
    with _quiet_fabric():
        fabric = make_fabric(devices, accelerator, strategy, precision)
        try:
            fabric.launch(
                functools.partial(
                    _fit, run=run, path=path, resume=resume, progress=progress, data=data, compiled=compiled
                )
            )
        except RuntimeError as error:
            if fabric.world_size == 1 or not is_lost_worker(error):
                raise
            raise lost_worker(
                error, rank=fabric.global_rank, processes=fabric.world_size, path=path
            ) from error
    return Checkpoint.load(path)


def make_fabric(devices: int | str, accelerator: str, strategy: str, precision: Precision = "32") -> Fabric:
    """Return the devices and processes; raises ConfigurationError for what this machine does not have."""
    try:
        return Fabric(
            accelerator=accelerator, devices=devices, strategy=strategy,
            precision="bf16-mixed" if precision == "bf16" else "32-true",
        )  # fmt: skip
    except Exception as error:  # Fabric raises ValueError, TypeError, RuntimeError and classes of its own
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ConfigurationError(
            f"devices {devices!r}, accelerator {accelerator!r} and strategy {strategy!r} cannot be used here: {reason}"
            " Expected what this machine has, for example devices 1 with strategy 'auto', or 2 with 'ddp'."
        ) from error


def _fit(
    fabric: Fabric,
    run: Run,
    path: Path,
    resume: bool,
    progress: Progress | None,
    data: DataSplits | None,
    compiled: bool,
) -> None:
    """Train in one process of the run's."""
    leave_the_end_to_us()
    previous = _previous(run, path, resume=resume)
    fabric.barrier()  # all processes have looked before the first one writes
    if previous is not None and previous.finished:
        return
    tasks = run.task_specs()
    if data is None:
        from nagedge.data.load import load_data

        data = load_data(run.data, tasks)
    report = progress if progress is not None and fabric.is_global_zero else _ignore
    with torch.random.fork_rng(devices=[fabric.device] if fabric.device.type == "cuda" else []):
        setup = set_up(fabric, run, path, tasks, data, previous, compiled=compiled)
        state = previous.state if previous else TrainingState(0, setup.steps)
        report(_started(setup, state))
        if previous is None:
            _write(setup, state, report, kept_step=0)
        while state.step < state.steps:
            state = _finish_epoch(setup, state, report)
        report(TrainingFinished(path, state.test))


def _previous(run: Run, path: Path, *, resume: bool) -> Checkpoint | None:
    """Return the checkpoint to continue from, or ``None`` to start."""
    if not (path / CHECKPOINT_FILE).exists():
        return None
    if not resume:
        raise ConfigurationError(
            f"folder {str(path)!r} already holds a checkpoint. Continue it with --resume, or give another folder"
            " with --out."
        )
    previous = Checkpoint.load(path)
    then, now = (
        r.model_dump(mode="json", exclude={"output", "checkpoint_steps"}) for r in (previous.run, run)
    )
    changed = [key for key in now if now[key] != then[key]]
    if changed:
        raise ConfigurationError(
            f"the checkpoint in {str(path)!r} belongs to another run: {', '.join(changed)} differ. Resume with the"
            " run file that it was started with, or give another folder with --out."
        )
    return previous


def _finish_epoch(setup: Setup, state: TrainingState, report: Progress) -> TrainingState:
    """Do the steps from the present one to the end of its epoch, evaluate, write; return the new state."""
    epoch, first = divmod(state.step, setup.steps_per_epoch)
    order = epoch_order(len(setup.train), seed=setup.run.seed, epoch=epoch).to(setup.fabric.device)
    count = len(setup.tasks)
    sums = state.loss_sums or (0.0,) * (3 * count + 1)
    pending: list[Tensor] = []
    started = time.perf_counter()
    setup.model.train()
    for i in range(first, setup.steps_per_epoch):
        chosen = order[i * setup.batch_size : (i + 1) * setup.batch_size]
        skipped = setup.stepper.skipped
        pending.append(training_step(setup, epoch * setup.steps_per_epoch + i, chosen))
        if setup.stepper.skipped > skipped:
            _report_skip(setup, epoch * setup.steps_per_epoch + i + 1, report, kept_step=state.step)
        done = epoch * setup.steps_per_epoch + i + 1
        last = i + 1 == setup.steps_per_epoch
        save = not last and bool(setup.run.checkpoint_steps) and done % setup.run.checkpoint_steps == 0
        if last or save or len(pending) == _REPORT_STEPS:
            rows = _on_every_process(setup.fabric, torch.stack(pending))
            losses = [[*row[: count + 1], row[-1]] for row in rows]
            check_losses(
                losses, setup.tasks, first_step=done - len(losses) + 1, kept_step=state.step, path=setup.path
            )
            sums = _added(sums, rows)
            report(StepsDone(done, setup.steps, epoch + 1, _named(setup.tasks, losses[-1])))
            pending = []
        if save:
            kept_step = state.step
            state = dataclasses.replace(state, step=done, loss_sums=sums)
            state = _write(setup, state, report, kept_step=kept_step)
    seconds = time.perf_counter() - started
    with setup.as_it_is_kept():
        record, test = _measure(setup, epoch, sums, seconds=seconds)
    kept_step = state.step
    for task in setup.tasks:
        if not math.isfinite(record.validation_losses.get(task.name, 0.0)):
            what = f"the validation loss of task {task.name!r} is not finite after step {record.step}"
            raise diverged(what, kept_step=kept_step, path=setup.path)
    report(record)
    state = TrainingState(record.step, state.steps, (*state.history, record), test=test)
    return _write(setup, state, report, kept_step=kept_step)


def _report_skip(setup: Setup, step: int, report: Progress, *, kept_step: int) -> None:
    """Say that a step was skipped; stop when too many were, one after the other."""
    report(StepSkipped(step, float(setup.stepper.state()["lr_factor"])))
    if setup.stepper.skipped_in_a_row >= LARGEST_RUN_OF_SKIPS:
        raise diverged(
            f"no loss or gradient was finite in {LARGEST_RUN_OF_SKIPS} steps up to step {step}, which were skipped",
            kept_step=kept_step, path=setup.path,
        )  # fmt: skip


def _on_every_process(fabric: Fabric, table: Tensor) -> list[list[float]]:
    """Return the mean over the processes; it keeps NaN and infinity, so that all of them stop together."""
    if fabric.world_size > 1:
        reduced = fabric.all_reduce(table, reduce_op="mean")
        assert isinstance(reduced, Tensor)
        table = reduced
    rows: list[list[float]] = table.tolist()
    return rows


def _added(sums: Sequence[float], rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Add the losses of each step, in the order of the steps, wherever the looks at them fall."""
    totals = list(sums)
    for row in rows:
        totals = [total + value for total, value in zip(totals, row, strict=False)]
    return tuple(totals)


def _named(tasks: Sequence[TaskSpec], values: Sequence[float]) -> dict[str, float]:
    return dict(zip(["loss", *(task.name for task in tasks)], values, strict=False))


def _measure(
    setup: Setup, epoch: int, sums: Sequence[float], *, seconds: float
) -> tuple[EpochFinished, dict[str, dict[str, float]]]:
    """Return the record of an epoch, and the test metrics after the last one."""
    done = (epoch + 1) * setup.steps_per_epoch
    validation_losses: dict[str, float] = {}
    validation: dict[str, dict[str, float]] = {}
    test: dict[str, dict[str, float]] = {}
    cosines: dict[str, float] = {}
    if setup.fabric.is_global_zero:
        if len(setup.tasks) > 1:
            rows = torch.arange(min(COSINE_EXAMPLES, len(setup.train)), device=setup.fabric.device)
            cosines = gradient_cosines(setup.module, setup.train.batch(rows), setup.tasks)
        if len(setup.validation):
            validation_losses, validation = evaluate(
                setup.module, setup.validation, setup.tasks, setup.data.preprocessing
            )
        if done == setup.steps and len(setup.test):
            test = evaluate(setup.module, setup.test, setup.tasks, setup.data.preprocessing)[1]
    count, names = len(setup.tasks), [task.name for task in setup.tasks]
    labelled = sums[2 * count + 1 :]
    record = EpochFinished(
        epoch=epoch + 1,
        step=done,
        lr=float(setup.optimizer.param_groups[0]["lr"]),
        losses=_named(setup.tasks, [sums[0] / setup.steps_per_epoch, *_means(sums[1 : count + 1], labelled)]),
        weights=dict(zip(names, _means(sums[count + 1 : 2 * count + 1], labelled), strict=True)),
        validation_losses=validation_losses,
        validation=validation,
        seconds=seconds,
        cosines=cosines,
    )
    return record, test


def _means(sums: Sequence[float], counts: Sequence[float]) -> list[float]:
    return [total / count if count else 0.0 for total, count in zip(sums, counts, strict=True)]


def _write(setup: Setup, state: TrainingState, report: Progress, *, kept_step: int) -> TrainingState:
    """Write the checkpoint from the first process while the others wait; return the state with the balancer's."""
    balancer = setup.balancer.state()
    averaging, numbers = setup.averaging()
    state = dataclasses.replace(
        state, balancer=dict(balancer.values), optimizer=setup.stepper.state() | numbers
    )
    with setup.as_it_is_kept():
        _write_tensors(setup, state, report, kept_step=kept_step, balancer=balancer, averaging=averaging)
    setup.fabric.barrier()
    return state


def _write_tensors(
    setup: Setup,
    state: TrainingState,
    report: Progress,
    *,
    kept_step: int,
    balancer: BalancerState,
    averaging: Mapping[str, Tensor],
) -> None:
    if setup.fabric.is_global_zero:
        params = setup.module.state_dict()
        check_tensors(params, step=state.step, kept_step=kept_step, path=setup.path)
        write_checkpoint(
            setup.path,
            run=setup.run,
            input_spec=setup.data.input,
            preprocessing=setup.data.preprocessing,
            state=state,
            params=params,
            momentum=setup.momentum(),
            balancer=balancer.tensors,
            averaging=averaging,
        )
        report(CheckpointWritten(setup.path, state.step))


def _started(setup: Setup, state: TrainingState) -> TrainingStarted:
    return TrainingStarted(
        step=state.step,
        steps=state.steps,
        epochs=setup.run.schedule.epochs,
        parameter_count=sum(param.numel() for param in setup.params.values()),
        train_size=len(setup.train),
        validation_size=len(setup.validation),
        test_size=len(setup.test),
        device=str(setup.fabric.device),
    )


def _ignore(event: object) -> None:
    """Report to nobody."""


@contextlib.contextmanager
def _quiet_fabric() -> Iterator[None]:
    """Keep Fabric's notes about devices, loaders and tips off the user's terminal; errors pass."""
    loggers = [
        logging.getLogger(name) for name in ("lightning_fabric", "lightning.fabric", "lightning_utilities")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning_fabric(\..*)?")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
