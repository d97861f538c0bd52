"""BatchNorm policies: a fold changes nothing that the model computes, and what cannot be folded stays right."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from models_for_tests import CASES, KIND, LEVEL, settle_statistics
from torch import Tensor, nn

from nagedge.errors import ConfigurationError
from nagedge.graphs.batch_norm import apply_policy, fold_batch_norms
from nagedge.graphs.forward import trace_forward


def settled(model: nn.Module) -> nn.Module:
    return settle_statistics(model, seed=7).eval()


def norms(model: nn.Module) -> list[str]:
    return [
        n
        for n, m in model.named_modules()
        if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_var is not None
    ]


def assert_same_model(model: nn.Module, prepared: nn.Module, *inputs: Tensor, rtol: float = 1e-5) -> None:
    with torch.no_grad():
        expected, got = model(*inputs), prepared(*inputs)
    expected, got = (x if isinstance(x, tuple) else (x,) for x in (expected, got))
    for e, g in zip(expected, got, strict=True):
        assert (e - g).abs().max() <= rtol * e.abs().max()


@pytest.mark.parametrize(
    ("layer", "norm", "shape"),
    [
        (nn.Conv1d(3, 4, 3, padding=1), nn.BatchNorm1d(4), (3, 8)),
        (nn.Conv2d(3, 4, 3, stride=2, bias=False), nn.BatchNorm2d(4, eps=1e-3), (3, 9, 8)),
        (nn.Conv2d(4, 6, 3, groups=2, dilation=2), nn.BatchNorm2d(6), (4, 9, 8)),
        (nn.Conv2d(4, 8, 3, groups=4, padding="same", padding_mode="reflect"), nn.BatchNorm2d(8), (4, 6, 6)),
        (nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), (2, 4, 4, 4)),
        (nn.ConvTranspose1d(3, 4, 3, stride=2), nn.BatchNorm1d(4), (3, 6)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, output_padding=1), nn.BatchNorm2d(6), (4, 5, 5)),
        (nn.ConvTranspose2d(4, 6, 2, bias=False), nn.BatchNorm2d(6), (4, 5, 5)),
        (nn.Linear(5, 4), nn.BatchNorm1d(4), (5,)),
        (nn.Linear(5, 4, bias=False), nn.BatchNorm1d(4, affine=False), (5,)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_a_fold_equals_the_unfolded_model(layer: nn.Module, norm: nn.Module, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = settled(nn.Sequential(copy.deepcopy(layer), copy.deepcopy(norm), nn.ReLU()))
    example = torch.randn(4, *shape)
    prepared = apply_policy(model, "fold", example)
    assert norms(prepared) == []
    assert isinstance(prepared[1], nn.Identity)
    assert_same_model(model, prepared, torch.randn(6, *shape))
    assert norms(model) == ["1"], "the given model must stay as it was"


def test_a_deep_net_folds_throughout() -> None:
    case = CASES["conv"]()
    prepared = apply_policy(case.model, "fold", case.example)
    assert norms(prepared) == []
    with torch.no_grad():
        expected, got = case.model(case.example), prepared(case.example)
    for task in expected:
        torch.testing.assert_close(got[task], expected[task], rtol=1e-5, atol=1e-6)


class NormAct(nn.BatchNorm2d):
    """A BatchNorm that also activates, like timm's BatchNormAct2d."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.silu(super().forward(x))


def test_a_subclass_keeps_what_it_does_besides_normalising() -> None:
    model = settled(nn.Sequential(nn.Conv2d(2, 4, 3), NormAct(4)))
    example = torch.randn(3, 2, 6, 6)
    prepared = apply_policy(model, "fold", example)
    assert norms(prepared) == []
    assert_same_model(model, prepared, example)


def test_timms_own_block_folds() -> None:
    timm = pytest.importorskip("timm.layers")
    model = settled(timm.ConvNormAct(3, 5, 3, act_layer=nn.Hardswish))
    example = torch.randn(3, 3, 6, 6)
    prepared = apply_policy(model, "fold", example)
    assert norms(prepared) == []
    assert_same_model(model, prepared, example)


class ReadTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        return self.norm(y) + y


class Returned(ReadTwice):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.layer(x)
        return self.norm(y), y


class WeightReadElsewhere(ReadTwice):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)) + nn.functional.linear(x, self.layer.weight)


class CalledTwice(ReadTwice):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)) + self.layer(-x).tanh()


class NormCalledTwice(ReadTwice):
    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.layer(x)) + self.norm(x)


class TiedWeights(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.other, self.norm = nn.Linear(4, 4), nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.other.weight = self.layer.weight

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.norm(self.layer(x)) + self.other(x)
        return result


class NormFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(self.norm(x))
        return result


class Standardised(nn.Linear):
    """A layer that standardises its weight at each call."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, (self.weight - self.weight.mean()) / self.weight.std(), self.bias)


class ScaledInput(nn.Linear):
    """A layer whose weight is read once, but not as a linear layer reads it."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, torch.sinh(self.weight), self.bias)


class OtherAxis(nn.Module):
    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, outputs), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        stacked = torch.stack([x, x * 2, x - 1], 1)
        result: Tensor = self.norm(self.layer(stacked)).flatten(1)
        return result


@pytest.mark.parametrize(
    "make",
    [
        ReadTwice, Returned, WeightReadElsewhere, CalledTwice, NormCalledTwice, TiedWeights, NormFirst,
        lambda: nn.Sequential(Standardised(4, 4), nn.BatchNorm1d(4)),
        lambda: nn.Sequential(ScaledInput(4, 4), nn.BatchNorm1d(4)),
        lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.BatchNorm1d(4)),
        lambda: OtherAxis(5), lambda: OtherAxis(3),
        lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4)),
    ],
    ids=[
        "output read twice", "output returned", "weight read elsewhere", "layer called twice", "norm called twice",
        "tied weights", "norm first", "weight standardised", "weight changed", "weight norm", "another axis",
        "another axis of equal size", "activation between",
    ],
)  # fmt: skip
def test_what_cannot_be_folded_is_frozen_and_still_right(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(3)
    model = settled(make())
    before = len(norms(model))
    prepared = apply_policy(model, "fold", torch.randn(5, 4))
    assert len(norms(prepared)) == before > 0
    assert_same_model(model, prepared, torch.randn(6, 4))
    for name, value in model.state_dict().items():
        assert torch.equal(prepared.state_dict()[name], value)


class TwoNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)
        self.listed = nn.ModuleList([self.norm])
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.listed[0](self.layer(x))
        return result


def test_a_norm_of_two_names_is_folded_under_both() -> None:
    model = settled(TwoNames())
    prepared = apply_policy(model, "fold", torch.randn(5, 4))
    assert norms(prepared) == []
    assert_same_model(model, prepared, torch.randn(6, 4))


def test_the_names_of_what_was_folded_are_returned() -> None:
    model = settled(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4)))
    assert fold_batch_norms(model, torch.randn(3, 4)) == ["1"]


def test_freeze_leaves_the_model_as_it_is() -> None:
    case = CASES["conv"]()
    prepared = apply_policy(case.model.train(), "freeze", case.example)
    assert not prepared.training
    assert norms(prepared) == norms(case.model)
    assert prepared.state_dict().keys() == case.model.state_dict().keys()


class UsesNormTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm, self.head = nn.Linear(4, 6), nn.BatchNorm1d(6, momentum=0.3), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.head(self.norm(torch.tanh(self.norm(self.layer(x)))))
        return result


@pytest.mark.parametrize("name", ["conv", "norm called twice"])
def test_train_returns_outputs_and_running_statistics_as_torch_computes_them(name: str) -> None:
    torch.manual_seed(5)
    if name == "conv":
        model, example, tasks = CASES["conv"]().model, torch.randn(6, 1, 9, 9), (KIND, LEVEL)
    else:
        model, example, tasks = settled(UsesNormTwice()), torch.randn(6, 4), (KIND,)
    prepared = apply_policy(model, "train", example)
    forward = trace_forward(prepared, example, tasks, batch_norm_training=True)
    assert forward.batch is None
    state = {**dict(prepared.named_parameters()), **dict(prepared.named_buffers()), **forward.constants}
    for rows in (6, 4):
        reference = copy.deepcopy(model).train()
        with torch.no_grad():
            expected = reference(example[:rows])
            outputs, buffers = forward(state, [example[:rows]])
        expected = expected if isinstance(expected, dict) else {"kind": expected}
        for task, value in expected.items():
            torch.testing.assert_close(outputs[task], value, rtol=1e-5, atol=1e-5)
        running = {k: v for k, v in reference.named_buffers() if "running" in k}
        assert set(forward.updated_buffers) == set(buffers) == set(running)
        for key, value in running.items():
            torch.testing.assert_close(buffers[key], value, rtol=1e-5, atol=1e-6)
            assert not torch.equal(buffers[key], dict(model.named_buffers())[key])


def test_train_refuses_cumulative_statistics() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, momentum=None))
    with pytest.raises(
        ConfigurationError, match=r"BatchNorm '1' averages its statistics cumulatively .*give it a momentum"
    ):
        apply_policy(model, "train", torch.randn(3, 4))


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"unknown BatchNorm policy 'folds'; expected one of fold, freeze, train\. Did you mean 'fold'",
    ):
        apply_policy(nn.Linear(2, 2), "folds", torch.randn(1, 2))


def test_a_model_that_fails_on_its_example_is_named() -> None:
    with pytest.raises(
        ConfigurationError, match=r"Linear fails on its example_input: .*cannot be multiplied"
    ):
        apply_policy(nn.Linear(4, 3), "fold", torch.randn(2, 5))
