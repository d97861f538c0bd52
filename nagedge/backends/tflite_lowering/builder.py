"""A TensorFlow Lite subgraph under construction.

TensorFlow Lite's convolutions and pools take ``[batch, height, width, channels]``, torch's ``[batch, channels, height,
width]``. So every value carries the *order* in which its axes are stored. Moving axes costs nothing until an operator
asks for a certain order; elementwise operators, reductions, concatenations, slices and pads work in any, on renumbered
axes. In the same way an expansion is only noted: a stored size may be 1 where the value's own is larger.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import fx

from nagedge.backends.tflite_lowering import sizes as size_arithmetic
from nagedge.backends.tflite_lowering.model import Operation, Origin, Size, Tensor, product_of, size_at
from nagedge.backends.traced import fake_of

__all__ = ["BOOL", "FLOAT", "INT", "GraphBuilder", "Number", "Value", "dtype_of", "stored_dtype"]

Number = int | float | bool
FLOAT, INT, BOOL = np.dtype(np.float32), np.dtype(np.int32), np.dtype(np.bool_)

_LARGEST_TRANSPOSE = 5
_TYPICAL_BATCH = 8  # to tell large tensors from small ones


@dataclass(frozen=True)
class Value:
    """A tensor of the traced graph, as it is stored.

    Attributes:
        tensor: index of the stored tensor.
        order: ``order[j]`` is the axis that is stored as axis ``j``.
        sizes: of the value's own axes; a stored axis of size 1 repeats its only entry.
    """

    tensor: int
    order: tuple[int, ...]
    sizes: tuple[Size, ...]

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.sizes)


class GraphBuilder:
    """Collects the tensors and operations of one subgraph while the nodes of an fx graph are lowered.

    Args:
        batch: the batch size to fix; None leaves it free.

    Attributes:
        values: of every fx node lowered so far; a tuple for operators with several results.
        known: fx nodes whose value is known now, and needs no operator.
        origins: of known nodes that are tensors of the model, perhaps with their axes moved or merged.
        tensors, operations: of the subgraph.
        exact: whether what is added now is part of a formula that int8 would ruin.
        cuts: of sliced tensors: what they are slices of, where each axis starts and in which steps it goes on.
        padded: of tensors with zeros around: what they surround, and how many before and behind every axis.
    """

    def __init__(self, *, batch: int | None = None) -> None:
        self.batch = batch
        self.values: dict[fx.Node, Value | tuple[Value, ...]] = {}
        self.known: dict[fx.Node, torch.Tensor] = {}
        self.origins: dict[fx.Node, Origin] = {}
        self.tensors: list[Tensor] = []
        self.operations: list[Operation] = []
        self.exact = False
        self.symbols = size_arithmetic.Symbols()
        self.cuts: dict[int, tuple[int, tuple[Size, ...], tuple[int, ...]]] = {}
        self.padded: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {}
        self._constants: dict[tuple[Any, ...], int] = {}
        self._reshaped: dict[int, int] = {}
        self.made: dict[tuple[Any, ...], int] = {}

    # --- tensors ------------------------------------------------------------------------------------------------

    def new_tensor(self, stem: str, dtype: npt.DTypeLike, sizes: Sequence[Size]) -> int:
        """Append a tensor without data and return its index."""
        index = len(self.tensors)
        self.tensors.append(
            Tensor(f"{stem.lower()}_{index}", np.dtype(dtype), tuple(sizes), exact=self.exact)
        )
        return index

    def add(
        self,
        kind: str,
        inputs: Sequence[int],
        sizes: Sequence[Size],
        dtype: npt.DTypeLike = FLOAT,
        **options: Any,
    ) -> int:
        """Append an operation with one output and return the output's index."""
        output = self.new_tensor(kind, dtype, sizes)
        self.operations.append(Operation(kind, list(inputs), [output], options))
        return output

    def add_many(
        self,
        kind: str,
        inputs: Sequence[int],
        sizes: Sequence[Sequence[Size]],
        dtype: npt.DTypeLike = FLOAT,
        **options: Any,
    ) -> list[int]:
        """Append an operation with several outputs and return their indices."""
        outputs = [self.new_tensor(kind, dtype, each) for each in sizes]
        self.operations.append(Operation(kind, list(inputs), outputs, options))
        return outputs

    def constant(
        self, array: npt.ArrayLike, dtype: npt.DTypeLike | None = None, origin: Origin | None = None
    ) -> int:
        """Return the index of a constant; equal constants of one origin are stored once."""
        value = np.asarray(array, dtype=dtype)
        value = np.ascontiguousarray(value).reshape(value.shape)
        key = (value.dtype.str, value.shape, origin, value.tobytes())
        if key not in self._constants:
            self._constants[key] = self.new_tensor("constant", value.dtype, value.shape)
            tensor = self.tensors[self._constants[key]]
            tensor.data, tensor.origin = value, origin
        return self._constants[key]

    def is_stored(self, name: str) -> bool:
        """Whether an operation reads a tensor of the model already."""
        tensors = (self.tensors[index] for operation in self.operations for index in operation.inputs)
        return any(tensor.origin is not None and tensor.origin.name == name for tensor in tensors)

    def ints(self, values: Sequence[int]) -> int:
        """Return the index of a constant int32 vector."""
        return self.constant(np.asarray(values, np.int32))

    def scalar(self, value: Number, dtype: npt.DTypeLike) -> Value:
        """Return a constant without axes."""
        return Value(self.constant(np.asarray(value).astype(dtype)), (), ())

    def dtype(self, value: Value) -> np.dtype[Any]:
        """Return the dtype in which a value is stored."""
        return self.tensors[value.tensor].dtype

    def stored(self, value: Value) -> tuple[Size, ...]:
        """Return the sizes in which a value is stored, in stored order."""
        return self.tensors[value.tensor].sizes

    def elements(self, value: Value) -> int:
        """Return roughly how many elements are stored."""
        return math.prod(size_at(s, self.batch or _TYPICAL_BATCH) for s in self.stored(value))

    def is_constant(self, value: Value) -> bool:
        """Whether a value is stored in the file."""
        return self.tensors[value.tensor].data is not None

    # --- arguments ----------------------------------------------------------------------------------------------

    def of(self, argument: Any, dtype: np.dtype[Any] | None = None) -> Value:
        """Return an fx argument (a node or a number) as a value, converted to ``dtype`` when given."""
        if isinstance(argument, (torch.SymInt, torch.SymFloat)):
            return self._symbolic(argument, dtype)
        if not isinstance(argument, fx.Node):
            return self.scalar(argument, dtype or (FLOAT if isinstance(argument, float) else INT))
        if argument in self.values:
            value = self.values[argument]
        elif argument in self.known:
            value = self.values[argument] = self._constant_value(argument)
        else:
            return self.of(argument.meta["val"], dtype)
        if isinstance(value, tuple):
            value = value[0]
        return value if dtype is None else self.cast(value, dtype)

    def _symbolic(self, number: torch.SymInt | torch.SymFloat, dtype: np.dtype[Any] | None) -> Value:
        expression = self.fixed(number.node.expr)
        wanted = dtype or (FLOAT if isinstance(number, torch.SymFloat) else INT)
        if expression.is_number:
            return self.scalar(float(expression) if wanted == FLOAT else int(expression), wanted)
        vector = size_arithmetic.vector_of(self, expression, is_float=wanted == FLOAT)
        return Value(self.reshape(vector, ()), (), ())

    def _constant_value(self, node: fx.Node) -> Value:
        """Store what is known of a node; an expanded tensor is stored once."""
        tensor = self.known[node].detach()
        sizes = tuple(tensor.shape)
        repeated = [axis for axis, stride in enumerate(tensor.stride()) if stride == 0 and sizes[axis] > 1]
        for axis in repeated:
            tensor = tensor.narrow(axis, 0, 1)
        array = tensor.contiguous().numpy()
        origin = self.origins.get(node) if array.dtype == FLOAT and not repeated else None
        index = self.constant(array, stored_dtype(tensor.dtype), origin)
        return Value(index, tuple(range(len(sizes))), sizes)

    def cast(self, value: Value, dtype: np.dtype[Any]) -> Value:
        """Return ``value`` in ``dtype``; numbers become bool as torch has it (not zero)."""
        own = self.dtype(value)
        if own == dtype:
            return value
        data = self.tensors[value.tensor].data
        if data is not None:
            return Value(self.constant(data.astype(dtype)), value.order, value.sizes)
        key = ("CAST", value.tensor, dtype.str)
        if key not in self.made:
            if dtype == BOOL:
                zero = self.constant(np.zeros((), own))
                made = self.add("NOT_EQUAL", [value.tensor, zero], self.stored(value), BOOL)
            else:
                made = self.add("CAST", [value.tensor], self.stored(value), dtype)
            self.made[key] = made
        return Value(self.made[key], value.order, value.sizes)

    # --- sizes --------------------------------------------------------------------------------------------------

    def fixed(self, expression: Any) -> Any:
        """Return an expression with the batch size filled in where it is fixed."""
        if self.batch is None:
            return expression
        return expression.subs(dict.fromkeys(expression.free_symbols, self.batch))

    def size(self, argument: Any) -> Size:
        """Return a size (int, fx node or SymInt) as an int, or as an expression in the batch size."""
        value = argument.meta["val"] if isinstance(argument, fx.Node) else argument
        if isinstance(value, torch.SymInt):
            expression = self.fixed(value.node.expr)
            return int(expression) if expression.is_number else expression
        return int(value)

    def sizes(self, argument: Any) -> tuple[Size, ...]:
        """Return the sizes of an fx argument's (first) result."""
        return tuple(self.size(s) for s in fake_of(argument).shape)

    def shape(self, sizes: Sequence[Size]) -> int:
        """Return the index of an int32 vector that holds ``sizes``."""
        return size_arithmetic.shape_vector(self, sizes)

    # --- order of axes and expansions ---------------------------------------------------------------------------

    def reshape(self, tensor: int, sizes: Sequence[Size]) -> int:
        """Return a stored tensor with other stored sizes; one that depends on the batch needs no computation."""
        tensor = self._reshaped.get(tensor, tensor)  # a reshape of a reshape is one
        own = self.tensors[tensor]
        if own.sizes == tuple(sizes):
            return tensor
        if own.data is not None:
            return self.constant(own.data.reshape([int(s) for s in sizes]), origin=own.origin)
        key = ("RESHAPE", tensor, tuple(sizes))
        if key not in self.made:
            symbolic = [i for i, s in enumerate(sizes) if not isinstance(s, int)]
            if len(symbolic) <= 1 and 0 not in sizes:
                shape = self.ints([-1 if i in symbolic else int(s) for i, s in enumerate(sizes)])
            else:
                shape = self.shape(sizes)
            self.made[key] = self.add("RESHAPE", [tensor, shape], sizes, own.dtype)
            self._reshaped[self.made[key]] = tensor
        return self.made[key]

    def in_order(self, value: Value, order: Sequence[int]) -> int:
        """Return the tensor that stores ``value`` with its axes in ``order``; expansions stay noted."""
        if value.order == tuple(order):
            return value.tensor
        own = self.tensors[value.tensor]
        permutation = [value.order.index(axis) for axis in order]
        sizes = [own.sizes[p] for p in permutation]
        if _moves_nothing(own, permutation):
            return self.reshape(value.tensor, sizes)
        if own.data is not None:
            return self.constant(own.data.transpose(permutation), origin=_reordered(own, permutation))
        key = ("TRANSPOSE", value.tensor, tuple(permutation))
        if key not in self.made:
            self.made[key] = self._transpose(value.tensor, permutation)
        return self.made[key]

    def is_stored_in(self, value: Value, order: Sequence[int]) -> bool:
        """Whether :meth:`in_order` has nothing to move."""
        own = self.tensors[value.tensor]
        permutation = [value.order.index(axis) for axis in order]
        moved = ("TRANSPOSE", value.tensor, tuple(permutation)) in self.made
        return moved or own.data is not None or _moves_nothing(own, permutation)

    def _transpose(self, tensor: int, permutation: Sequence[int]) -> int:
        own = self.tensors[tensor]
        sizes = [own.sizes[p] for p in permutation]
        if len(permutation) <= _LARGEST_TRANSPOSE:
            return self.add("TRANSPOSE", [tensor, self.ints(permutation)], sizes, own.dtype)
        runs: list[list[int]] = []  # of axes that stay neighbours
        for p in permutation:
            if runs and (p == runs[-1][-1] + 1 or own.sizes[p] == 1):
                runs[-1].append(p)
            else:
                runs.append([p])
        starts = sorted(min(run) for run in runs)
        merged = [product_of([own.sizes[p] for p in sorted(run)]) for run in sorted(runs, key=min)]
        joined = self.reshape(tensor, merged)
        moved = [starts.index(min(run)) for run in runs]
        result = self.add("TRANSPOSE", [joined, self.ints(moved)], [merged[m] for m in moved], own.dtype)
        return self.reshape(result, sizes)

    def dense(self, value: Value, order: Sequence[int] | None = None) -> int:
        """Return the tensor that stores all of ``value``, expansions carried out, with its axes in ``order``."""
        order = tuple(range(value.rank)) if order is None else tuple(order)
        tensor = self.in_order(value, order)
        return self.expanded(tensor, [value.sizes[axis] for axis in order])

    def expanded(self, tensor: int, sizes: Sequence[Size]) -> int:
        """Return a stored tensor broadcast to ``sizes``."""
        own = self.tensors[tensor]
        if own.sizes == tuple(sizes):
            return tensor
        key = ("BROADCAST_TO", tensor, tuple(sizes))
        if key not in self.made:
            self.made[key] = self.add("BROADCAST_TO", [tensor, self.shape(sizes)], sizes, own.dtype)
        return self.made[key]

    def whole(self, value: Value) -> Value:
        """Return ``value`` with its expansions carried out, in its own order."""
        return Value(self.dense(value, value.order), value.order, value.sizes)

    def plain(self, tensor: int) -> Value:
        """Return a stored tensor as a value of the same axes."""
        sizes = self.tensors[tensor].sizes
        return Value(tensor, tuple(range(len(sizes))), sizes)


def _moves_nothing(tensor: Tensor, permutation: Sequence[int]) -> bool:
    """Whether moving the axes moves no element."""
    moved = [p for p in permutation if tensor.sizes[p] != 1]
    return moved == sorted(moved)


def _reordered(constant: Tensor, permutation: Sequence[int]) -> Origin | None:
    """Return the origin of a constant whose axes are moved once more, or None where it has been reshaped."""
    origin = constant.origin
    if origin is None or constant.sizes != tuple(origin.shape[axis] for axis in origin.order):
        return None
    return replace(origin, order=tuple(origin.order[p] for p in permutation))


def stored_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """Return the dtype in which values of a torch dtype are computed: float32, int32 or bool."""
    if dtype == torch.bool:
        return BOOL
    return FLOAT if dtype.is_floating_point else INT


def dtype_of(node: fx.Node) -> np.dtype[Any]:
    """Return the dtype in which a node's (first) result is computed."""
    return stored_dtype(fake_of(node).dtype)
