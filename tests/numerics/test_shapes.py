"""Gradients of indexing, reshaping, reductions, products and small patterns of image models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from harness import check, normal
from torch import Tensor, nn
from torch.nn import functional


def _assigned(x: Tensor) -> Tensor:
    y = x * 1
    y[:, 0] = y[:, 1] * 2
    y[:, 2:, ::2] = 0.5
    return y


FUNCTIONS: dict[str, Callable[[Tensor], Any]] = {
    "cat": lambda x: torch.cat([x, x * 2], 1),
    "stack": lambda x: torch.stack([x, x * 2], 2),
    "split": lambda x: x.split([1, 3], 1)[1] * 2,
    "chunk": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "unbind": lambda x: x.unbind(1)[2],
    "flatten": lambda x: x.flatten(1),
    "roll": lambda x: torch.roll(x, (1, -2), (2, 3)),
    "pixel_shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "pixel_unshuffle": lambda x: functional.pixel_unshuffle(x, 2),
    "channel_shuffle": nn.ChannelShuffle(2),
    "mean": lambda x: x.mean((2, 3)),
    "var": lambda x: x.var((2, 3)),
    "std": lambda x: x.std(1),
    "var_mean": lambda x: torch.var_mean(x, (1, 2)),
    "std_mean": lambda x: torch.std_mean(x, 1, unbiased=False),
    "norm": lambda x: x.norm(dim=1),
    "norm_one": lambda x: x.norm(p=1, dim=1),
    "norm_three": lambda x: torch.linalg.vector_norm(x, 3, dim=1),
    "normalize": lambda x: functional.normalize(x, dim=1),
    "cosine_similarity": lambda x: functional.cosine_similarity(x, x.flip(1), dim=1),
    "amax": lambda x: x.amax((2, 3)),
    "max": lambda x: x.max(1).values,
    "min": lambda x: x.min(-1).values,
    "logsumexp": lambda x: torch.logsumexp(x, 1),
    "cumsum": lambda x: x.cumsum(1),
    "einsum": lambda x: torch.einsum("bchw,bdhw->bcd", x, x),
    "einsum_constant": lambda x: torch.einsum("bchw,cd->bdhw", x, torch.eye(4, 3, dtype=x.dtype) + 1),
    "matmul": lambda x: x @ x.transpose(2, 3),
    "index_list": lambda x: x[:, [0, 2, 2, -1]],
    "index_tensor": lambda x: x[..., torch.tensor([1, 0, 3])],
    "index_matrix": lambda x: x[:, :, torch.tensor([[0, 1], [2, 1]])],
    "index_two_axes": lambda x: x[:, torch.tensor([0, 2]), torch.tensor([1, 3])],
    "index_select": lambda x: x.index_select(1, torch.tensor([3, 1, 1])),
    "slice": lambda x: x[:, 1:, ::2, 1],
    "last": lambda x: x[:, -1],
    "assignment": _assigned,
    "gather": lambda x: x.gather(1, x.argmax(1, keepdim=True)),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 1),
    "expand": lambda x: x[:, :1].expand(-1, 3, -1, -1),
    "class_token": lambda x: torch.cat(
        [torch.ones(1, 1, 4, 4, dtype=x.dtype).expand(x.shape[0], -1, -1, -1), x], 1
    ),
    "unfold": lambda x: functional.unfold(x, 3, padding=1, stride=2),
    "fold": lambda x: functional.fold(functional.unfold(x, 2, dilation=2), (4, 4), 2, dilation=2),
    "tensor_unfold": lambda x: x.unfold(2, 3, 1),
    "flip": lambda x: x.flip((1, 2)),
    "movedim": lambda x: x.movedim(1, -1),
    "windows": lambda x: x.view(x.shape[0], 4, 2, 2, 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, 4),
    "ones": lambda x: x + torch.ones(x.shape[0], 1, 1, 1, dtype=x.dtype),
    "position": lambda x: x + torch.arange(4.0, dtype=x.dtype),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function(name: str) -> None:
    check(FUNCTIONS[name], normal(4, 4, 4))


def test_maximum_ties_go_to_the_first() -> None:
    def few(batch: int) -> list[Tensor]:
        return [torch.randint(0, 2, (batch, 5), generator=torch.Generator().manual_seed(batch)).double()]

    check(lambda x: x.max(1).values * 2, few)


def test_statistics_over_the_batch() -> None:
    check(lambda x: x.var(0).unsqueeze(0), normal(4), batches=(2, 5))
    check(lambda x: x.mean(0, keepdim=True) * x, normal(4))


@pytest.mark.parametrize("options", [{}, {"padding_idx": 2}, {"scale_grad_by_freq": True}], ids=str)
def test_embedding(options: dict[str, Any]) -> None:
    def tokens(batch: int) -> list[Tensor]:
        return [torch.randint(0, 7, (batch, 5), generator=torch.Generator().manual_seed(batch))]

    check(nn.Embedding(7, 3, **options), tokens)


@pytest.mark.parametrize(
    ("layer", "shape", "count"),
    [(nn.Linear(5, 3), (5,), 1), (nn.Linear(5, 3, bias=False), (2, 5), 1), (nn.Bilinear(5, 5, 3), (5,), 2)],
    ids=str,
)
def test_linear(layer: nn.Module, shape: tuple[int, ...], count: int) -> None:
    check(layer, normal(*shape, count=count))


def test_squeeze_and_excite() -> None:
    class SqueezeExcite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.reduce, self.expand = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            squeezed = functional.adaptive_avg_pool2d(x, 1)
            return x * torch.sigmoid(self.expand(functional.relu(self.reduce(squeezed), inplace=True)))

    check(SqueezeExcite(), normal(4, 5, 5))


@pytest.mark.parametrize("by_batch_norm", [False, True])
def test_weight_standardisation(by_batch_norm: bool) -> None:
    class Standardised(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            if by_batch_norm:
                flat = self.weight.reshape(1, self.out_channels, -1)
                weight = functional.batch_norm(flat, None, None, training=True, momentum=0.0).reshape_as(
                    self.weight
                )
            else:
                var, mean = torch.var_mean(self.weight, dim=(1, 2, 3), keepdim=True, unbiased=False)
                weight = (self.weight - mean) * torch.rsqrt(var + 1e-5)
            return functional.conv2d(x, weight, self.bias, padding=1)

    check(Standardised(4, 6, 3), normal(4, 5, 5))


def test_generalised_mean_pooling() -> None:
    check(
        lambda x: functional.avg_pool2d(x.clamp(min=1e-6).pow(3), (x.size(-2), x.size(-1))).pow(1 / 3),
        normal(3, 4, 4),
    )
