"""Recurrent layers of ML Programs against torch's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mil_harness import Case, check, check_half, every, normal
from torch import Tensor, nn

STEPS, BATCH, SIZE, HIDDEN = 4, 2, 3, 5
X = normal(STEPS, BATCH, SIZE)
H, C = normal(BATCH, HIDDEN, seed=1), normal(BATCH, HIDDEN, seed=2)


def weights(gates: int, seed: int = 0) -> dict[str, np.ndarray]:
    return {
        "weight_ih": normal(gates * HIDDEN, SIZE, seed=seed + 3),
        "weight_hh": normal(gates * HIDDEN, HIDDEN, seed=seed + 4),
        "bias": normal(gates * HIDDEN, seed=seed + 5),
    }


def reordered(array: np.ndarray, order: str, wanted: str) -> Tensor:
    """Return gates in torch's order."""
    gates = dict(zip(order, np.split(array, len(order)), strict=True))
    return torch.from_numpy(np.concatenate([gates[gate] for gate in wanted]))


def loaded(layer: Any, given: dict[str, np.ndarray], order: str, wanted: str, suffix: str = "_l0") -> Any:
    """Fill a torch layer with MIL's weights; both biases of torch's in one."""
    with torch.no_grad():
        getattr(layer, f"weight_ih{suffix}").copy_(reordered(given["weight_ih"], order, wanted))
        getattr(layer, f"weight_hh{suffix}").copy_(reordered(given["weight_hh"], order, wanted))
        getattr(layer, f"bias_ih{suffix}").copy_(reordered(given["bias"], order, wanted))
        getattr(layer, f"bias_hh{suffix}").zero_()
    return layer.eval()


LSTM, GRU, RNN = weights(4), weights(3), weights(1)


def lstm(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    layer = loaded(nn.LSTM(SIZE, HIDDEN), LSTM, "ifoz", "ifzo")
    with torch.no_grad():
        every_step, (last, cell) = layer(x, (h[None], c[None]))
    return every_step, last[0], cell[0]


def lstm_reversed(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return lstm(x.flip(0), h, c)


BACK = weights(4, seed=20)


def lstm_both_ways(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    layer = loaded(nn.LSTM(SIZE, HIDDEN, bidirectional=True), LSTM, "ifoz", "ifzo")
    loaded(layer, BACK, "ifoz", "ifzo", "_l0_reverse")
    with torch.no_grad():
        every_step, (last, cell) = layer(
            x, (torch.stack(h.split(HIDDEN, 1)), torch.stack(c.split(HIDDEN, 1)))
        )
    return every_step, torch.cat(list(last), 1), torch.cat(list(cell), 1)


def lstm_by_hand(x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """With peepholes, a clip and other activations, which torch has not."""
    parts = [torch.from_numpy(LSTM[key]) for key in ("weight_ih", "weight_hh", "bias")]
    p_i, p_f, p_o = torch.from_numpy(PEEPHOLE).chunk(3)
    for step in x:
        i, f, o, z = (step @ parts[0].T + h @ parts[1].T + parts[2]).chunk(4, 1)
        i, f = torch.clamp((i + c * p_i) * 0.2 + 0.5, 0, 1), torch.clamp((f + c * p_f) * 0.2 + 0.5, 0, 1)
        c = (f * c + i * torch.relu(z)).clamp(-0.5, 0.5)
        h = torch.clamp((o + c * p_o) * 0.2 + 0.5, 0, 1) * torch.sigmoid(c)
    return h[None], h, c


PEEPHOLE = normal(3 * HIDDEN, seed=9)


def gru_by_hand(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    """The reset gate applies to the state before its product, which is not torch's layer."""
    wi, wh, b = (torch.from_numpy(GRU[key]).chunk(3) for key in ("weight_ih", "weight_hh", "bias"))
    states = []
    for step in x:
        r = torch.sigmoid(step @ wi[0].T + h @ wh[0].T + b[0])
        z = torch.sigmoid(step @ wi[2].T + h @ wh[2].T + b[2])
        o = torch.tanh(step @ wi[1].T + (r * h) @ wh[1].T + b[1])
        h = (1 - z) * o + z * h
        states.append(h)
    return torch.stack(states), h


INPUT_BIAS = normal(3 * HIDDEN, seed=8)


def gru(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    layer = nn.GRU(SIZE, HIDDEN)
    with torch.no_grad():
        layer.weight_ih_l0.copy_(reordered(GRU["weight_ih"], "roz", "rzo"))
        layer.weight_hh_l0.copy_(reordered(GRU["weight_hh"], "roz", "rzo"))
        layer.bias_ih_l0.copy_(reordered(INPUT_BIAS, "roz", "rzo"))
        layer.bias_hh_l0.copy_(reordered(GRU["bias"], "roz", "rzo"))
        every_step, last = layer(x, h[None])
    return every_step, last[0]


def rnn(x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
    layer = loaded(nn.RNN(SIZE, HIDDEN), RNN, "h", "h")
    with torch.no_grad():
        every_step, last = layer(x, h[None])
    return every_step, last[0]


def last_only(function: Any) -> Any:
    def cut(*tensors: Tensor) -> tuple[Tensor, ...]:
        every_step, *rest = function(*tensors)
        return every_step[-1:], *rest

    return cut


CASES = [
    Case("lstm", "default", {"x": X, "initial_h": H, "initial_c": C}, last_only(lstm), LSTM, opset=17, atol=1e-5),
    Case("lstm", "sequence", {"x": X, "initial_h": H, "initial_c": C}, lstm, {**LSTM, "output_sequence": True},
         opset=17,
         atol=1e-5),
    Case("lstm", "reverse", {"x": X, "initial_h": H, "initial_c": C}, lstm_reversed,
         {**LSTM, "direction": "reverse", "output_sequence": True}, opset=17, atol=1e-5),
    Case("lstm", "both-ways", {"x": X, "initial_h": np.concatenate([H, C], 1), "initial_c": np.concatenate([C, H], 1)},
         lstm_both_ways,
         {**LSTM, **{f"{key}_back": value for key, value in BACK.items()}, "direction": "bidirectional",
          "output_sequence": True}, opset=17, atol=1e-5),
    Case("lstm", "by-hand", {"x": X, "initial_h": H, "initial_c": C}, lstm_by_hand,
         {**LSTM, "peephole": PEEPHOLE, "clip": 0.5, "recurrent_activation": "hard_sigmoid", "cell_activation": "relu",
          "activation": "sigmoid"}, opset=17, atol=1e-5),
    Case("gru", "default", {"x": X, "initial_h": H}, last_only(gru_by_hand), GRU, opset=17, atol=1e-5),
    Case("gru", "sequence", {"x": X, "initial_h": H}, gru_by_hand, {**GRU, "output_sequence": True}, opset=17,
         atol=1e-5),
    Case("gru", "reverse", {"x": X, "initial_h": H}, lambda x, h: gru_by_hand(x.flip(0), h),
         {**GRU, "output_sequence": True, "direction": "reverse"}, opset=17, atol=1e-5),
    Case("gru", "reset-after", {"x": X, "initial_h": H}, gru,
         {**GRU, "input_bias": INPUT_BIAS, "reset_after": True, "output_sequence": True}, opset=18, atol=1e-5),
    Case("rnn", "default", {"x": X, "initial_h": H}, last_only(rnn), RNN, opset=17, atol=1e-5),
    Case("rnn", "sequence", {"x": X, "initial_h": H}, rnn, {**RNN, "output_sequence": True}, opset=17, atol=1e-5),
    Case("rnn", "reverse", {"x": X, "initial_h": H}, lambda x, h: rnn(x.flip(0), h),
         {**RNN, "output_sequence": True, "direction": "reverse"}, opset=17, atol=1e-5),
]  # fmt: skip


@every(CASES)
def test_as_torch(case: Case, tmp_path: Path) -> None:
    check(case, tmp_path)


@every(CASES)
def test_half_is_rounded_once(case: Case, tmp_path: Path) -> None:
    check_half(case, tmp_path)


def test_an_unknown_activation_is_named() -> None:
    from nagedge.runtimes.mil_program.ops.recurrent import rnn as op

    with pytest.raises(ValueError, match="activation 'scaled_tanh': expected one of tanh, sigmoid"):
        op(torch.from_numpy(X), torch.from_numpy(H), torch.eye(5, 3), torch.eye(5), activation="scaled_tanh")
