"""Sums of scattered values, which only the graphs for ONNX Runtime leave whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from nagedge.backends.onnx_lowering.builder import GraphBuilder
from nagedge.backends.traced import axis_of

__all__ = ["RULES"]

Rule = Callable[[GraphBuilder, fx.Node], Any]


def _scatter_add(builder: GraphBuilder, node: fx.Node) -> str:
    x, _, indices, src = node.args
    names = [builder.tensor(x), builder.tensor(indices), builder.tensor(src)]
    return builder.add("ScatterElements", names, axis=axis_of(node), reduction="add")


RULES: dict[str, Rule] = {"scatter_add": _scatter_add}
