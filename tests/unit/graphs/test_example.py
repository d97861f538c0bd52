"""The example input of an export: names, dtypes, and refusals."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.graphs.example import call_arguments, input_specs, run_example
from nagedge.specs import TensorSpec


class Three(nn.Module):
    def forward(self, a: Tensor, b: Tensor | None = None, lr: Tensor | None = None) -> Tensor:
        return a + (0 if b is None else 10 * b) + (0 if lr is None else 100 * lr)


class AnyNumber(nn.Module):
    def forward(self, *parts: Tensor) -> Tensor:
        return torch.cat(parts, 1)


def test_inputs_are_named_as_the_parameters_of_forward() -> None:
    x = torch.zeros(2, 3)
    specs, tensors = input_specs(Three(), (x, x.int()))
    assert specs == (TensorSpec("a", "float32", ("batch", 3)), TensorSpec("b", "int32", ("batch", 3)))
    assert len(tensors) == 2
    specs, _ = input_specs(AnyNumber(), [x, x[:, :1]])
    assert [spec.name for spec in specs] == ["input_0", "input_1"]


def test_a_dict_may_leave_parameters_out_and_its_order_does_not_matter() -> None:
    one, two = torch.ones(1, 1), torch.full((1, 1), 2.0)
    specs, _ = input_specs(Three(), {"lr": two, "a": one})
    assert [spec.name for spec in specs] == ["a", "lr_input"]
    arguments, keywords = call_arguments(Three(), {"lr": two, "a": one})
    assert arguments == []
    assert list(keywords) == ["a", "lr"]
    assert run_example(Three(), {"lr": two, "a": one}) == torch.tensor([[201.0]])


@pytest.mark.parametrize(
    "example", [np.ones((2, 3)), np.ones((2, 3), np.float32), torch.ones(2, 3).double(), [torch.ones(2, 3)]]
)
def test_arrays_and_float64_become_float32_tensors(example: object) -> None:
    specs, tensors = input_specs(nn.Linear(3, 1), example)
    assert specs == (TensorSpec("input", "float32", ("batch", 3)),)
    assert tensors[0].dtype == torch.float32
    assert isinstance(run_example(nn.Linear(3, 1), example), Tensor)


@pytest.mark.parametrize(
    ("example", "says"),
    [
        (
            torch.tensor(3.0),
            "example_input 'a' has shape (): expected a batch of at least one example along axis 0.",
        ),
        (torch.zeros(0, 3), "example_input 'a' has shape (0, 3): expected a batch of at least one example"),
        (
            {"x": torch.zeros(1)},
            "example_input has the key 'x', but Three.forward takes a, b, lr: use those names.",
        ),
        ("image.png", "example_input 'a' is str, expected a tensor or an array of numbers."),
        (None, "example_input 'a' is NoneType, expected a tensor or an array of numbers."),
        (
            (torch.zeros(1), object()),
            "example_input 'b' is object, expected a tensor or an array of numbers.",
        ),
        ((), "example_input holds no tensor"),
        ({}, "example_input holds no tensor"),
    ],
)
def test_what_is_no_example_is_refused(example: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        input_specs(Three(), example)


def test_a_failing_model_is_quoted() -> None:
    with pytest.raises(ConfigurationError) as caught:
        run_example(nn.Linear(3, 1), torch.zeros(2, 4))
    assert str(caught.value) == (
        "Linear fails on its example_input: mat1 and mat2 shapes cannot be multiplied (2x4 and 3x1). "
        "Give an example_input that the model's forward accepts."
    )
