"""The traced forward pass: every form of output and input, symbolic batches, and what cannot be traced."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from models_for_tests import CASES, KIND, LEVEL, TAGS
from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.graphs.forward import ForwardGraph, trace, trace_forward
from nagedge.specs import TaskSpec


def run(forward: ForwardGraph, model: nn.Module, *inputs: Tensor) -> dict[str, Tensor]:
    state = {**dict(model.named_parameters()), **dict(model.named_buffers()), **forward.constants}
    with torch.no_grad():
        outputs, _ = forward(state, inputs)
    return outputs


def listed(result: Any) -> list[Tensor]:
    return (
        list(result.values())
        if isinstance(result, dict)
        else list(result)
        if isinstance(result, (tuple, list))
        else [result]
    )


def assert_traced(
    model: nn.Module, example: Any, tasks: Sequence[TaskSpec], *, rows: Sequence[int] = (2, 5)
) -> ForwardGraph:
    """Trace, then compare graph and model at several batch sizes."""
    forward = trace_forward(model, example, tasks)
    assert forward.batch is None
    values = listed(example)
    for count in rows:
        inputs = [torch.cat([x] * count)[:count] for x in values]
        keywords = dict(zip(example, inputs, strict=True)) if isinstance(example, dict) else {}
        with torch.no_grad():
            expected = model(**keywords) if keywords else model(*inputs)
        by_name = keywords or {spec.name: x for spec, x in zip(forward.inputs, inputs, strict=True)}
        got = run(forward, model, *[by_name[s.name] for s in forward.inputs])
        assert list(got) == [task.name for task in tasks]
        expected = expected if isinstance(expected, dict) else dict(zip(got, listed(expected), strict=True))
        for name, value in got.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-6)
    return forward


@pytest.mark.parametrize("name", CASES)
def test_every_family_keeps_a_free_batch(name: str) -> None:
    case = CASES[name]()
    forward = assert_traced(case.model, case.example, case.tasks)
    assert not any(
        getattr(n.target, "_schema", None) and n.target._schema.is_mutable for n in forward.module.graph.nodes
    )


class Returns(nn.Module):
    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.a, self.b = form, nn.Linear(4, 3), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        a, b = self.a(x), self.b(x)
        return {
            "tensor": a, "one tuple": (a,), "tuple": (a, b), "list": [a, b], "dict": {"tags": b, "kind": a},
            "dict with more": {"tags": b, "kind": a, "features": x}, "text": "text", "nested": (a, [b]), "none": None,
        }[self.form]  # fmt: skip


@pytest.mark.parametrize(
    ("form", "tasks"),
    [
        ("tensor", [KIND]),
        ("one tuple", [KIND]),
        ("tuple", [KIND, TAGS]),
        ("list", [KIND, TAGS]),
        ("dict", [KIND, TAGS]),
        ("dict with more", [KIND]),
    ],
)
def test_every_form_of_output(form: str, tasks: list[TaskSpec]) -> None:
    torch.manual_seed(0)
    assert_traced(Returns(form).eval(), torch.randn(3, 4), tasks)


@pytest.mark.parametrize(
    ("form", "tasks", "says"),
    [
        (
            "tensor",
            [KIND, TAGS],
            "the model returns 1 output(s) (output), but the tasks are kind, tags: give one TaskSpec",
        ),
        ("tuple", [KIND], "the model returns 2 output(s) (output_0, output_1), but the tasks are kind"),
        ("dict", [KIND, LEVEL], "the model returns 2 output(s) (tags, kind), but the tasks are kind, level"),
        (
            "text",
            [KIND],
            "the model returns str, expected a tensor, a tuple or a dict with one entry a task.",
        ),
        ("none", [KIND], "the model returns NoneType"),
        ("nested", [KIND, TAGS], "the model's output for task 'tags' is list, not a tensor."),
        (
            "tensor",
            [TaskSpec("kind", "classification", size=5)],
            "has shape (batch, 3), but a classification task of size 5 needs (batch, 5): change the head or the",
        ),
        (
            "tensor",
            [LEVEL],
            "the model's output for task 'level' has shape (batch, 3), but a regression task of size 1 needs",
        ),
    ],
)
def test_an_output_that_does_not_fit_its_task_is_refused(form: str, tasks: list[TaskSpec], says: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(says)):
        trace_forward(Returns(form).eval(), torch.randn(3, 4), tasks)


def test_a_task_of_size_one_may_have_no_axis_of_its_own() -> None:
    class Flat(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x)[:, 0]

    assert_traced(Flat(4, 1).eval(), torch.randn(3, 4), [LEVEL])


class Gap(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, a: Tensor, b: Tensor | None = None, c: Tensor | None = None) -> Tensor:
        x = a if b is None else a * b
        result: Tensor = self.head(x if c is None else x + 10 * c)
        return result


@pytest.mark.parametrize("keys", [["a"], ["a", "b"], ["a", "c"], ["c", "b", "a"]])
def test_inputs_by_name_reach_the_parameter_of_that_name(keys: list[str]) -> None:
    torch.manual_seed(0)
    assert_traced(Gap().eval(), {key: torch.randn(3, 4) for key in keys}, [KIND])


class MakesConstants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.register_buffer("scale", torch.tensor([1.0, 2.0, 3.0, 4.0]))
        self.unused = nn.Linear(9, 9)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.tensor([1.0, 0.0, 1.0, 0.5])
        places = torch.arange(x.shape[0], dtype=x.dtype).unsqueeze(1)
        result: Tensor = self.head(x * mask * self.scale + places)
        return result


def test_constants_made_in_forward_become_state_and_unread_state_is_left_out() -> None:
    torch.manual_seed(0)
    forward = assert_traced(MakesConstants().eval(), torch.randn(3, 4), [KIND])
    assert set(forward.state_names) == {"head.weight", "head.bias", "scale", *forward.constants}
    assert any(torch.equal(c, torch.tensor([1.0, 0.0, 1.0, 0.5])) for c in forward.constants.values())


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y = x.clone()
        y[:, 1] = y[:, 0] * 2
        y[:, 2:].add_(1).relu_()
        y.mul_(0.5)
        result: Tensor = nn.functional.relu(self.head(y), inplace=True)
        return result


def test_writing_in_place_is_traced_and_leaves_input_and_model_alone() -> None:
    torch.manual_seed(0)
    model, example = InPlace().eval(), torch.randn(3, 4)
    before = example.clone()
    forward = trace_forward(model, example, [KIND])
    assert torch.equal(example, before)
    assert model.calls == 0
    x = torch.randn(5, 4)
    torch.testing.assert_close(run(forward, model, x.clone())["kind"], model(x.clone()))


class MixesBatch(nn.Module):
    """Treats its rows as pairs, so that only even batches make sense: torch must fix the size."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[0] % 2:
            msg = "pairs needed"
            raise ValueError(msg)
        pairs = x.reshape(-1, 2, 4).mean(1, keepdim=True).expand(-1, 2, -1).reshape(-1, 4)
        result: Tensor = self.head(x - pairs)
        return result


class Branches(nn.Module):
    """Behaves in another way at some sizes, none of which is the traced one."""

    def __init__(self, condition: Callable[[int], bool], *, matters: bool = True) -> None:
        super().__init__()
        self.condition, self.matters, self.head = condition, matters, nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        if self.condition(x.shape[0]):
            x = x - x.mean(0) if self.matters else x + 0
        result: Tensor = self.head(x)
        return result


def test_a_model_that_depends_on_its_batch_size_is_fixed_to_the_examples() -> None:
    forward = trace_forward(MixesBatch().eval(), torch.randn(6, 4), [KIND])
    assert forward.batch == 6
    model = MixesBatch().eval()
    x = torch.randn(6, 4)
    torch.testing.assert_close(run(forward, model, x)["kind"], model(x))


def test_a_batch_can_be_fixed_and_need_not_be_the_examples() -> None:
    case = CASES["mlp"]()
    forward = trace_forward(case.model, case.example, case.tasks, batch=9)
    assert forward.batch == 9
    x = torch.randn(9, 5)
    torch.testing.assert_close(run(forward, case.model, x)["kind"], case.model(x))


CONDITIONS: list[Callable[[int], bool]] = [
    lambda n: n == 4,
    lambda n: n > 20,
    lambda n: n < 5,
    lambda n: n % 3 == 0,
]


@pytest.mark.parametrize("condition", CONDITIONS, ids=["equal", "above", "below", "multiple"])
def test_a_branch_on_the_batch_size_fixes_it(condition: Callable[[int], bool]) -> None:
    model = Branches(condition).eval()
    forward = trace_forward(model, torch.randn(4, 4), [KIND])
    assert forward.batch == 4
    x = torch.randn(4, 4)
    torch.testing.assert_close(run(forward, model, x)["kind"], model(x))


@pytest.mark.parametrize("condition", CONDITIONS, ids=["equal", "above", "below", "multiple"])
def test_a_branch_that_changes_nothing_leaves_the_batch_free(condition: Callable[[int], bool]) -> None:
    assert trace_forward(Branches(condition, matters=False).eval(), torch.randn(4, 4), [KIND]).batch is None


class ReadsValues(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(x if x.sum() > 0 else -x)
        return result


def test_a_branch_on_values_is_refused_with_the_reason() -> None:
    with pytest.raises(ConfigurationError) as caught:
        trace_forward(ReadsValues().eval(), torch.randn(3, 4), [KIND])
    assert str(caught.value).startswith("ReadsValues cannot be traced: ")
    assert "must not depend on the values of its inputs (no .item(), no Python branch on a tensor)." in str(
        caught.value
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_another_precision_is_refused_with_the_remedy(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(4, 3).to(dtype)).eval()
    name = str(dtype).removeprefix("torch.")
    with pytest.raises(
        ConfigurationError,
        match=rf"model tensor '0.weight' is {name}, expected float32: call model.float\(\)",
    ):
        trace_forward(model, torch.randn(3, 4), [KIND])


def test_a_scalar_input_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"example_input 'input' has shape \(\): expected a batch"):
        trace_forward(nn.Linear(4, 3).eval(), torch.tensor(1.0), [KIND])


def test_an_example_the_model_refuses_is_quoted() -> None:
    with pytest.raises(ConfigurationError, match=r"Linear fails on its example_input: .*\(3x5 and 4x3\)"):
        trace_forward(nn.Linear(4, 3).eval(), torch.randn(3, 5), [KIND])


def test_tied_weights_are_one_tensor() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = self.head(self.b(torch.tanh(self.a(x))))
            return result

    torch.manual_seed(0)
    forward = assert_traced(Tied().eval(), torch.randn(3, 4), [KIND])
    assert [name for name in forward.state_names if name.endswith("weight")] == ["a.weight", "head.weight"]


def test_whole_number_and_flag_inputs() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tokens, self.head = nn.Embedding(7, 4), nn.Linear(4, 3)

        def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
            seen = self.tokens(tokens).masked_fill(mask.unsqueeze(-1), 0.0).sum(1)
            result: Tensor = self.head(seen)
            return result

    torch.manual_seed(0)
    forward = assert_traced(Masked().eval(), (torch.randint(0, 7, (3, 5)), torch.rand(3, 5) < 0.5), [KIND])
    assert [spec.dtype for spec in forward.inputs] == ["int64", "bool"]


@pytest.mark.parametrize(
    "function", [lambda x: [(x * 2).add_(1)], lambda x: [(x * 2).view(-1).add_(1).view(-1, 3)]]
)
def test_an_in_place_operator_is_removed_even_where_none_was_expected(
    function: Callable[[Tensor], list[Tensor]],
) -> None:
    module, is_free = trace(function, [torch.ones(2, 3)], [True], batch=None, functional=True)
    assert is_free
    assert not any(
        getattr(n.target, "_schema", None) and n.target._schema.is_mutable for n in module.graph.nodes
    )
    assert module(torch.ones(4, 3))[0].tolist() == [[3.0] * 3] * 4
