"""What can be exported: a checkpoint, a module, a factory of the user's; each as one :class:`ExportSource`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from nagedge.data.examples import Examples
from nagedge.errors import BundleError, ConfigurationError, NagEdgeError
from nagedge.specs import BATCH, TaskSpec, TensorSpec
from nagedge.step_rules import StepRules
from nagedge.tasks import loss_spec

if TYPE_CHECKING:
    from nagedge.data.preprocessing import Preprocessing
    from nagedge.training.checkpoint import Checkpoint

__all__ = ["BalancedStart", "ExportSource", "load_source", "source_of"]

_DEFAULT_LR, _DEFAULT_MOMENTUM = 0.01, 0.9
# Of the learning rate that trained from scratch: folding BatchNorm away takes its damping of large steps away.
_FINE_TUNING_LR_FACTOR = 0.02


@dataclass(frozen=True)
class ExportSource:
    """A model with all that its export needs to know.

    Attributes:
        model: returns a tensor, a tuple or a dict, one entry a task.
        tasks: in the order of the model's outputs.
        example_input: a tensor, a tuple of tensors or a dict by parameter name; axis 0 is the batch.
        name: for people.
        preprocessing: from raw values to the model's input; None when not declared.
        input: the input's name and unit; None takes the name from ``model.forward``.
        lr, momentum, weight_decay: defaults of the exported step.
        training_examples: returns the prepared examples that the model was trained on, for calibration; None when
            they are not known. May raise DataError where the files are gone.
        balanced: from the names of a balancing method and a restart test, for a step that computes them itself, to
            where such a step begins; None begins anew, with the tasks' weights.
    """

    model: nn.Module
    tasks: tuple[TaskSpec, ...]
    example_input: object
    name: str
    preprocessing: Preprocessing | None = None
    input: TensorSpec | None = None
    lr: float = _DEFAULT_LR
    momentum: float = _DEFAULT_MOMENTUM
    weight_decay: float = 0.0
    training_examples: Callable[[], Examples] | None = None
    balanced: Callable[[str, str], BalancedStart] | None = None


@dataclass(frozen=True)
class BalancedStart:
    """Where a step that balances its losses itself begins.

    Attributes:
        rules: the methods with their options.
        tasks: with the weights of their own.
        state: what the balancing method remembers already, by the names of :meth:`StepRules.balancing_state`.
    """

    rules: StepRules
    tasks: tuple[TaskSpec, ...]
    state: Mapping[str, Tensor]


def source_of(
    model: nn.Module | Checkpoint | str | Path, tasks: Sequence[TaskSpec] | None, example_input: object
) -> ExportSource:
    """Return what to export; ``tasks`` and ``example_input`` belong to a module and to nothing else.

    Raises:
        ConfigurationError: an argument is missing, or one too many.
    """
    if not isinstance(model, nn.Module):
        if tasks is not None or example_input is not None:
            raise ConfigurationError(
                "tasks and example_input belong to a torch.nn.Module; a checkpoint and a factory bring their own."
            )
        return load_source(model)
    if tasks is None or example_input is None:
        missing = "tasks" if tasks is None else "example_input"
        raise ConfigurationError(
            f"export of a {type(model).__name__} needs {missing}=: see nagedge.TaskSpec."
        )
    return _checked(ExportSource(model, tuple(tasks), example_input, type(model).__name__))


def load_source(source: Checkpoint | str | Path) -> ExportSource:
    """Return what to export from a checkpoint, its folder, or ``"package.module:factory"``.

    A factory takes no argument and returns an :class:`ExportSource` or ``(model, tasks, example_input)``.

    Raises:
        ConfigurationError: the factory cannot be imported or returns something else.
        BundleError: the folder holds no checkpoint.
    """
    from nagedge.training.checkpoint import CHECKPOINT_FILE, Checkpoint

    text = os.fspath(source) if isinstance(source, (str, Path)) else ""
    if text and ":" in text and not Path(text).exists():
        return _checked(_from_factory(text))
    if text and not (Path(text) / CHECKPOINT_FILE).exists():
        raise BundleError(
            f"{text!r} is neither a checkpoint folder (no {CHECKPOINT_FILE}) nor 'package.module:factory'. Give the "
            "folder that `nagedge train` wrote."
        )
    checkpoint = source if isinstance(source, Checkpoint) else Checkpoint.load(text)
    optimizer = checkpoint.run.optimizer
    generator = torch.Generator().manual_seed(0)
    shape = [8 if size == BATCH else int(size) for size in checkpoint.input.shape]
    example = (
        torch.randn(shape, generator=generator)
        if checkpoint.input.dtype.startswith("float")
        else torch.randint(
            0,
            max(1, checkpoint.run.model.vocabulary, checkpoint.preprocessing.vocabulary),
            shape,
            generator=generator,
        ).to(getattr(torch, checkpoint.input.dtype))
    )

    def training_examples() -> Examples:
        from nagedge.data.load import load_data

        return load_data(checkpoint.run.data, checkpoint.tasks).train

    def balanced(method: str, restart: str) -> BalancedStart:
        from nagedge.training.balancing.on_device import rules_after_run, state_after_run

        config = checkpoint.run.balancing
        rules = rules_after_run(method, restart, config)
        return BalancedStart(
            rules, tuple(checkpoint.tasks), state_after_run(rules, config, checkpoint.balancer())
        )

    return ExportSource(
        checkpoint.build_model(), checkpoint.exported_tasks(), example, checkpoint.run.model.trunk,
        checkpoint.preprocessing, checkpoint.input, optimizer.lr * _FINE_TUNING_LR_FACTOR, optimizer.momentum,
        0.0 if optimizer.decoupled else optimizer.weight_decay, training_examples,
        balanced,
    )  # fmt: skip


def _from_factory(text: str) -> ExportSource:
    module_name, _, attribute = text.partition(":")
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does: a factory beside the user is found
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
        made = factory()
    except NagEdgeError:
        raise
    except (Exception, SystemExit) as error:
        raise ConfigurationError(
            f"source {text!r} cannot be used: {type(error).__name__}: {error}. Expected 'package.module:factory', a "
            "function without arguments."
        ) from error
    finally:
        sys.path.remove(str(Path.cwd()))
    if isinstance(made, ExportSource):
        return made
    if not (isinstance(made, tuple) and len(made) == 3 and isinstance(made[0], nn.Module)):
        raise ConfigurationError(
            f"source {text!r} returned {type(made).__name__}, expected (model, tasks, example_input)."
        )
    model, tasks, example = made
    return ExportSource(model, tuple(tasks), example, type(model).__name__)


def _checked(source: ExportSource) -> ExportSource:
    if not source.tasks or not all(isinstance(task, TaskSpec) for task in source.tasks):
        raise ConfigurationError("tasks must hold one nagedge.TaskSpec for each output of the model.")
    names = [task.name for task in source.tasks]
    for name in names:
        if names.count(name) > 1:
            raise ConfigurationError(
                f"task name {name!r} is used {names.count(name)} times: names must differ."
            )
        if name == "loss":
            raise ConfigurationError(
                "task name 'loss' is taken by the total loss of all tasks: choose another."
            )
    for task in source.tasks:
        loss_spec(task)
    return source
