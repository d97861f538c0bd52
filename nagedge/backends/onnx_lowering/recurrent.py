"""Recurrent layers as ONNX's own operators, or as loops over the tokens.

``GRU`` and ``LSTM`` serve where only their result is wanted. The gradient needs the gates too, which they do not
return: a ``Scan`` that does the same token by token returns all of it and takes less time. (ONNX Runtime's ``RNN``
takes twice as long as a ``Scan``, so it is not used.) The body of a ``Scan`` reads weights from the graph around it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper
from torch import fx

from nagedge.backends.onnx_lowering.builder import GraphBuilder
from nagedge.backends.traced import FILLED, fake_of, fill_argument, short_name

__all__ = ["RULES"]

_LSTM_ACTIVATIONS = ("Sigmoid", "Sigmoid", "Tanh", "Sigmoid")
"""Of the gates i, f, g, o."""

Rule = Callable[[GraphBuilder, fx.Node], Any]
Step = Callable[[GraphBuilder, list[str], list[str]], tuple[list[str], list[str]]]
"""What one token's nodes are: states and slices of the sequences -> new states and what is collected."""


# --- loops over tokens ----------------------------------------------------------------------------------------------


def _scan(
    builder: GraphBuilder, step: Step, states: Sequence[str], sequences: Sequence[str], collected: int, *, reverse: bool
) -> tuple[list[str], list[str]]:  # fmt: skip
    """Run ``step`` over the first axis of ``sequences``; from the last to the first with ``reverse``.

    Args:
        builder: of the graph around it.
        step: adds the body's nodes.
        states: the first ones, ``[batch, features]``. sequences: ``[time, batch, features]``.
        collected: how many tensors the step collects.
        reverse: the direction; what is collected is in the order of the sequences.

    Returns:
        The last states, and what was collected.
    """
    body = builder.nested()
    own = [body.fresh("state") for _ in states]
    slices = [body.fresh("token") for _ in sequences]
    new, kept = step(body, own, slices)
    outputs = [body.add("Identity", [name]) for name in new]
    outputs += kept

    def infos(names: Sequence[str]) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in names]

    graph = helper.make_graph(
        body.nodes, body.fresh("body"), infos([*own, *slices]), infos(outputs), body.initializers
    )
    results = builder.add_many(
        "Scan", [*states, *sequences], len(states) + collected, body=graph, num_scan_inputs=len(sequences),
        scan_input_directions=[int(reverse)] * len(sequences), scan_output_directions=[int(reverse)] * collected,
    )  # fmt: skip
    return list(results[: len(states)]), list(results[len(states) :])


def _by_gate(builder: GraphBuilder, argument: Any, gates: int, axis: int = 0) -> tuple[str, ...]:
    """Return the parts of a weight, a bias or a sum, one a gate.

    One product a gate and token takes less time than one of all, whose result would have to be cut up for every token.
    """
    name = argument if isinstance(argument, str) else builder.tensor(argument)
    return builder.add_many("Split", [name], gates, axis=axis, num_outputs=gates) if gates > 1 else (name,)


def _products(
    builder: GraphBuilder, node: fx.Node, weight: Any, biases: Sequence[str], gates: int
) -> Sequence[str]:
    """Return ``x @ weight^T + bias`` for all tokens at once, one large matrix product, by gate."""
    x = fake_of(node.args[0])
    flat = builder.add("Reshape", [builder.tensor(node.args[0]), builder.ints([-1, int(x.shape[2])])])
    inputs = [flat, builder.tensor(weight)]
    if biases:
        inputs.append(biases[0] if len(biases) == 1 else builder.add("Add", biases))
    rows = int(fake_of(weight).shape[0])
    product = builder.add("Gemm", inputs, transB=1)
    by_token = builder.add("Reshape", [product, builder.ints([int(x.shape[0]), -1, rows])])
    return _by_gate(builder, by_token, gates, axis=2)


def _named(builder: GraphBuilder, arguments: Sequence[Any]) -> list[str]:
    return [builder.tensor(argument) for argument in arguments if argument is not None]


# --- torch's layers as ONNX's operators -----------------------------------------------------------------------------


def _used(node: fx.Node) -> set[int]:
    """Return the results of an operator that something reads."""
    return {int(user.args[1]) for user in node.users if user.users}  # type: ignore[arg-type]


def _is_zero(argument: Any) -> bool:
    """Whether a tensor is known to be full of zeros, as initial states mostly are."""
    node = argument
    while node.op == "call_function" and short_name(node) in {"select", "expand", "view", "reshape", "slice"}:
        node = node.args[0]
    return node.op == "call_function" and short_name(node) in FILLED and fill_argument(node) == 0


def _reordered(builder: GraphBuilder, name: str, order: Sequence[int]) -> str:
    """Return the gates of a weight or bias in ONNX's order, with the axis of directions in front."""
    if len(order) > 1:
        parts = _by_gate(builder, name, len(order))
        name = builder.add("Concat", [parts[place] for place in order], axis=0)
    return builder.add("Unsqueeze", [name, builder.ints([0])])


def _fused(
    builder: GraphBuilder, op: str, node: fx.Node, order: Sequence[int], **attributes: Any
) -> tuple[str, ...]:
    """Return Y and the last states of an ONNX recurrent operator, without their axis of directions.

    Args:
        builder: of the graph.
        op: ``GRU`` or ``LSTM``.
        node: of the layer.
        order: where ONNX's gates stand among torch's.
        attributes: of the operator, besides size and direction.
    """
    kinds = 2 if op == "LSTM" else 1
    x, *states = node.args[: 1 + kinds]
    w_ih, w_hh, b_ih, b_hh, reverse = node.args[1 + kinds : 6 + kinds]
    hidden = int(fake_of(w_hh).shape[1])
    weights = [_reordered(builder, name, order) for name in _named(builder, [w_ih, w_hh])]
    biases = [_reordered(builder, name, order) for name in _named(builder, [b_ih, b_hh])]
    inputs = [builder.tensor(x), *weights, builder.add("Concat", biases, axis=1) if biases else ""]
    if not all(_is_zero(state) for state in states):
        first = [builder.add("Unsqueeze", [builder.tensor(state), builder.ints([0])]) for state in states]
        inputs += ["", *first]
    while not inputs[-1]:
        inputs.pop()
    results = builder.add_many(
        op, inputs, 1 + kinds, hidden_size=hidden, direction="reverse" if reverse else None, **attributes
    )
    axis = builder.ints([1])
    y = builder.add("Squeeze", [results[0], axis])
    return y, *(builder.add("Squeeze", [result, builder.ints([0])]) for result in results[1:])


def _gru(builder: GraphBuilder, node: fx.Node) -> tuple[str, ...]:
    _, h0, w_ih, w_hh, b_ih, b_hh, reverse = node.args
    if _used(node) <= {0}:
        return _fused(builder, "GRU", node, (1, 0, 2), linear_before_reset=1)[0], *[""] * 4
    weights = _by_gate(builder, w_hh, 3)
    biases, own_bias = _named(builder, [b_ih]), []
    if b_hh is not None:  # that of the new state's product comes before the reset
        *parts, new_bias = _by_gate(builder, b_hh, 3)
        nothing = builder.constant(np.zeros(fake_of(w_hh).shape[1], np.float32))
        biases.append(builder.add("Concat", [*parts, nothing], axis=0))
        own_bias.append(new_bias)
    given = _products(builder, node, w_ih, biases, 3)

    def step(body: GraphBuilder, states: list[str], tokens: list[str]) -> tuple[list[str], list[str]]:
        (h,) = states
        reset, update = (
            body.add("Sigmoid", [body.add("Gemm", [h, weights[gate], tokens[gate]], transB=1)])
            for gate in (0, 1)
        )
        own = body.add("Gemm", [h, weights[2], *own_bias], transB=1)
        new = body.add("Tanh", [body.add("Add", [tokens[2], body.add("Mul", [reset, own])])])
        kept = body.add("Mul", [update, body.add("Sub", [h, new])])
        after = body.add("Add", [new, kept])
        return [after], [after, reset, update, new, own]

    _, collected = _scan(builder, step, _named(builder, [h0]), given, 5, reverse=bool(reverse))
    return tuple(collected)


def _lstm(builder: GraphBuilder, node: fx.Node) -> tuple[str, ...]:
    _, h0, c0, w_ih, w_hh, b_ih, b_hh, reverse = node.args
    if _used(node) <= {0, 1}:
        y, _, cell = _fused(builder, "LSTM", node, (0, 3, 1, 2))
        return y, cell, *[""] * 5
    given = _products(builder, node, w_ih, _named(builder, [b_ih, b_hh]), 4)
    weights = _by_gate(builder, w_hh, 4)

    def step(body: GraphBuilder, states: list[str], tokens: list[str]) -> tuple[list[str], list[str]]:
        write, forget, new, out = (
            body.add(activation, [body.add("Gemm", [states[0], weight, token], transB=1)])
            for activation, weight, token in zip(_LSTM_ACTIVATIONS, weights, tokens, strict=True)
        )
        cell = body.add("Add", [body.add("Mul", [forget, states[1]]), body.add("Mul", [write, new])])
        after = body.add("Mul", [out, body.add("Tanh", [cell])])
        return [after, cell], [after, cell, write, forget, new, out]

    last, collected = _scan(builder, step, _named(builder, [h0, c0]), given, 6, reverse=bool(reverse))
    return collected[0], last[1], *collected[1:]


def _rnn(builder: GraphBuilder, node: fx.Node) -> str:
    _, h0, w_ih, w_hh, b_ih, b_hh, reverse, relu = node.args
    given = _products(builder, node, w_ih, _named(builder, [b_ih, b_hh]), 1)
    weight = builder.tensor(w_hh)

    def step(body: GraphBuilder, states: list[str], tokens: list[str]) -> tuple[list[str], list[str]]:
        own = body.add("Gemm", [states[0], weight, tokens[0]], transB=1)
        after = body.add("Relu" if relu else "Tanh", [own])
        return [after], [after]

    return _scan(builder, step, _named(builder, [h0]), given, 1, reverse=bool(reverse))[1][0]


# --- backward recursions --------------------------------------------------------------------------------------------


def _zeros(builder: GraphBuilder, node: fx.Node) -> str:
    """Return zeros of one token's shape, ``[batch, hidden]``."""
    shape = builder.shape(list(fake_of(node.args[0]).shape[1:]))
    zero = helper.make_tensor("zero", TensorProto.FLOAT, [1], np.zeros(1, np.float32))
    return builder.add("ConstantOfShape", [shape], value=zero)


def _state_gradient(builder: GraphBuilder, node: fx.Node) -> tuple[str, str, str]:
    dy, factors, direct, w_hh, reverse = node.args
    weight = builder.tensor(w_hh)
    rows, hidden = (int(size) for size in fake_of(w_hh).shape)
    whole = 1 in _used(node)

    def step(body: GraphBuilder, states: list[str], tokens: list[str]) -> tuple[list[str], list[str]]:
        dh = body.add("Add", [tokens[0], states[0]])
        spread = body.add("Concat", [dh] * (rows // hidden), axis=1) if rows > hidden else dh
        dp = body.add("Mul", [tokens[1], spread])
        passed = [body.add("Mul", [tokens[2], dh])] if direct is not None else []
        return [body.add("Gemm", [dp, weight, *passed])], [dp, dh] if whole else [dp]

    sequences = _named(builder, [dy, factors, direct])
    count = 2 if whole else 1
    last, collected = _scan(builder, step, [_zeros(builder, node)], sequences, count, reverse=not reverse)
    return collected[0], collected[1] if whole else "", last[0]


def _states_gradient(builder: GraphBuilder, node: fx.Node) -> tuple[str, ...]:
    dy, dc_n, factors, of_cell, forget, w_hh, reverse = node.args
    weight = builder.tensor(w_hh)

    def step(body: GraphBuilder, states: list[str], tokens: list[str]) -> tuple[list[str], list[str]]:
        dh = body.add("Add", [tokens[0], states[0]])
        dc = body.add("Add", [body.add("Mul", [tokens[2], dh]), states[1]])
        dp = body.add("Mul", [tokens[1], body.add("Concat", [dc, dc, dc, dh], axis=1)])
        return [body.add("Gemm", [dp, weight]), body.add("Mul", [dc, tokens[3]])], [dp]

    zeros = _zeros(builder, node)
    states = [zeros, zeros if dc_n is None else builder.tensor(dc_n)]
    sequences = _named(builder, [dy, factors, of_cell, forget])
    last, collected = _scan(builder, step, states, sequences, 1, reverse=not reverse)
    return *collected, *last


RULES: dict[str, Rule] = {
    "gru_layer": _gru, "lstm_layer": _lstm, "rnn_layer": _rnn, "state_gradient": _state_gradient,
    "states_gradient": _states_gradient,
}  # fmt: skip
