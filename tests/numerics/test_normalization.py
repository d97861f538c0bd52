"""Gradients of normalisation layers, and running statistics as values."""

from __future__ import annotations

import pytest
import torch
from harness import check, normal
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from nagedge.graphs.decompositions.normalization import batch_norm_with_statistics


def settled(layer: nn.Module) -> nn.Module:
    """Give running statistics and affine parameters values that show a mistake; evaluation mode."""
    generator = torch.Generator().manual_seed(5)
    for name, tensor in [*layer.named_parameters(), *layer.named_buffers()]:
        if tensor.is_floating_point():
            value = torch.rand(tensor.shape, generator=generator) + 0.5
            tensor.data.copy_(value if "var" in name else value - 0.8)
    return layer.eval()


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm2d(4), (4, 3, 5)),
        (nn.BatchNorm2d(4, affine=False), (4, 3, 5)),
        (nn.BatchNorm1d(4), (4,)),
        (nn.BatchNorm1d(4), (4, 5)),
        (nn.InstanceNorm2d(4, affine=True), (4, 3, 5)),
        (nn.InstanceNorm2d(4), (4, 3, 5)),
        (nn.InstanceNorm1d(4, affine=True, track_running_stats=True), (4, 5)),
        (nn.GroupNorm(2, 4), (4, 3, 5)),
        (nn.GroupNorm(1, 4, affine=False), (4, 5)),
        (nn.LayerNorm(5), (4, 5)),
        (nn.LayerNorm((4, 5), elementwise_affine=False), (3, 4, 5)),
        (nn.LayerNorm((4, 5), bias=False), (4, 5)),
        (nn.RMSNorm(5), (4, 5)),
        (nn.LocalResponseNorm(2), (4, 3, 3)),
    ],
    ids=str,
)
def test_evaluation(layer: nn.Module, shape: tuple[int, ...]) -> None:
    check(settled(layer), normal(*shape))


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.BatchNorm2d(4, track_running_stats=False), (4, 3, 5)),
        (nn.BatchNorm1d(4, track_running_stats=False), (4,)),
        (nn.BatchNorm1d(4, track_running_stats=False, affine=False), (4, 5)),
    ],
    ids=str,
)
def test_batch_statistics(layer: nn.Module, shape: tuple[int, ...]) -> None:
    check(layer, normal(*shape), batches=(2, 6))


@pytest.mark.parametrize("shape", [(4, 3, 5), (4,)])
def test_batch_norm_with_statistics(shape: tuple[int, ...]) -> None:
    mean, var, weight, bias = (
        torch.rand(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) + 0.5
    )

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        return batch_norm_with_statistics(x, mean, var, weight, bias, 0.3, 1e-5)

    x = normal(*shape)(6)[0].requires_grad_()
    running_mean, running_var = mean.clone(), var.clone()
    want = functional.batch_norm(x, running_mean, running_var, weight, bias, True, 0.3, 1e-5)
    got, new_mean, new_var = ours(x, weight, bias)
    for a, b in ((got, want), (new_mean, running_mean), (new_var, running_var)):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)
    (a,), (b,) = (torch.autograd.grad((y * y * y).sum(), x) for y in (got, want))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())

        def forward(self, x: Tensor) -> Tensor:
            return ours(x, self.weight, self.bias)[0]

    check(Layer(), normal(*shape), batches=(2, 6))


def test_new_statistics_follow_the_batch_size() -> None:
    mean, var = torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64)

    def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
        _, new_mean, new_var = batch_norm_with_statistics(x, mean, var, None, None, 0.1, 1e-5)
        return new_mean.unsqueeze(0).detach(), new_var.unsqueeze(0).detach() + 0 * x.sum()

    check(statistics, normal(4, 3, 5), batches=(2, 6))


@given(st.integers(1, 3), st.integers(1, 3), st.lists(st.integers(1, 5), max_size=2), st.booleans())
def test_any_group_norm(groups: int, per_group: int, spatial: list[int], affine: bool) -> None:
    if per_group == 1 and spatial in ([], [1], [1, 1]):
        spatial = [2]  # torch refuses one value a group
    layer = nn.GroupNorm(groups, groups * per_group, eps=0.1, affine=affine)
    check(layer, normal(groups * per_group, *spatial), batches=(2, 1))


@given(st.lists(st.integers(1, 4), min_size=1, max_size=3), st.integers(1, 3), st.booleans(), st.booleans())
def test_any_layer_norm(shape: list[int], axes: int, affine: bool, bias: bool) -> None:
    layer = nn.LayerNorm(shape[-axes:], eps=0.1, elementwise_affine=affine, bias=bias)
    check(layer, normal(*shape), batches=(2, 1))


@given(st.integers(1, 4), st.lists(st.integers(1, 4), max_size=2), st.booleans(), st.booleans())
def test_any_batch_norm(channels: int, spatial: list[int], affine: bool, training: bool) -> None:
    layer = nn.BatchNorm2d if len(spatial) == 2 else nn.BatchNorm1d
    made = layer(channels, eps=0.1, affine=affine, track_running_stats=not training)
    check(made if training else settled(made), normal(channels, *spatial), batches=(3, 2))
