"""Recurrent layers as operators of their own: one a layer and direction, and one a backward recursion.

torch takes ``aten.gru.input`` and its like apart into half a dozen operators a token. Here a layer stays whole while
a graph is traced and differentiated, so that a backend can write what its format has for it. Its gradient needs little
that is sequential: with the gates of all tokens at hand, everything but the recursion of the state's gradient is
element-wise or one matrix product over all tokens at once, and that recursion is an operator too.

All operators take and return time first, and states in the order of the input, whatever their direction is. The gates
and their order are torch's. :data:`RECURRENT` expands each into portable operators, token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from nagedge.graphs.decompositions.tensors import reshape

aten = torch.ops.aten

__all__ = ["GRU_LAYER", "LSTM_LAYER", "RECURRENT", "RNN_LAYER", "STATES_GRADIENT", "STATE_GRADIENT", "WHOLE"]

Rule = Callable[..., Any]


def _steps(length: int, *, reverse: bool) -> Iterator[int]:
    return iter(reversed(range(length)) if reverse else range(length))


def _in_order(parts: Sequence[Tensor], *, reverse: bool) -> Tensor:
    """Stack what a loop over tokens gave, in the order of the input."""
    return torch.stack(tuple(reversed(parts)) if reverse else tuple(parts))


def products(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``x @ weight^T + bias`` for all tokens in one matrix product: ``[time, batch, outputs]``."""
    flat = reshape(x, [-1, x.shape[2]])
    turned = weight.t()
    out = torch.mm(flat, turned) if bias is None else torch.addmm(bias, flat, turned)
    return reshape(out, [x.shape[0], -1, weight.shape[0]])


def _empty(x: Tensor, features: int) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], features)


# --- forward --------------------------------------------------------------------------------------------------------


def gru_layer(
    x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor | None, b_hh: Tensor | None, reverse: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """One direction of one layer of :class:`torch.nn.GRU`.

        r, z = sigmoid(W_i x + b_i + W_h h + b_h)        n = tanh(W_in x + b_in + r * q)
        q    = W_hn h + b_hn                             h' = (1 - z) * n + z * h

    Args:
        x: ``[time, batch, inputs]``. h0: ``[batch, hidden]``.
        w_ih, w_hh, b_ih, b_hh: as torch keeps them, rows in the order r, z, n.
        reverse: from the last token to the first.

    Returns:
        ``h'`` and, for the gradient, r, z, n and q, each ``[time, batch, hidden]``.
    """
    hidden = w_hh.shape[1]
    given = products(x, w_ih, b_ih)
    given_gates, given_new = given[:, :, : 2 * hidden], given[:, :, 2 * hidden :]
    turned, h = w_hh.t(), h0
    parts = []
    for t in _steps(x.shape[0], reverse=reverse):
        own = torch.mm(h, turned) if b_hh is None else torch.addmm(b_hh, h, turned)
        gates = torch.sigmoid(given_gates[t] + own[:, : 2 * hidden])
        own_new = own[:, 2 * hidden :]
        reset, update = gates[:, :hidden], gates[:, hidden:]
        new = torch.tanh(given_new[t] + reset * own_new)
        h = new + update * (h - new)
        parts.append((h, reset, update, new, own_new))
    y, reset, update, new, own_new = (_in_order(part, reverse=reverse) for part in zip(*parts, strict=True))
    return y, reset, update, new, own_new


def lstm_layer(
    x: Tensor,
    h0: Tensor,
    c0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    reverse: bool,
) -> tuple[Tensor, ...]:
    """One direction of one layer of :class:`torch.nn.LSTM` without projection.

        i, f, o = sigmoid(W_i x + b_i + W_h h + b_h)     c' = f * c + i * g
        g       = tanh(W_ig x + b_ig + W_hg h + b_hg)    h' = o * tanh(c')

    Args:
        x: ``[time, batch, inputs]``. h0, c0: ``[batch, hidden]``.
        w_ih, w_hh, b_ih, b_hh: as torch keeps them, rows in the order i, f, g, o; both biases or none.
        reverse: from the last token to the first.

    Returns:
        ``h'`` ``[time, batch, hidden]`` and the last ``c'`` ``[batch, hidden]``; and for the gradient ``c'``, i, f, g
        and o, each ``[time, batch, hidden]``.
    """
    hidden = w_hh.shape[1]
    given = products(x, w_ih, b_ih if b_ih is None or b_hh is None else b_ih + b_hh)
    turned, h, c = w_hh.t(), h0, c0
    parts = []
    for t in _steps(x.shape[0], reverse=reverse):
        own = torch.addmm(given[t], h, turned)
        gates = torch.sigmoid(own[:, : 2 * hidden])
        write, forget = gates[:, :hidden], gates[:, hidden:]
        new = torch.tanh(own[:, 2 * hidden : 3 * hidden])
        out = torch.sigmoid(own[:, 3 * hidden :])
        c = forget * c + write * new
        h = out * torch.tanh(c)
        parts.append((h, c, write, forget, new, out))
    y, *kept = (_in_order(part, reverse=reverse) for part in zip(*parts, strict=True))
    return y, aten.clone.default(c), *kept


def rnn_layer(
    x: Tensor,
    h0: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None,
    b_hh: Tensor | None,
    reverse: bool,
    relu: bool,
) -> Tensor:
    """One direction of one layer of :class:`torch.nn.RNN`: ``h' = tanh(W_i x + b_i + W_h h + b_h)``, or its relu.

    Args:
        x: ``[time, batch, inputs]``. h0: ``[batch, hidden]``.
        w_ih, w_hh, b_ih, b_hh: as torch keeps them; both biases or none.
        reverse: from the last token to the first. relu: instead of tanh.

    Returns:
        ``h'`` ``[time, batch, hidden]``.
    """
    given = products(x, w_ih, b_ih if b_ih is None or b_hh is None else b_ih + b_hh)
    turned, h = w_hh.t(), h0
    parts = []
    for t in _steps(x.shape[0], reverse=reverse):
        own = torch.addmm(given[t], h, turned)
        h = torch.relu(own) if relu else torch.tanh(own)
        parts.append(h)
    return _in_order(parts, reverse=reverse)


# --- backward recursions --------------------------------------------------------------------------------------------


def state_gradient(
    dy: Tensor, factors: Tensor, direct: Tensor | None, w_hh: Tensor, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradient of a layer's state at every token, from the last that the layer computed to the first.

        dh[t] = dy[t] + d[t]
        dp[t] = factors[t] * (dh[t], ..., dh[t])
        d[t-1] = dp[t] @ w_hh + direct[t] * dh[t]

    Args:
        dy: gradient of the layer's output, ``[time, batch, hidden]``.
        factors: derivative of the next state by each row of ``w_hh h``, ``[time, batch, k hidden]``.
        direct: what of ``dh`` reaches the state before without ``w_hh``, ``[time, batch, hidden]``; None: nothing.
        w_hh: ``[k hidden, hidden]``.
        reverse: the layer's own direction.

    Returns:
        ``dp``, the gradient of ``w_hh h``, ``[time, batch, k hidden]``; ``dh`` ``[time, batch, hidden]``; and the
        gradient of the initial state ``[batch, hidden]``.
    """
    times = w_hh.shape[0] // w_hh.shape[1]
    parts = []
    carried = None
    for t in _steps(dy.shape[0], reverse=not reverse):
        dh = dy[t] if carried is None else dy[t] + carried
        dp = factors[t] * (dh if times == 1 else torch.cat([dh] * times, 1))
        carried = torch.mm(dp, w_hh) if direct is None else torch.addmm(direct[t] * dh, dp, w_hh)
        parts.append((dp, dh))
    assert carried is not None  # a sequence has a token
    dps, dhs = (_in_order(part, reverse=not reverse) for part in zip(*parts, strict=True))
    return dps, dhs, carried


def states_gradient(
    dy: Tensor,
    dc_n: Tensor | None,
    factors: Tensor,
    of_cell: Tensor,
    forget: Tensor,
    w_hh: Tensor,
    reverse: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of an LSTM's state and cell at every token, from the last that the layer computed to the first.

        dh[t] = dy[t] + d[t]                     dc[t] = of_cell[t] * dh[t] + e[t]
        d[t-1] = dp[t] @ w_hh                    e[t-1] = forget[t] * dc[t]
        dp[t] = factors[t] * (dc[t], dc[t], dc[t], dh[t])

    Args:
        dy: gradient of the layer's output, ``[time, batch, hidden]``.
        dc_n: of its last cell, ``[batch, hidden]``, or None.
        factors: derivatives of the next cell by i, f, g before their activations, and of the next state by o,
            ``[time, batch, 4 hidden]``.
        of_cell: derivative of the state by the cell. forget: the gate f. Both ``[time, batch, hidden]``.
        w_hh: ``[4 hidden, hidden]``.
        reverse: the layer's own direction.

    Returns:
        ``dp``, the gradient of the gates before their activations, ``[time, batch, 4 hidden]``; and the gradients of
        the initial state and cell.
    """
    parts = []
    carried, carried_cell = None, dc_n
    for t in _steps(dy.shape[0], reverse=not reverse):
        dh = dy[t] if carried is None else dy[t] + carried
        dc = dh * of_cell[t]
        dc = dc if carried_cell is None else dc + carried_cell
        dp = factors[t] * torch.cat([dc, dc, dc, dh], 1)
        carried, carried_cell = torch.mm(dp, w_hh), dc * forget[t]
        parts.append(dp)
    assert carried is not None  # a sequence has a token
    assert carried_cell is not None
    return _in_order(parts, reverse=not reverse), carried, carried_cell


# --- as operators ---------------------------------------------------------------------------------------------------


def _gru_shapes(x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    hidden = w_hh.shape[1]
    return tuple(_empty(x, hidden) for _ in range(5))


def _lstm_shapes(
    x: Tensor, h0: Tensor, c0: Tensor, w_ih: Tensor, w_hh: Tensor, *rest: Any
) -> tuple[Tensor, ...]:
    hidden = w_hh.shape[1]
    y, *kept = (_empty(x, hidden) for _ in range(6))
    return y, torch.empty_like(c0), *kept


def _rnn_shapes(x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor, *rest: Any) -> Tensor:
    return _empty(x, w_hh.shape[1])


def _gradient_shapes(dy: Tensor, factors: Tensor, *rest: Any) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(factors), torch.empty_like(dy), dy.new_empty(dy.shape[1:])


def _gradients_shapes(dy: Tensor, dc_n: Tensor | None, factors: Tensor, *rest: Any) -> tuple[Tensor, ...]:
    return torch.empty_like(factors), dy.new_empty(dy.shape[1:]), dy.new_empty(dy.shape[1:])


_LAYER = "Tensor w_ih, Tensor w_hh, Tensor? b_ih, Tensor? b_hh, bool reverse"


def _operator(name: str, arguments: str, results: int, rule: Rule, shapes: Rule) -> Any:
    """Define ``nagedge::name``, which computes by its rule, and return it."""
    returned = f"({', '.join(['Tensor'] * results)})" if results > 1 else "Tensor"
    torch.library.define(f"nagedge::{name}", f"({arguments}) -> {returned}")
    torch.library.impl(f"nagedge::{name}", "CompositeExplicitAutograd", rule)
    torch.library.register_fake(f"nagedge::{name}", shapes)
    return getattr(torch.ops.nagedge, name).default


GRU_LAYER = _operator("gru_layer", f"Tensor x, Tensor h0, {_LAYER}", 5, gru_layer, _gru_shapes)
LSTM_LAYER = _operator("lstm_layer", f"Tensor x, Tensor h0, Tensor c0, {_LAYER}", 7, lstm_layer, _lstm_shapes)
RNN_LAYER = _operator("rnn_layer", f"Tensor x, Tensor h0, {_LAYER}, bool relu", 1, rnn_layer, _rnn_shapes)
STATE_GRADIENT = _operator(
    "state_gradient",
    "Tensor dy, Tensor factors, Tensor? direct, Tensor w_hh, bool reverse",
    3,
    state_gradient,
    _gradient_shapes,
)
STATES_GRADIENT = _operator(
    "states_gradient",
    "Tensor dy, Tensor? dc_n, Tensor factors, Tensor of_cell, Tensor forget, Tensor w_hh, bool reverse",
    3,
    states_gradient,
    _gradients_shapes,
)

RECURRENT: dict[Any, Rule] = {
    GRU_LAYER: gru_layer,
    LSTM_LAYER: lstm_layer,
    RNN_LAYER: rnn_layer,
    STATE_GRADIENT: state_gradient,
    STATES_GRADIENT: states_gradient,
}
"""Rules that expand them token by token."""


def _whole(*arguments: Any, **options: Any) -> Any:
    """Leave an operator as it is: a backend lowers it."""
    del arguments, options
    return NotImplemented


WHOLE: dict[Any, Rule] = dict.fromkeys(RECURRENT, _whole)
"""Rules of a backend that lowers them."""
