"""Target specs, target checks, heads and metrics of the task kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from nagedge.errors import DataError
from nagedge.specs import TASK_KIND_NAMES, LossSpec, TaskSpec
from nagedge.tasks import TASK_KINDS, check_targets, loss_spec, target_spec

DIGIT = TaskSpec("digit", "classification", size=10)
TAGS = TaskSpec("tags", "multilabel", size=3)
YES = TaskSpec("yes", "binary", size=1)
SLANT = TaskSpec("slant", "regression", size=1, unit="degrees")
BOX = TaskSpec("box", "regression", size=4)
EVERY = (DIGIT, TAGS, YES, SLANT, BOX)


def test_every_declared_kind_exists() -> None:
    assert tuple(TASK_KINDS) == TASK_KIND_NAMES


@pytest.mark.parametrize(
    ("task", "dtype", "shape"),
    [
        (DIGIT, "int64", ("batch",)),
        (TAGS, "float32", ("batch", 3)),
        (YES, "float32", ("batch",)),
        (SLANT, "float32", ("batch",)),
        (BOX, "float32", ("batch", 4)),
    ],
)
def test_target_specs(task: TaskSpec, dtype: str, shape: tuple[int | str, ...]) -> None:
    spec = target_spec(task)
    assert (spec.name, spec.dtype, spec.shape, spec.unit) == (task.name, dtype, shape, task.unit)


@pytest.mark.parametrize("task", EVERY)
def test_heads_give_one_output_a_size(task: TaskSpec) -> None:
    kind = TASK_KINDS[task.kind]
    assert kind.head(7, task)(torch.zeros(2, 7)).shape == (2, task.size)
    assert kind.default_loss in kind.losses
    assert loss_spec(task).name == kind.default_loss


def test_good_targets_pass() -> None:
    check_targets(DIGIT, np.array([0, 9, -100]), "here")
    check_targets(DIGIT, np.array([[1], [2]]), "here")
    check_targets(TAGS, np.array([[0, 1, 1]]), "here")
    check_targets(YES, np.array([True, False]), "here")
    check_targets(SLANT, np.array([[1.5], [-2.0]], np.float32), "here")
    check_targets(BOX, np.zeros((2, 4)), "here")


@pytest.mark.parametrize(
    ("task", "targets", "text"),
    [
        (
            DIGIT,
            np.array([1, 11, 12]),
            "data.npz: label 11 of task 'digit' in row 1 is out of range (2 such rows), expected 0 .. 9. Correct",
        ),
        (
            DIGIT,
            np.array([1.0]),
            "labels of classification task 'digit' have dtype float64, expected integers",
        ),
        (
            DIGIT,
            np.zeros((2, 10), np.int64),
            "targets of classification task 'digit' have shape [2, 10], expected [n] for size 10.",
        ),
        (
            TaskSpec("digit", "classification", size=3, loss=LossSpec("cross_entropy", ignore_index=-1)),
            np.array([0, -1, -100]),
            "label -100 of task 'digit' in row 2",
        ),
        (
            TAGS,
            np.zeros((2, 2)),
            "targets of multilabel task 'tags' have shape [2, 2], expected [n, 3] for size 3.",
        ),
        (
            TAGS,
            np.array([[0, 1, 0], [0, 2, 0]]),
            "target 2 of multilabel task 'tags' in row 1 is out of range",
        ),
        (
            YES,
            np.array([0, np.nan]),
            "target of task 'yes' is nan in row 1 (1 bad values), expected finite numbers.",
        ),
        (YES, np.array([-1.0, 1.0]), "target -1 of binary task 'yes' in row 0 is out of range"),
        (SLANT, np.array([0, np.inf]), "target of task 'slant' is inf in row 1"),
        (SLANT, np.array(["a"]), "targets of regression task 'slant' have dtype <U1, expected numbers."),
        (BOX, np.zeros(3), "targets of regression task 'box' have shape [3], expected [n, 4] for size 4."),
    ],
)
def test_bad_targets_are_refused(task: TaskSpec, targets: np.ndarray, text: str) -> None:
    with pytest.raises(DataError) as error:
        check_targets(task, targets, "data.npz")
    assert text in str(error.value)


def test_classification_accuracy_leaves_out_ignored_labels() -> None:
    output = np.array([[2.0, 1.0], [0.0, 3.0], [5.0, 0.0]])
    two = TaskSpec("t", "classification", size=2)
    assert TASK_KINDS["classification"].metrics(output, np.array([0, 0, -100]), two) == {"accuracy": 0.5}
    assert TASK_KINDS["classification"].metrics(output, np.array([-100] * 3), two) == {"accuracy": 0.0}


def test_label_metrics() -> None:
    output, target = np.array([3.0, -1.0, 2.0, -4.0]), np.array([1.0, 1.0, 0.0, 0.0])
    assert TASK_KINDS["binary"].metrics(output[:, None], target, YES) == {"accuracy": 0.5, "f1": 0.5}
    assert TASK_KINDS["binary"].metrics(-np.ones(2), np.zeros(2), YES) == {"accuracy": 1.0, "f1": 1.0}
    tags = TASK_KINDS["multilabel"].metrics(np.array([[1.0, -1.0, 1.0]]), np.array([[1.0, 0.0, 0.0]]), TAGS)
    assert tags == pytest.approx({"accuracy": 2 / 3, "f1": 2 / 3})


def test_regression_metrics() -> None:
    y = np.array([0.0, 2.0, 4.0])
    perfect = TASK_KINDS["regression"].metrics(y[:, None], y, SLANT)
    assert perfect == {"mae": 0.0, "rmse": 0.0, "r2": 1.0}
    mean = TASK_KINDS["regression"].metrics(np.full(3, 2.0), y, SLANT)
    assert mean == pytest.approx({"mae": 4 / 3, "rmse": (8 / 3) ** 0.5, "r2": 0.0})
    assert TASK_KINDS["regression"].metrics(np.ones(3), np.ones(3), SLANT)["r2"] == 0.0
