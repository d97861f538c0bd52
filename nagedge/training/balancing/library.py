"""TorchJD's classes for a method, made with the options of a run file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nagedge.errors import ConfigurationError
from nagedge.specs import TaskSpec
from nagedge.training.balancing.config import BalancingConfig
from nagedge.training.balancing.methods import METHODS
from nagedge.training.balancing.projector import projector

if TYPE_CHECKING:
    from torchjd.aggregation import Aggregator
    from torchjd.scalarization import Scalarizer

__all__ = ["make_aggregator", "make_scalarizer", "pose_again", "preferences"]

_LEARNS_LR = ("UW", "IMTLL")
"""Their ``lr`` is ours: TorchJD leaves the step of what they learn to the user's optimizer."""


def preferences(config: BalancingConfig, tasks: Sequence[TaskSpec]) -> Tensor | None:
    """Return the share of each task, ``[tasks]``; ``None`` where the table names none."""
    if not config.preference:
        return None
    return torch.tensor([config.preference.get(task.name, 1.0) for task in tasks])


def make_scalarizer(config: BalancingConfig, tasks: Sequence[TaskSpec]) -> Scalarizer:
    """Return the scalariser of ``len(tasks)`` losses.

    Raises:
        ConfigurationError: TorchJD refuses an option.
    """
    from torchjd import scalarization

    name = METHODS[config.method].made_by
    keywords = _numbers(config)
    if name in _LEARNS_LR:
        del keywords["lr"]
    shares = preferences(config, tasks)
    if name in ("UW", "IMTLL", "FAMO"):
        keywords["shape"] = len(tasks)
    elif name in ("Constant", "PBI", "COSMOS"):
        keywords["weights"] = torch.ones(len(tasks)) if shares is None else shares
    elif name == "STCH" and shares is not None:
        keywords["weights"] = shares / shares.sum()
    try:
        made: Scalarizer = getattr(scalarization, name)(**keywords)
    except ValueError as error:
        raise _refused(config, error) from None
    return made


def make_aggregator(config: BalancingConfig, tasks: Sequence[TaskSpec]) -> Aggregator:
    """Return the aggregator of ``len(tasks)`` gradients.

    Raises:
        ConfigurationError: TorchJD refuses an option, or the method needs a solver that is not installed.
    """
    from torchjd import aggregation

    method = METHODS[config.method]
    keywords = _numbers(config)
    shares = preferences(config, tasks)
    if method.preference and shares is not None:
        keywords["pref_vector"] = shares
    if method.made_by in ("UPGrad", "DualProj"):
        keywords["projector"] = projector()
    if method.made_by == "NashMTL":
        keywords["n_tasks"] = len(tasks)
    try:
        made: Aggregator = getattr(aggregation, method.made_by)(**keywords)
    except (
        ImportError,
        NameError,
    ):  # TorchJD's answer when a part of the solver's own requirements is missing
        solver = method.solver
        if solver is None:
            raise
        raise ConfigurationError(
            f"balancing method {config.method!r} needs a solver that is not installed: pip install"
            f" '{solver.requirement}' ({solver.licences}). It is left out by default because of its licence or"
            " size; 'upgrad' and 'imtl_g' need none."
        ) from None
    except ValueError as error:
        raise _refused(config, error) from None
    return made


def pose_again(aggregator: Aggregator) -> None:
    """Make the solver's problem anew after a state was restored; Nash-MTL does so before its first step alone."""
    from torchjd.aggregation import NashMTL

    if isinstance(aggregator, NashMTL) and aggregator.weighting.step:
        aggregator.weighting._init_optim_problem()  # noqa: SLF001 - TorchJD has no other way


def _numbers(config: BalancingConfig) -> dict[str, object]:
    return {**METHODS[config.method].options, **config.options}


def _refused(config: BalancingConfig, error: ValueError) -> ConfigurationError:
    return ConfigurationError(
        f"balancing method {config.method!r} refuses its options {config.options}: {error} Correct balancing.options."
    )
