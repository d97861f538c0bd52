"""The statistics that preprocessing needs, measured on the training part."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from nagedge.data.config import PreprocessingConfig
from nagedge.data.log_mel import LogMel
from nagedge.data.preprocessing import FillMissing, Normalise, Resize, Scale, StandardiseTarget, Step
from nagedge.data.tokens import Tokenise, vocabulary_of
from nagedge.errors import DataError
from nagedge.specs import TaskSpec
from nagedge.tasks import TASK_KINDS

__all__ = ["fit_steps", "fit_targets"]

Array = npt.NDArray[Any]


def fit_steps(config: PreprocessingConfig, train: Array, source: str) -> tuple[Step, ...]:
    """Return the declared steps, with their statistics from the raw training inputs ``[n, ...]``.

    Raises:
        DataError: ``missing = "mean"`` for a channel or feature without any value.
    """
    steps: list[Step] = []
    x = train

    def add(step: Step) -> None:
        nonlocal x
        steps.append(step)
        x = step.apply(x)

    if config.tokens is not None:
        return (Tokenise(vocabulary_of(map(str, train), config.vocabulary), config.tokens),)
    if config.log_mel is not None:
        mel = config.log_mel
        window, hop = (
            round(mel.window_ms * mel.sample_rate / 1000),
            round(mel.hop_ms * mel.sample_rate / 1000),
        )
        add(
            LogMel(
                mel.sample_rate, window, hop, mel.mels, mel.lowest_hz, mel.highest_hz or mel.sample_rate / 2
            )
        )
    if config.missing == "mean":
        add(FillMissing(_mean_of_present(train, source)))
    elif not isinstance(config.missing, str):
        add(FillMissing((config.missing,)))
    if config.resize is not None:
        add(Resize(*config.resize))
    if config.scale is not None:
        add(Scale(config.scale))
    if config.normalise == "train":
        add(Normalise(*_mean_and_std(x)))
    elif config.normalise is not None:
        add(Normalise(tuple(config.normalise.mean), tuple(config.normalise.std)))
    return tuple(steps)


def fit_targets(tasks: Sequence[TaskSpec], train: Mapping[str, Array]) -> dict[str, StandardiseTarget]:
    """Return the standardisation of every regression task, from the training targets."""
    return {
        task.name: StandardiseTarget(
            *_mean_and_std(train[task.name]), components=task.size if task.kind == "mixture" else 0
        )
        for task in tasks
        if TASK_KINDS[task.kind].answers == "values"
    }


def _by_axis_1(x: Array) -> npt.NDArray[np.float64]:
    """Return ``x`` as float64 ``[entries of axis 1, values]``; a rank-1 array has one entry."""
    x = x.astype(np.float64)
    return x.reshape(1, -1) if x.ndim == 1 else np.moveaxis(x, 1, 0).reshape(x.shape[1], -1)


def _float32(values: Array) -> tuple[float, ...]:
    """Return exact float32 values, so that JSON holds what is computed with."""
    return tuple(float(np.float32(value)) for value in values)


def _mean_and_std(x: Array) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and population standard deviation over all axes but 1; a constant has deviation 1."""
    values = _by_axis_1(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # an output without any target: it is left as it is
        mean, std = np.nanmean(values, axis=1), np.nanstd(values, axis=1)
    mean, std = np.nan_to_num(mean), np.nan_to_num(std)
    constant = std <= 1e-7 * np.maximum(np.abs(mean), 1e-30)
    return _float32(mean), _float32(np.where(constant, 1.0, std))


def _mean_of_present(x: Array, source: str) -> tuple[float, ...]:
    values = _by_axis_1(x)
    present = ~np.isnan(values)
    if not present.any(axis=1).all():
        empty = int(np.argmin(present.any(axis=1)))
        raise DataError(
            f"{source}: input feature {empty} has no value in any training row, expected at least one "
            "to fill with "
            "its mean. Remove the feature, or set missing to a number."
        )
    return _float32(np.where(present, values, 0.0).sum(axis=1) / present.sum(axis=1))
