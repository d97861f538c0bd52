"""Recurrent layers and their backward recursions on ONNX Runtime as torch computes them: fused, and as loops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import pytest
import torch
from lowering_harness import Lowering, case, check, lowered, normal
from torch import Tensor

from nagedge.backends.onnx_lowering.recurrent import RULES
from nagedge.graphs.decompositions.recurrent import (
    GRU_LAYER,
    LSTM_LAYER,
    RNN_LAYER,
    STATE_GRADIENT,
    STATES_GRADIENT,
)

TIME, INPUTS, HIDDEN = 4, 3, 5
SEQUENCE, STATE = normal(TIME, INPUTS), normal(HIDDEN)


def weights(gates: int, *, biased: bool) -> tuple[Tensor, ...]:
    g = torch.Generator().manual_seed(gates)
    shapes: list[Sequence[int]] = [(gates * HIDDEN, INPUTS), (gates * HIDDEN, HIDDEN)]
    shapes += [(gates * HIDDEN,)] * (2 if biased else 0)
    return tuple(torch.randn(*shape, generator=g) for shape in shapes)


def layer(
    rule: str,
    gates: int,
    results: Sequence[int],
    *,
    biased: bool,
    reverse: bool,
    zero: bool,
    relu: bool | None = None,
) -> Lowering:
    """A layer of which only some results are read: of the first ones ONNX has an operator, of all it has not."""
    operator = {"gru_layer": GRU_LAYER, "lstm_layer": LSTM_LAYER, "rnn_layer": RNN_LAYER}[rule]
    kinds = 2 if rule == "lstm_layer" else 1

    def function(x: Tensor, *rest: Tensor) -> list[Tensor]:
        given = [rest[0].new_zeros(x.shape[0], HIDDEN)] * kinds if zero else list(rest[:kinds])
        own = rest[1 if zero else kinds :]
        biases: tuple[Any, ...] = own[2:] if biased else (None, None)
        options = (reverse,) if relu is None else (reverse, relu)
        found = operator(x.transpose(0, 1), *given, *own[:2], *biases, *options)
        listed = [found] if isinstance(found, Tensor) else list(found)
        chosen = [listed[place] for place in results]
        return [item.transpose(0, 1) if item.dim() == 3 else item for item in chosen]

    label = f"{len(results)} results{', biases' * biased}{', reverse' * reverse}{', from zero' * zero}"
    states = [STATE] * (1 if zero else kinds)
    return case(
        rule,
        label,
        function,
        SEQUENCE,
        *states,
        constants=weights(gates, biased=biased),
        rtol=1e-5,
        atol=1e-5,
    )


def recursion(direct: bool, gates: int, reverse: bool) -> Lowering:
    (_, w_hh, *_) = weights(gates, biased=False)

    def function(dy: Tensor, factors: Tensor, passed: Tensor, w: Tensor) -> list[Tensor]:
        turned = [item.transpose(0, 1) for item in (dy, factors, passed)]
        dp, dh, first = STATE_GRADIENT(*turned[:2], turned[2] if direct else None, w, reverse)
        return [dp.transpose(0, 1), first, *([dh.transpose(0, 1)] if direct else [])]

    draws = [normal(TIME, size) for size in (HIDDEN, gates * HIDDEN, HIDDEN)]
    label = f"{gates} gates{', direct' * direct}{', reverse' * reverse}"
    return case("state_gradient", label, function, *draws, constants=(w_hh,), rtol=1e-4, atol=1e-4)


def double_recursion(last_cell: bool, reverse: bool) -> Lowering:
    (_, w_hh) = weights(4, biased=False)

    def function(
        dy: Tensor, dc_n: Tensor, factors: Tensor, of_cell: Tensor, forget: Tensor, w: Tensor
    ) -> list[Tensor]:
        turned = [item.transpose(0, 1) for item in (dy, factors, of_cell, forget)]
        dp, *first = STATES_GRADIENT(turned[0], dc_n if last_cell else None, *turned[1:], w, reverse)
        return [dp.transpose(0, 1), *first]

    draws = [
        normal(TIME, HIDDEN),
        STATE,
        normal(TIME, 4 * HIDDEN),
        normal(TIME, HIDDEN),
        normal(TIME, HIDDEN),
    ]
    label = f"{'last cell' * last_cell}{', reverse' * reverse}"
    return case("states_gradient", label, function, *draws, constants=(w_hh,), rtol=1e-4, atol=1e-3)


CASES = [
    *(
        layer(rule, gates, results, biased=biased, reverse=reverse, zero=zero)
        for rule, gates, kinds in (
            ("gru_layer", 3, ((0,), (0, 1, 2, 3, 4))),
            ("lstm_layer", 4, ((0,), (0, 1), (0, 1, 2, 3, 4, 5, 6))),
        )
        for results in kinds
        for biased, reverse, zero in ((True, False, True), (False, True, False), (True, True, False))
    ),
    *(
        layer("rnn_layer", 1, (0,), biased=biased, reverse=reverse, zero=False, relu=relu)
        for biased, reverse, relu in ((True, False, False), (False, True, False), (True, True, True))
    ),
    *(recursion(*given) for given in ((True, 3, False), (True, 3, True), (False, 1, False))),
    *(double_recursion(last_cell, reverse) for last_cell, reverse in ((False, False), (True, True))),
]  # fmt: skip


def operators(model: onnx.ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize("item", CASES, ids=str)
def test_as_torch_computes_it(item: Lowering) -> None:
    check(item)


def test_every_rule_has_a_case() -> None:
    assert {item.rule for item in CASES} == set(RULES)


def test_onnx_has_an_operator_for_a_layer_without_its_gates() -> None:
    for rule, gates, op in (("gru_layer", 3, "GRU"), ("lstm_layer", 4, "LSTM")):
        _, model = lowered(layer(rule, gates, (0,), biased=True, reverse=False, zero=True))
        found = operators(model)
        assert op in found
        assert "Scan" not in found
        (node,) = (node for node in model.graph.node if node.op_type == op)
        assert len(node.input) == 4, "zeros to begin with need no input"
        _, model = lowered(layer(rule, gates, tuple(range(gates + 2)), biased=True, reverse=False, zero=True))
        assert operators(model) >= {"Scan"}
        assert op not in operators(model)


def test_a_loop_reads_what_the_graph_around_it_renames() -> None:
    """A tensor that becomes an output is renamed, also where the body of a loop reads it."""

    def function(x: Tensor, h0: Tensor, w_ih: Tensor, w_hh: Tensor) -> list[Tensor]:
        doubled = w_hh * 2.0
        return [
            RNN_LAYER(x.transpose(0, 1), h0, w_ih, doubled, None, None, False, False).transpose(0, 1),
            doubled,
        ]

    check(
        case("rnn_layer", "renamed", function, SEQUENCE, STATE, constants=weights(1, biased=False), atol=1e-5)
    )
