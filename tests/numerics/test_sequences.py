"""Gradients of recurrent layers, attention and transformer layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from harness import check, normal
from torch import Tensor, nn
from torch.nn import functional


class Output(nn.Module):
    """Only the output sequence of a recurrent layer, or output and last states."""

    def __init__(self, layer: nn.Module, *, states: bool = False) -> None:
        super().__init__()
        self.layer, self.states = layer, states

    def forward(self, x: Tensor) -> Any:
        out, states = self.layer(x)
        if not self.states:
            return out
        states = states if isinstance(states, tuple) else (states,)
        return (out, *(s.transpose(0, 1) for s in states))


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize(("layers", "both"), [(1, False), (1, True), (2, False), (2, True)])
def test_recurrent(kind: type[nn.Module], layers: int, both: bool) -> None:
    layer = kind(4, 3, num_layers=layers, bidirectional=both, batch_first=True)
    steps = 2 if layers == 2 and both else 3
    check(Output(layer, states=layers == 1), normal(steps, 4), batches=(2, 1))


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_recurrent_time_first(kind: type[nn.Module]) -> None:
    class TimeFirst(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.transpose(0, 1))[0][-1]

    check(TimeFirst(), normal(4, 4))


def test_relu_recurrence() -> None:
    check(Output(nn.RNN(4, 3, nonlinearity="relu", batch_first=True, bias=False)), normal(4, 4))


@pytest.mark.parametrize("kind", [nn.GRU, nn.LSTM])
def test_states_to_begin_with_are_differentiated(kind: type[nn.Module]) -> None:
    class Begun(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(4, 3, batch_first=True, bias=False)
            self.first = nn.Parameter(torch.randn(2, 1, 1, 3, generator=torch.Generator().manual_seed(0)))

        def forward(self, x: Tensor) -> Tensor:
            h0, c0 = self.first.expand(-1, -1, x.shape[0], -1).unbind(0)
            _, last = self.layer(x, (h0, c0) if kind is nn.LSTM else h0)
            return last[1][0] if kind is nn.LSTM else last[0]

    check(Begun(), normal(3, 4), batches=(2, 1))


def test_projected_states() -> None:
    check(Output(nn.LSTM(4, 5, proj_size=3, batch_first=True), states=True), normal(3, 4), batches=(2, 1))


def test_one_token() -> None:
    check(Output(nn.LSTM(4, 3, batch_first=True)), normal(1, 4), batches=(2, 1))


def test_cells() -> None:
    check(nn.GRUCell(4, 4), normal(4, count=2))
    check(nn.RNNCell(4, 4), normal(4, count=2))

    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTMCell(4, 4)

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
            return self.cell(x, (h, c))

    check(Cell(), normal(4, count=3))


class SelfAttention(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.options = options

    def forward(self, x: Tensor) -> Any:
        return self.attention(x, x, x, **self.options)


CAUSAL = torch.ones(4, 4).triu(1).bool()


@pytest.mark.parametrize(
    "options",
    [
        {"need_weights": False},
        {"need_weights": True},
        {"need_weights": False, "attn_mask": CAUSAL},
        {"need_weights": False, "attn_mask": CAUSAL, "is_causal": True},
    ],
    ids=str,
)
def test_multihead_attention(options: dict[str, Any]) -> None:
    check(SelfAttention(**options), normal(4, 8))


@pytest.mark.parametrize(
    "layer",
    [
        nn.TransformerEncoderLayer(8, 2, 12, batch_first=True),
        nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, activation="gelu", norm_first=True),
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), 2),
    ],
    ids=["post-norm", "pre-norm", "encoder"],
)
def test_transformer(layer: nn.Module) -> None:
    check(layer.eval(), normal(4, 8), batches=(2, 1))


def test_causal_transformer() -> None:
    class Causal(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(4, dtype=x.dtype)
            return self.layer(x, src_mask=mask, is_causal=True)

    check(Causal().eval(), normal(4, 8))


@pytest.mark.parametrize(
    "options",
    [{}, {"is_causal": True}, {"attn_mask": ~CAUSAL}, {"scale": 0.3}],
    ids=str,
)
def test_scaled_dot_product_attention(options: dict[str, Any]) -> None:
    check(lambda x: functional.scaled_dot_product_attention(x, x * 2, x + 1, **options), normal(2, 4, 3))


def test_fully_masked_row_attends_to_nothing() -> None:
    mask = torch.ones(4, 4).tril(-1).bool()  # the first row is masked altogether
    check(lambda x: functional.scaled_dot_product_attention(x, x * 2, x, attn_mask=mask), normal(2, 4, 3))
