"""Recurrent layers (``iOS15/recurrent.py``, ``iOS18/recurrent.py`` of coremltools); layout ``[steps, batch, size]``.

The direction ``reverse`` reads the steps from the last to the first and puts out in the order of reading; the
backward half of ``bidirectional`` puts out in the order of the input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["OPS"]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "linear": lambda x: x,
    "hard_sigmoid": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
    "sigmoid_hard": lambda x: torch.clamp(0.2 * x + 0.5, 0, 1),
}


def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gates: reset, output, update; the reset applies to the state, or with ``reset_after`` to its product."""
    gate, act = _activation(recurrent_activation), _activation(activation)
    size = weight_hh.shape[1]
    w_r, w_o, w_z = torch.split(weight_ih, size)
    u_r, u_o, u_z = torch.split(weight_hh, size)
    b_r, b_o, b_z = torch.split(torch.zeros(3 * size) if bias is None else bias, size)
    c_r, c_o, c_z = torch.split(torch.zeros(3 * size) if input_bias is None else input_bias, size)
    state, states = initial_h, []
    for step in _ordered(x, direction):
        r = gate(step @ w_r.T + c_r + state @ u_r.T + b_r)
        z = gate(step @ w_z.T + c_z + state @ u_z.T + b_z)
        if reset_after:
            o = act(step @ w_o.T + c_o + r * (state @ u_o.T + b_o))
        else:
            o = act(step @ w_o.T + c_o + (r * state) @ u_o.T + b_o)
        state = (1 - z) * o + z * state
        states.append(state)
    return _sequence(states, output_sequence), state


def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gates in the order input, forget, output, cell; peepholes of the first three; the new cell is clipped."""
    acts = tuple(_activation(name) for name in (recurrent_activation, cell_activation, activation))
    if direction != "bidirectional":
        steps = _ordered(x, direction)
        hidden, cell = _lstm_pass(
            steps, initial_h, initial_c, weight_ih, weight_hh, bias, peephole, acts, clip
        )
        return _sequence(hidden, output_sequence), hidden[-1], cell
    if weight_ih_back is None or weight_hh_back is None:
        raise ValueError("weight_ih_back or weight_hh_back is missing, expected for 'bidirectional'")
    size = weight_hh.shape[1]
    ahead, ahead_cell = _lstm_pass(
        list(x), initial_h[:, :size], initial_c[:, :size], weight_ih, weight_hh, bias, peephole, acts, clip
    )
    back, back_cell = _lstm_pass(
        list(x.flip(0)), initial_h[:, size:], initial_c[:, size:], weight_ih_back, weight_hh_back, bias_back,
        peephole_back, acts, clip,
    )  # fmt: skip
    last = torch.cat([ahead[-1], back[-1]], -1)
    every = torch.cat([torch.stack(ahead), torch.stack(back[::-1])], -1)
    return every if output_sequence else last.unsqueeze(0), last, torch.cat([ahead_cell, back_cell], -1)


def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> tuple[Tensor, Tensor]:
    """One gate: ``h = activation(W_ih x + W_hh h + b)``."""
    act = _activation(activation)
    shift = torch.zeros(weight_hh.shape[0]) if bias is None else bias
    state, states = initial_h, []
    for step in _ordered(x, direction):
        state = act(step @ weight_ih.T + state @ weight_hh.T + shift)
        states.append(state)
    return _sequence(states, output_sequence), state


def _lstm_pass(
    steps: list[Tensor],
    hidden: Tensor,
    cell: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    acts: tuple[Callable[[Tensor], Tensor], ...],
    clip: float | None,
) -> tuple[list[Tensor], Tensor]:
    gate, cell_act, act = acts
    size = weight_hh.shape[1]
    shift = torch.zeros(4 * size) if bias is None else bias
    p_i, p_f, p_o = torch.split(torch.zeros(3 * size) if peephole is None else peephole, size)
    states = []
    for step in steps:
        i, f, o, z = torch.split(step @ weight_ih.T + hidden @ weight_hh.T + shift, size, -1)
        cell = gate(f + cell * p_f) * cell + gate(i + cell * p_i) * cell_act(z)
        cell = cell if clip is None else cell.clamp(-clip, clip)
        hidden = gate(o + cell * p_o) * act(cell)
        states.append(hidden)
    return states, cell


def _ordered(x: Tensor, direction: str) -> list[Tensor]:
    if direction not in {"forward", "reverse"}:
        raise ValueError(f"direction is {direction!r}, expected forward or reverse")
    return list(x if direction == "forward" else x.flip(0))


def _sequence(states: list[Tensor], every: bool) -> Tensor:
    return torch.stack(states if every else states[-1:])


def _activation(name: str) -> Callable[[Tensor], Tensor]:
    if name.lower() not in _ACTIVATIONS:
        raise ValueError(f"activation {name!r}: expected one of {', '.join(_ACTIVATIONS)}")
    return _ACTIVATIONS[name.lower()]


OPS: dict[str, Callable[..., Any]] = {"gru": gru, "lstm": lstm, "rnn": rnn}
"""Op type -> its function."""
