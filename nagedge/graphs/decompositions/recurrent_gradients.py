"""Derivatives of the recurrent layers: one recursion over the tokens, everything else for all tokens at once.

Functions in torch's sense, which its function transforms differentiate: call ``Gru.apply`` for
:func:`.recurrent.gru_layer`, and so on.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from nagedge.graphs.decompositions.recurrent import (
    GRU_LAYER,
    LSTM_LAYER,
    RNN_LAYER,
    STATE_GRADIENT,
    STATES_GRADIENT,
)
from nagedge.graphs.decompositions.tensors import reshape

__all__ = ["Gru", "Lstm", "Rnn"]


def _before(first: Tensor, later: Tensor, *, reverse: bool) -> Tensor:
    """Return the state before every token, ``[time, batch, hidden]``."""
    head = first.unsqueeze(0)
    return torch.cat([later[1:], head] if reverse else [head, later[:-1]])


def _flat(x: Tensor) -> Tensor:
    """``[time * batch, features]``."""
    return reshape(x, [-1, x.shape[2]])


def _weight_gradients(
    d_given: Tensor, d_own: Tensor, x: Tensor, before: Tensor, biases: tuple[bool, bool]
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Return the gradients of w_ih, w_hh, b_ih and b_hh, from those of ``w_ih x`` and ``w_hh h``."""
    given, own = _flat(d_given), _flat(d_own)
    d_b_ih = given.sum(0) if biases[0] else None
    d_b_hh = (d_b_ih if d_own is d_given else own.sum(0)) if biases[1] else None
    return torch.mm(given.t(), _flat(x)), torch.mm(own.t(), _flat(before)), d_b_ih, d_b_hh


def _input_gradient(d_given: Tensor, w_ih: Tensor) -> Tensor:
    return reshape(torch.mm(_flat(d_given), w_ih), [d_given.shape[0], -1, w_ih.shape[1]])


class Gru(torch.autograd.Function):
    """:func:`.recurrent.gru_layer` with its derivative."""

    @staticmethod
    def forward(*arguments: Any) -> Any:
        """Compute the layer."""
        return GRU_LAYER(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the gradient needs."""
        x, h0, w_ih, w_hh, b_ih, b_hh, reverse = inputs
        ctx.save_for_backward(x, h0, w_ih, w_hh, *output)
        ctx.biases, ctx.reverse = (b_ih is not None, b_hh is not None), reverse
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs, from those of the results."""
        x, h0, w_ih, w_hh, y, reset, update, new, own_new = ctx.saved_tensors
        if dy is None:
            return (None,) * 7
        hidden = w_hh.shape[1]
        before = _before(h0, y, reverse=ctx.reverse)
        d_new = (1 - update) * (1 - new * new)
        d_own_new = d_new * reset
        d_reset = d_own_new * own_new * (1 - reset)
        d_update = (before - new) * update * (1 - update)
        factors = torch.cat([d_reset, d_update, d_own_new], 2)
        d_own, dh, dh0 = STATE_GRADIENT(dy, factors, update, w_hh, ctx.reverse)
        d_given = torch.cat([d_own[:, :, : 2 * hidden], d_new * dh], 2)
        weights = _weight_gradients(d_given, d_own, x, before, ctx.biases)
        return _input_gradient(d_given, w_ih), dh0, *weights, None


class Lstm(torch.autograd.Function):
    """:func:`.recurrent.lstm_layer` with its derivative."""

    @staticmethod
    def forward(*arguments: Any) -> Any:
        """Compute the layer."""
        return LSTM_LAYER(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        """Keep what the gradient needs."""
        x, h0, c0, w_ih, w_hh, b_ih, b_hh, reverse = inputs
        ctx.save_for_backward(x, h0, c0, w_ih, w_hh, *output)
        ctx.biases, ctx.reverse = (b_ih is not None, b_hh is not None), reverse
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None, dc_n: Tensor | None, *_: Any) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs, from those of the results."""
        x, h0, c0, w_ih, w_hh, y, _, cells, write, forget, new, out = ctx.saved_tensors
        if dy is None and dc_n is None:
            return (None,) * 8
        before, cells_before = _before(h0, y, reverse=ctx.reverse), _before(c0, cells, reverse=ctx.reverse)
        shown = torch.tanh(cells)
        of_cell = out * (1 - shown * shown)
        factors = torch.cat(
            [
                new * write * (1 - write),
                cells_before * forget * (1 - forget),
                write * (1 - new * new),
                shown * out * (1 - out),
            ],
            2,
        )
        given = torch.zeros_like(y) if dy is None else dy
        d_gates, dh0, dc0 = STATES_GRADIENT(given, dc_n, factors, of_cell, forget, w_hh, ctx.reverse)
        weights = _weight_gradients(d_gates, d_gates, x, before, ctx.biases)
        return _input_gradient(d_gates, w_ih), dh0, dc0, *weights, None


class Rnn(torch.autograd.Function):
    """:func:`.recurrent.rnn_layer` with its derivative."""

    @staticmethod
    def forward(*arguments: Any) -> Any:
        """Compute the layer."""
        return RNN_LAYER(*arguments)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        """Keep what the gradient needs."""
        x, h0, w_ih, w_hh, b_ih, b_hh, reverse, relu = inputs
        ctx.save_for_backward(x, h0, w_ih, w_hh, output)
        ctx.biases, ctx.reverse, ctx.relu = (b_ih is not None, b_hh is not None), reverse, relu
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, dy: Tensor | None) -> tuple[Tensor | None, ...]:
        """Return the gradients of the inputs, from those of the results."""
        x, h0, w_ih, w_hh, y = ctx.saved_tensors
        if dy is None:
            return (None,) * 8
        before = _before(h0, y, reverse=ctx.reverse)
        factors = (y > 0).to(y.dtype) if ctx.relu else 1 - y * y
        d_own, _, dh0 = STATE_GRADIENT(dy, factors, None, w_hh, ctx.reverse)
        weights = _weight_gradients(d_own, d_own, x, before, ctx.biases)
        return _input_gradient(d_own, w_ih), dh0, *weights, None, None
