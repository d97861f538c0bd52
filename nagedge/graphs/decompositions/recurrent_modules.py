"""torch's recurrent operators, all layers and directions in one, kept whole or taken apart into layers.

``aten.gru.input``, ``aten.lstm.input``, ``aten.rnn_tanh.input`` and ``aten.rnn_relu.input`` would be unrolled by
torch's Python dispatcher before any decomposition table is asked: :func:`whole_recurrent` keeps them, :func:`by_layer`
makes layers of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch._C import DispatchKey

from nagedge.graphs.decompositions.python_kernels import python_kernels
from nagedge.graphs.decompositions.recurrent_gradients import Gru, Lstm, Rnn
from nagedge.graphs.graph_modules import graph_module

__all__ = ["WHOLE_RECURRENT", "by_layer", "whole_recurrent", "with_aten_names"]

aten = torch.ops.aten
Rule = Callable[..., Any]

WHOLE_RECURRENT = (aten.gru.input, aten.lstm.input, aten.rnn_tanh.input, aten.rnn_relu.input)
"""The operators, each of a whole ``nn.GRU``, ``nn.LSTM`` or ``nn.RNN``."""


def _shapes(
    x: Tensor, hidden: int, layers: int, both: bool, batch_first: bool
) -> tuple[list[Any], list[Any]]:
    """Return the shapes of the output and of the last states."""
    ways = 2 if both else 1
    return [x.shape[0], x.shape[1], ways * hidden], [layers * ways, x.shape[0 if batch_first else 1], hidden]


def _define(operator: Any) -> Any:
    """Return an operator of ours like one of torch's, which tracing does not take apart.

    Its nodes get torch's operator as soon as the graph is traced (:func:`with_aten_names`).
    """
    kind = operator.overloadpacket.__name__
    name = f"nagedge::whole_{kind}"
    torch.library.define(name, str(operator._schema).partition(".input")[2])

    def compute(*arguments: Any) -> Any:
        return operator(*arguments)

    def empty(x: Tensor, states: Any, *rest: Any) -> tuple[Tensor, ...]:
        _, _, layers, _, _, both, batch_first = rest
        first = states if isinstance(states, Tensor) else states[0]
        output, last = _shapes(x, first.shape[2], layers, both, batch_first)
        kinds = [output, last]
        if kind == "lstm":
            kinds.append([*last[:2], states[1].shape[2]])
        return tuple(x.new_empty(shape) for shape in kinds)

    torch.library.impl(name, "CompositeExplicitAutograd", compute)
    torch.library.register_fake(name, empty)
    return getattr(torch.ops.nagedge, f"whole_{kind}").default


_STAND_INS = {operator: _define(operator) for operator in WHOLE_RECURRENT}
_ATEN = {stand_in: operator for operator, stand_in in _STAND_INS.items()}


def with_aten_names(graph: fx.Graph) -> None:
    """Give the nodes of whole recurrent operators torch's operator, in place."""
    for node in graph.nodes:
        if node.target in _ATEN:
            node.target = _ATEN[node.target]


@contextmanager
def whole_recurrent() -> Iterator[None]:
    """Keep recurrent operators whole while tracing, those with dropout apart, which are as random as before."""
    keys = (DispatchKey.Autograd, DispatchKey.CompositeImplicitAutograd)
    kernels = {
        operator: operator.py_kernels
        | {key: _kernel(_STAND_INS[operator], operator.py_kernels[key]) for key in keys}
        for operator in WHOLE_RECURRENT
    }
    with python_kernels(kernels):
        yield


def _kernel(stand_in: Any, unrolled: Rule) -> Rule:
    def kernel(*arguments: Any) -> Any:
        dropout, train = arguments[5:7]
        return (unrolled if train and dropout else stand_in)(*arguments)

    return kernel


def by_layer(module: fx.GraphModule) -> fx.GraphModule:
    """Return ``module`` with its whole recurrent operators as layers with derivatives of their own.

    An LSTM with a projection of its state stays: torch unrolls it when the graph is traced.
    """
    if not any(node.target in WHOLE_RECURRENT for node in module.graph.nodes):
        return module
    graph = fx.Graph()
    graph.output(graph.graph_copy(module.graph, {}))
    for node in graph.nodes:
        node.target = _MODULES.get(node.target, node.target)
    return graph_module(module, graph)


# --- layers -----------------------------------------------------------------------------------------------------------


def _by_layer(
    layer: Callable[..., tuple[Tensor, ...]], x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor],
    layers: int, both: bool, batch_first: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Run layers on layers; every direction of a layer reads both of the layer before.

    Args:
        layer: called with x, one state of each kind, the layer's weights and its direction; returns the states at all
            tokens, then, where they differ, the last of each further kind.
        x: ``[time, batch, inputs]``, or batch first. states: ``[layers * directions, batch, hidden]``, one a kind.
        weights: of all layers and directions, in torch's order.
        layers: how many. both: whether there are two directions.

    Returns:
        The output and the last states of each kind.
    """
    ways = 2 if both else 1
    each = len(weights) // (layers * ways)
    x = x.transpose(0, 1) if batch_first else x
    int(x.shape[0])  # were it the size of the batch, this would fix it: a loop needs to know how long it is
    last: list[list[Tensor]] = [[] for _ in states]
    for number in range(layers):
        outputs = []
        for reverse in (False, True)[:ways]:
            place = number * ways + int(reverse)
            own = weights[place * each : (place + 1) * each]
            results = layer(x, *(state[place] for state in states), *own, reverse)
            outputs.append(results[0])
            for ends, end in zip(last, (results[0][0 if reverse else -1], *results[1:]), strict=True):
                ends.append(end)
        x = outputs[0] if ways == 1 else torch.cat(outputs, 2)
    x = x.transpose(0, 1) if batch_first else x
    return x, *(torch.stack(ends) for ends in last)


def _biases(weights: Sequence[Tensor]) -> tuple[Tensor | None, Tensor | None]:
    return (weights[2], weights[3]) if len(weights) == 4 else (None, None)


def _gru(
    x: Tensor, state: Tensor, weights: Sequence[Tensor], biased: bool, layers: int, dropout: float, train: bool,
    both: bool, batch_first: bool,
) -> Any:  # fmt: skip
    def layer(x: Tensor, h0: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        *own, reverse = rest
        return (Gru.apply(x, h0, own[0], own[1], *_biases(own), reverse)[0],)

    return _by_layer(layer, x, [state], weights, layers, both, batch_first)


def _lstm(
    x: Tensor, states: Sequence[Tensor], weights: Sequence[Tensor], biased: bool, layers: int, dropout: float,
    train: bool, both: bool, batch_first: bool,
) -> Any:  # fmt: skip
    if len(weights) != layers * (2 if both else 1) * (4 if biased else 2):
        arguments = (biased, layers, dropout, train, both, batch_first)
        return aten.lstm.input(x, states, weights, *arguments)  # with a projection of the state

    def layer(x: Tensor, h0: Tensor, c0: Tensor, *rest: Any) -> tuple[Tensor, ...]:
        *own, reverse = rest
        y, last, *_ = Lstm.apply(x, h0, c0, own[0], own[1], *_biases(own), reverse)
        return y, last

    return _by_layer(layer, x, states, weights, layers, both, batch_first)


def _rnn(relu: bool) -> Rule:
    def rule(
        x: Tensor, state: Tensor, weights: Sequence[Tensor], biased: bool, layers: int, dropout: float, train: bool,
        both: bool, batch_first: bool,
    ) -> Any:  # fmt: skip
        def layer(x: Tensor, h0: Tensor, *rest: Any) -> tuple[Tensor, ...]:
            *own, reverse = rest
            return (Rnn.apply(x, h0, own[0], own[1], *_biases(own), reverse, relu),)

        return _by_layer(layer, x, [state], weights, layers, both, batch_first)

    return rule


_MODULES: dict[Any, Rule] = {
    aten.gru.input: _gru,
    aten.lstm.input: _lstm,
    aten.rnn_tanh.input: _rnn(relu=False),
    aten.rnn_relu.input: _rnn(relu=True),
}
