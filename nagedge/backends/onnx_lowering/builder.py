"""An ONNX graph under construction: nodes, constants (each once) and the sizes that depend on the batch."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import sympy  # type: ignore[import-untyped]  # ships no types
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import fx

from nagedge.backends.size_arithmetic import runs_of, step_of
from nagedge.backends.traced import dtype_of

__all__ = ["DTYPES", "GraphBuilder", "Number", "Value", "inner_nodes", "reads"]

Number = int | float | bool
Value = str | tuple[str, ...]
"""What lowering a node gives: the name of its ONNX tensor, or one name a result."""

DTYPES: dict[torch.dtype, int] = {
    torch.float32: TensorProto.FLOAT,
    torch.float64: TensorProto.DOUBLE,
    torch.float16: TensorProto.FLOAT16,
    torch.int64: TensorProto.INT64,
    torch.int32: TensorProto.INT32,
    torch.int8: TensorProto.INT8,
    torch.uint8: TensorProto.UINT8,
    torch.bool: TensorProto.BOOL,
}

_SIZE_OPERATORS = {"add": "Add", "mul": "Mul", "div": "Div", "floor_div": "Div", "mod": "Mod"}


def inner_nodes(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """Return the nodes of the graph that a loop runs: they read tensors of the graph around it too."""
    return [inner for attribute in node.attribute for inner in attribute.g.node]


def reads(node: onnx.NodeProto) -> list[str]:
    """Return the names of all tensors that a node reads, in a loop's body too."""
    return [*node.input, *(name for inner in inner_nodes(node) for name in inner.input)]


class GraphBuilder:
    """Collects the nodes of one ONNX graph while the nodes of an fx graph are lowered.

    Attributes:
        values: the ONNX name (or names) of every fx node lowered so far.
        nodes, initializers: of the graph.
    """

    def __init__(self) -> None:
        self.values: dict[fx.Node, Value] = {}
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._symbols: dict[sympy.Symbol, tuple[str, int]] = {}
        self._sizes: dict[tuple[sympy.Expr, bool], str] = {}
        self._no_changes: dict[tuple[str, int], str] = {}
        self._one_values: dict[tuple[str, int], str] = {}
        self._counter = itertools.count(1)

    def nested(self) -> GraphBuilder:
        """Return a builder for a graph within this one; their names never meet."""
        inner = GraphBuilder()
        inner._counter = self._counter
        return inner

    # --- tensors ------------------------------------------------------------------------------------------------

    def fresh(self, stem: str) -> str:
        """Return a new tensor name."""
        return f"{stem}_{next(self._counter)}"

    def add(self, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node with one output and return its name."""
        return self.add_many(op, inputs, 1, **attributes)[0]

    def add_many(self, op: str, inputs: Sequence[str], count: int, **attributes: Any) -> tuple[str, ...]:
        """Append a node with ``count`` outputs and return their names."""
        outputs = [self.fresh(op) for _ in range(count)]
        given = {name: value for name, value in attributes.items() if value is not None}
        self.nodes.append(helper.make_node(op, list(inputs), outputs, name=outputs[0], **given))
        return tuple(outputs)

    def constant(self, array: npt.ArrayLike, dtype: npt.DTypeLike | None = None) -> str:
        """Return the name of a constant; equal constants are stored once."""
        value = np.asarray(array, dtype=dtype)
        key = (value.dtype.str, value.shape, value.tobytes())
        if key not in self._constants:
            self._constants[key] = self.initializer(self.fresh("constant"), value)
        return self._constants[key]

    def initializer(self, name: str, array: npt.NDArray[Any]) -> str:
        """Store a named constant and return its name."""
        self.initializers.append(
            numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        )
        return name

    def scalar(self, value: Number, dtype: torch.dtype, rank: int = 0) -> str:
        """Return the name of a constant of one value, by default without dimensions."""
        return self.constant(np.full((1,) * rank, value, helper.tensor_dtype_to_np_dtype(DTYPES[dtype])))

    def ints(self, values: Sequence[int]) -> str:
        """Return the name of a constant int64 vector."""
        return self.constant(np.asarray(values, np.int64))

    def cast(self, name: str, dtype: torch.dtype) -> str:
        """Return ``name`` converted to ``dtype``."""
        return self.add("Cast", [name], to=DTYPES[dtype])

    def tensor(self, argument: Any, dtype: torch.dtype | None = None) -> str:
        """Return the ONNX name of an fx argument (a node or a number), converted to ``dtype`` when given."""
        if not isinstance(argument, fx.Node):
            if dtype is None:
                dtype = torch.float32 if isinstance(argument, float) else torch.int64
            return self.scalar(argument, dtype)
        value = argument.meta.get("val")
        if isinstance(value, (torch.SymInt, torch.SymFloat)):
            expression = value.node.expr
            is_float = isinstance(value, torch.SymFloat) or (dtype is not None and dtype.is_floating_point)
            vector = self.expression(expression, is_float)
            scalar = self.add("Reshape", [vector, self.constant(np.zeros(0, np.int64))])
            own = torch.float32 if is_float else torch.int64
            return scalar if dtype in (None, own) else self.cast(scalar, dtype)
        if isinstance(value, (int, float)) and argument not in self.values:
            return self.tensor(value, dtype)
        name = self.values[argument]
        if not isinstance(name, str):
            name = name[0]
        if dtype is not None and dtype_of(argument) != dtype:
            return self.cast(name, dtype)
        return name

    def one_value(self, name: str, rank: int) -> str:
        """Return the name of a tensor of one value with ``rank`` axes."""
        key = (name, rank)
        if key not in self._one_values:
            self._one_values[key] = self.add("Reshape", [name, self.ints([1] * rank)])
        return self._one_values[key]

    def no_change_after(self, milestone: str, rank: int) -> str:
        """Return the name of ``rank`` zeros, the shape that changes none, computed after ``milestone``."""
        key = (milestone, rank)
        if key not in self._no_changes:
            zeros = self.constant(np.zeros(rank, np.int64))
            self._no_changes[key] = self.add("Mul", [self.add("Size", [milestone]), zeros])
        return self._no_changes[key]

    # --- sizes --------------------------------------------------------------------------------------------------

    def register_symbols(self, name: str, fake: torch.Tensor) -> None:
        """Remember where the symbolic sizes of a graph input can be read at run time."""
        sizes: Sequence[object] = tuple(fake.shape)
        for axis, size in enumerate(sizes):
            if isinstance(size, torch.SymInt) and isinstance(size.node.expr, sympy.Symbol):
                self._symbols.setdefault(size.node.expr, (name, axis))

    def size(self, argument: Any) -> int | sympy.Expr:
        """Return a size (int, fx node, SymInt or expression) as an int, or as an expression in the batch size."""
        value = argument.meta["val"] if isinstance(argument, fx.Node) else argument
        if isinstance(value, sympy.Expr):
            return int(value) if value.is_number else value
        if isinstance(value, torch.SymInt):
            expression = value.node.expr
            return int(expression) if expression.is_number else expression
        return int(value)

    def shape(self, sizes: Sequence[Any]) -> str:
        """Return the name of an int64 vector holding ``sizes`` (ints, fx nodes, SymInts or expressions)."""
        resolved = [self.size(s) for s in sizes]
        if all(isinstance(s, int) for s in resolved):
            return self.ints([int(s) for s in resolved])
        parts = [
            self.ints(run) if isinstance(run, list) else self.expression(run, False)
            for run in runs_of(resolved)
        ]
        return parts[0] if len(parts) == 1 else self.add("Concat", parts, axis=0)

    def expression(self, expression: sympy.Expr, is_float: bool) -> str:
        """Return the name of a one-element vector (int64 or float32) that computes ``expression`` at run time."""
        key = (expression, is_float)
        if key not in self._sizes:
            self._sizes[key] = self._compute(expression, is_float)
        return self._sizes[key]

    def _compute(self, expression: sympy.Expr, is_float: bool) -> str:
        step = step_of(expression, is_float)
        if step.kind == "number":
            return (
                self.constant([float(expression)], np.float32) if is_float else self.ints([int(expression)])
            )
        if step.kind == "symbol":
            name, axis = self._symbols[expression]
            return self.add("Shape", [name], start=axis, end=axis + 1)
        parts = (self.expression(part, step.is_float) for part in step.parts)
        if step.kind == "to float":
            return self.cast(next(parts), torch.float32)
        if step.kind == "reciprocal":
            return self.add("Reciprocal", [next(parts)])
        return functools.reduce(
            lambda left, right: self.add(_SIZE_OPERATORS[step.kind], [left, right]), parts
        )
