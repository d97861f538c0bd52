"""What a run needs for its steps, and one step."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from nagedge.data.examples import DataSplits
from nagedge.errors import ConfigurationError, DataError
from nagedge.models import build_model, with_vocabulary
from nagedge.specs import TaskSpec
from nagedge.training.balancing import Balancer, BalancerState, Context, make_balancer
from nagedge.training.balancing.methods import METHODS
from nagedge.training.batches import DeviceExamples, steps_per_epoch
from nagedge.training.checkpoint import Checkpoint
from nagedge.training.nesterov import parameter_groups
from nagedge.training.optimizer_config import OptimizerConfig
from nagedge.training.other_optimizers import (
    Sharpness,
    at_average,
    averaging_state,
    restore_averaging,
    schedule_free,
)
from nagedge.training.run import Run
from nagedge.training.schedule import learning_rate
from nagedge.training.stepper import Stepper

__all__ = ["Setup", "set_up", "training_step"]


@dataclass(frozen=True)
class Setup:
    """Everything that stays the same object from the first step of a run to its last.

    Args:
        fabric: the devices and processes.
        run, path, tasks, data: what is trained, on what, and where the checkpoint goes.
        train, validation, test: the examples on the device.
        batch_size: examples a step over all processes.
        steps_per_epoch, steps: steps of one epoch and of the whole run.
        warmup_steps: steps with a rising learning rate.
        module, optimizer: torch's own.
        model, fabric_optimizer: the same, as Fabric wraps them.
        params: the trainable parameters by name.
        balancer: takes the losses of a batch back to the gradients.
        stepper: takes the optimizer's steps.
        sharpness: SAM's first half, if the run asks for it.
    """

    fabric: Fabric
    run: Run
    path: Path
    tasks: Sequence[TaskSpec]
    data: DataSplits
    train: DeviceExamples
    validation: DeviceExamples
    test: DeviceExamples
    batch_size: int
    steps_per_epoch: int
    steps: int
    warmup_steps: int
    module: nn.Module
    optimizer: torch.optim.Optimizer
    model: nn.Module
    fabric_optimizer: Any  # a private class of Fabric, with the methods of an optimizer
    params: Mapping[str, nn.Parameter]
    balancer: Balancer
    stepper: Stepper
    sharpness: Sharpness | None = None

    @functools.cached_property
    def task_weights(self) -> Tensor:
        """The tasks' own weights, ``[tasks]``."""
        return torch.tensor([task.weight for task in self.tasks], device=self.fabric.device)

    def momentum(self) -> dict[str, Tensor]:
        """Return the momentum buffers by parameter name; zeros where there was no step yet."""
        return {
            name: self.optimizer.state[param].get("momentum_buffer", torch.zeros_like(param))
            for name, param in self.params.items()
        }

    def averaging(self) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Return the state of schedule-free averaging; nothing for other methods."""
        if self.run.optimizer.method != "schedule_free":
            return {}, {}
        return averaging_state(self.optimizer, self.params)

    def as_it_is_kept(self) -> AbstractContextManager[None]:
        """Return a context in which the model is the one that is measured and stored."""
        if self.run.optimizer.method != "schedule_free":
            return nullcontext()
        return at_average(self.optimizer, self.module, self.train, self.batch_size)


def set_up(
    fabric: Fabric,
    run: Run,
    path: Path,
    tasks: Sequence[TaskSpec],
    data: DataSplits,
    previous: Checkpoint | None,
    *,
    compiled: bool = False,
) -> Setup:
    """Move the examples to the device; build model and optimizer, in the state of ``previous`` if there is one.

    Raises:
        ConfigurationError: the batch cannot be shared out, or ``previous`` was trained on other data.
        DataError: there are no training examples.
    """
    train, validation, test = (
        DeviceExamples.of(examples, data.input.name, fabric.device)
        for examples in (data.train, data.validation, data.test)
    )
    if len(train) == 0:
        raise DataError("there are no training examples. Add data, or raise data.split.train.")
    batch_size = min(run.batch_size, len(train))
    if batch_size % fabric.world_size:
        raise ConfigurationError(
            f"a batch of {batch_size} cannot be shared out among {fabric.world_size} devices. Set batch_size to a"
            " multiple of the number of devices."
        )
    per_epoch = steps_per_epoch(len(train), batch_size)
    steps = per_epoch * run.schedule.epochs
    if previous is not None and previous.state.steps != steps:
        raise ConfigurationError(
            f"the checkpoint in {str(path)!r} was trained on other data: its run has {previous.state.steps} steps, this"
            f" data gives {steps}. Give another folder with --out."
        )
    model_config = with_vocabulary(run.model, data.preprocessing.vocabulary)
    module = build_model(model_config, data.input, tasks, run.seed).to(fabric.device)
    params = {name: param for name, param in module.named_parameters() if param.requires_grad}
    if previous is not None:
        module.load_state_dict(previous.params())
    optimizer = _optimizer(run.optimizer, module, params, previous)
    if compiled and (METHODS[run.balancing.method].family == "gradients"):
        raise ConfigurationError(
            f"balancing method {run.balancing.method!r} passes the trunk and the heads separately, which are not"
            " compiled. Train without --compile, or choose a method on losses."
        )
    forward: nn.Module = torch.compile(module) if compiled else module  # type: ignore[assignment] # it is a module
    model, fabric_optimizer = fabric.setup(forward, optimizer)
    context = Context(fabric, tasks, module, model, params)
    sharpness = (
        Sharpness(run.optimizer, run.balancing, context, optimizer.param_groups)
        if run.optimizer.sam
        else None
    )
    return Setup(
        fabric, run, path, tasks, data, train, validation, test, batch_size, per_epoch, steps,
        min(round(run.schedule.warmup * per_epoch), steps - 1),
        module, optimizer, model, fabric_optimizer, params,
        make_balancer(
            run.balancing,
            context,
            BalancerState() if previous is None else previous.balancer(),
        ),
        Stepper(
            run.optimizer, optimizer, fabric_optimizer, params, dict(module.named_buffers()),
            {} if previous is None else previous.state.optimizer,
        ),
        sharpness,
    )  # fmt: skip


def _optimizer(
    config: OptimizerConfig,
    module: nn.Module,
    params: Mapping[str, nn.Parameter],
    previous: Checkpoint | None,
) -> torch.optim.Optimizer:
    """Return the optimizer of the parameters as they are, in the state of ``previous``."""
    groups = parameter_groups(module, 0.0 if config.decoupled else config.weight_decay)
    if config.method == "schedule_free":
        averaging = schedule_free(config, groups)
        if previous is not None and previous.state.step:
            restore_averaging(averaging, params, previous.averaging(), previous.state.optimizer)
        averaging.train()  # type: ignore[attr-defined] # the library's own method
        return averaging
    optimizer = torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=True, fused=True)
    for param in params.values():
        # zeros are a first step; torch's fused update fails where a head's first gradient comes later than others'
        optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
    if previous is not None and previous.state.step:
        for name, buffer in previous.momentum().items():
            optimizer.state[params[name]]["momentum_buffer"] = torch.from_numpy(buffer).to(
                params[name].device
            )
    return optimizer


def training_step(setup: Setup, step: int, rows: Tensor, *, rate: float | None = None) -> Tensor:
    """Do step number ``step`` (from 0) on the examples ``rows``, int64 ``[batch]``, shared out over the processes.

    ``rate`` takes the place of the schedule's learning rate.

    Returns:
        Total loss, then the loss of each task, the weight that it had in effect and whether it had labels (1 or 0),
        and the norm of the gradient before clipping: ``[3 tasks + 2]``, on the device. Nothing here waits for it, but
        for the tests of restarts and of the guard against NaN. All zeros for a step that was skipped.
    """
    fabric, config = setup.fabric, setup.run.optimizer
    dropout_seed = (setup.run.seed * 1_000_003 + step * fabric.world_size + fabric.global_rank) % 2**63
    _seed_dropout(fabric, dropout_seed)
    if rate is None:
        rate = learning_rate(
            step, lr=config.lr, steps=setup.steps, warmup_steps=setup.warmup_steps,
            constant=config.method == "schedule_free",
        )  # fmt: skip
    setup.stepper.prepare(rate)
    batch = setup.train.batch(rows[fabric.global_rank :: fabric.world_size])
    setup.fabric_optimizer.zero_grad()
    balanced = setup.balancer.backward(batch, last_of_epoch=(step + 1) % setup.steps_per_epoch == 0)
    if setup.sharpness is not None:
        _seed_dropout(fabric, dropout_seed)
        setup.sharpness.look_around(batch, balanced.weights)
    norm = nn.utils.clip_grad_norm_(setup.params.values(), config.clip_norm or math.inf)
    total = (balanced.losses * setup.task_weights).sum()
    if not setup.stepper.take(_on_all(fabric, total) if config.restart == "loss" else total, norm):
        return torch.zeros(3 * len(setup.tasks) + 2, device=fabric.device)
    if balanced.follow_up is not None:
        balanced.follow_up()
    return torch.cat(
        [total[None], balanced.losses, balanced.weights * balanced.present, balanced.present, norm[None]]
    )


def _on_all(fabric: Fabric, value: Tensor) -> Tensor:
    if fabric.world_size == 1:
        return value
    reduced = fabric.all_reduce(value, reduce_op="mean")
    assert isinstance(reduced, Tensor)
    return reduced


def _seed_dropout(fabric: Fabric, seed: int) -> None:
    """Make a step's random numbers a function of run and step, so that no generator state is stored.

    ``torch.manual_seed`` does the same for every device, and takes up to a millisecond.
    """
    if fabric.device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
