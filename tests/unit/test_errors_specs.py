from __future__ import annotations

import dataclasses

import pytest

from nagedge import errors
from nagedge.errors import ConfigurationError, NagEdgeError, VerificationError, first_line, nearest_name
from nagedge.specs import TASK_KIND_NAMES, TaskSpec, TensorSpec


def test_every_error_is_the_users_to_mend_and_has_an_exit_code() -> None:
    classes = [getattr(errors, name) for name in errors.__all__ if name.endswith("Error")]
    assert len(classes) == 9
    assert all(issubclass(error, NagEdgeError) for error in classes)
    assert {error.exit_code for error in classes if error is not VerificationError} == {2}
    assert VerificationError.exit_code == 1


def test_nearest_name() -> None:
    assert nearest_name("momentun", ["lr", "momentum"]) == " Did you mean 'momentum'?"
    assert nearest_name("zzz", ["lr", "momentum"]) == ""
    assert nearest_name("x", []) == ""


def test_what_a_foreign_error_says_first() -> None:
    assert first_line(ValueError("\n No such thing.\nmore")) == "No such thing"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_a_task_keeps_what_it_was_given() -> None:
    task = TaskSpec("slant", "regression", size=1, weight=2, unit="degrees")
    assert (task.name, task.kind, task.size, task.loss, task.weight, task.unit) == (
        "slant", "regression", 1, None, 2.0, "degrees",
    )  # fmt: skip
    assert isinstance(task.weight, float)
    assert task == TaskSpec("slant", "regression", size=1, weight=2.0, unit="degrees")
    assert hash(task) == hash(dataclasses.replace(task))


def test_specs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        TaskSpec("digit", "classification", size=10).size = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        TensorSpec("image", "float32", ("batch", 1, 28, 28)).name = "x"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "kind", "size", "weight", "text"),
    [
        (
            "a b", "binary", 1, 1.0,
            "task name 'a b' is not an identifier: use letters, digits and underscores, for example 'digit'.",
        ),
        (
            "digit", "clasification", 10, 1.0,
            ("task 'digit': unknown kind 'clasification'; expected one of classification, binary, multilabel, "
            "regression, ordinal, quantile, mixture, segmentation, tagging, embedding. Did you mean 'classification'?"),
        ),
        ("digit", "classification", 1, 1.0, "task 'digit': size is 1, a classification task needs at least 2."),
        ("tilt", "regression", 0, 1.0, "task 'tilt': size is 0, a regression task needs at least 1."),
        ("spam", "binary", 2, 1.0, "task 'spam': size is 2, a binary task needs exactly 1."),
        ("spam", "binary", 1, -0.5, "task 'spam': weight is -0.5, expected a finite number >= 0."),
        ("spam", "binary", 1, float("nan"), "task 'spam': weight is nan, expected a finite number >= 0."),
    ],
)  # fmt: skip
def test_a_bad_task_is_refused(name: str, kind: str, size: int, weight: float, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        TaskSpec(name, kind, size=size, weight=weight)
    assert str(caught.value) == text


@pytest.mark.parametrize("kind", TASK_KIND_NAMES)
def test_every_kind_accepts_its_smallest_size(kind: str) -> None:
    counts_classes = kind in {"classification", "ordinal", "segmentation", "tagging", "embedding"}
    shape = {"segmentation": (2, 2), "tagging": (3,), "embedding": (4,)}.get(kind, ())
    size = 2 if counts_classes else 1
    assert TaskSpec("t", kind, size=size, shape=shape).size == size
