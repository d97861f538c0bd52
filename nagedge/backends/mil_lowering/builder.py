"""An ML Program under construction: operators, constants (each once) and the sizes that depend on the batch.

The operators are those of the Model Intermediate Language (MIL), as coremltools' builder has them: it infers and checks
types and shapes. `Operator reference <https://apple.github.io/coremltools/source/coremltools.converters.mil.mil.ops.defs.html>`_.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import sympy  # type: ignore[import-untyped]  # ships no types
import torch
from torch import fx

from nagedge.backends.mil_lowering.compression import Compression
from nagedge.backends.mil_lowering.names import feature_name
from nagedge.backends.mil_lowering.sdk import builder as mil_builder
from nagedge.backends.size_arithmetic import FIX_BATCH, runs_of, step_of
from nagedge.backends.traced import fake_of
from nagedge.errors import UnsupportedOperatorError

__all__ = ["ProgramBuilder", "Var"]

Number = int | float | bool
Var = Any
"""A tensor of the program (coremltools ships no types)."""

_INT32 = np.iinfo(np.int32)
_FLOAT16 = np.finfo(np.float16)
_SIZE_OPERATORS = {"add": "add", "mul": "mul", "div": "real_div", "floor_div": "floor_div", "mod": "mod"}


class ProgramBuilder:
    """Collects the operators of one function while the nodes of an fx graph are lowered.

    Attributes:
        values: the tensor (or tensors) of every fx node lowered so far.
        float_type: ``"fp32"`` or ``"fp16"``: what floating tensors are computed in.
        opset: number of the operator set's iOS version, such as 18.
    """

    def __init__(
        self, *, half: bool, opset: int, batch: int | None, compression: Compression | None = None
    ) -> None:
        self.values: dict[fx.Node, Any] = {}
        self.float_type = "fp16" if half else "fp32"
        self.opset = opset
        self._mb = mil_builder()
        self._batch = batch
        self._compression = compression
        self._constants: dict[tuple[str, tuple[int, ...], bytes], Var] = {}
        self._symbols: dict[sympy.Symbol, tuple[Var, int]] = {}
        self._sizes: dict[tuple[sympy.Expr, bool], Var] = {}
        self._shapes: dict[str, Var] = {}
        self._counter = 0

    # --- operators and constants --------------------------------------------------------------------------------

    def add(self, op: str, **inputs: Any) -> Var:
        """Append an operator; numbers, strings and lists among its inputs become shared constants."""
        given = {key: value if self._is_var(value) else self.literal(value) for key, value in inputs.items()}
        return getattr(self._mb, op)(name=self._fresh("v"), **given)

    def _fresh(self, stem: str) -> str:
        self._counter += 1
        return f"_{stem}{self._counter}"

    @staticmethod
    def _is_var(value: Any) -> bool:
        return hasattr(value, "sym_type") or (
            isinstance(value, (list, tuple)) and bool(value) and hasattr(value[0], "sym_type")
        )

    def literal(self, value: Any) -> Var:
        """Return the constant of a Python value: a number, a flag, a string, or a list of whole numbers or flags."""
        if isinstance(value, str):
            key = ("str", (), value.encode())
            if key not in self._constants:
                self._constants[key] = self._mb.const(val=value, name=self._fresh("c"))
            return self._constants[key]
        if isinstance(value, (list, tuple)):
            flags = bool(value) and isinstance(value[0], bool)
            return self.constant(np.asarray(value, np.bool_ if flags else np.int32))
        if isinstance(value, bool):
            return self.constant(np.bool_(value))
        if isinstance(value, float):
            return self.constant(self._fitted(np.float32(value)))
        return self.constant(value if isinstance(value, (np.ndarray, np.generic)) else np.int32(value))

    def constant(self, array: npt.NDArray[Any] | np.generic) -> Var:
        """Return a constant as it is; equal constants are stored once."""
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._mb.const(val=array, name=self._fresh("c"))
        return self._constants[key]

    def weight(self, name: str, tensor: torch.Tensor, *, axis: int | None = 0) -> Var:
        """Return a named constant of the model, compressed when the target asks for it.

        Args:
            name: in the model.
            tensor: its values.
            axis: of its output channels; None when it must not be compressed.
        """
        array = self._stored(tensor)
        feature = feature_name(name)
        if self._compression is not None and axis is not None and self._compression.applies_to(array):
            return self._compression.constant(self._mb, feature, array, axis, opset=self.opset)
        if array.ndim == 0:
            return self._mb.const(val=array[()], name=feature)
        return self._mb.const(val=np.ascontiguousarray(array), name=feature)

    def tensor_constant(self, tensor: torch.Tensor) -> Var:
        """Return the constant of a tensor without a name."""
        array = self._stored(tensor)
        return self.constant(array if array.ndim else array[()])

    def _stored(self, tensor: torch.Tensor) -> npt.NDArray[Any]:
        array: npt.NDArray[Any] = tensor.detach().numpy()
        if array.dtype.kind == "f":
            fitted: npt.NDArray[Any] = self._fitted(array.astype(np.float32))
            return fitted
        if array.dtype == np.bool_:
            return array
        return np.clip(array.astype(np.int64), _INT32.min, _INT32.max).astype(np.int32)

    def _fitted(self, array: Any) -> Any:
        """Return floats in the program's type; what float16 cannot hold becomes its largest or smallest number.

        So a mask of -1e9 stays a mask, and an epsilon stays above zero.
        """
        if self.float_type == "fp32":
            return array
        limited = np.where(np.isinf(array), array, np.clip(array, _FLOAT16.min, _FLOAT16.max))
        if limited.ndim == 0:
            if limited != 0 and abs(limited) < _FLOAT16.smallest_normal:
                limited = np.copysign(_FLOAT16.smallest_normal, limited)
            return np.float16(limited)
        return limited.astype(np.float16)

    def scalar(self, value: Number, dtype: torch.dtype) -> Var:
        """Return a constant without dimensions, as the program stores ``dtype``."""
        if dtype == torch.bool:
            return self.constant(np.bool_(value))
        if dtype.is_floating_point:
            return self.constant(self._fitted(np.float32(value)))
        return self.constant(np.int32(min(max(int(value), _INT32.min), _INT32.max)))

    # --- types --------------------------------------------------------------------------------------------------

    def type_name(self, dtype: torch.dtype) -> str:
        """Return how the program stores a torch dtype; it has no float64 and no int64."""
        if dtype == torch.bool:
            return "bool"
        return self.float_type if dtype.is_floating_point else "int32"

    def cast(self, var: Var, dtype: torch.dtype) -> Var:
        """Return ``var`` as the program stores ``dtype``."""
        return self.cast_to(var, self.type_name(dtype))

    def cast_to(self, var: Var, wanted: str) -> Var:
        """Return ``var`` with the MIL type of this name."""
        own = self.stored_type(var)
        if own == wanted:
            return var
        if wanted == "bool":
            zero = (
                np.int32(0)
                if own == "int32"
                else np.zeros((), np.float16 if own == "fp16" else np.float32)[()]
            )
            return self.add("not_equal", x=var, y=self.constant(zero))
        return self.add("cast", x=var, dtype=wanted)

    @staticmethod
    def stored_type(var: Var) -> str:
        """Return the name of a tensor's MIL type."""
        from coremltools.converters.mil.mil import types

        return str(types.builtin_to_string(var.dtype))

    def tensor(self, argument: Any, dtype: torch.dtype | None = None) -> Var:
        """Return the tensor of an fx argument (a node or a number), converted to ``dtype`` when given."""
        if not isinstance(argument, fx.Node):
            if dtype is None:
                dtype = torch.float32 if isinstance(argument, float) else torch.int64
            return self.scalar(argument, dtype)
        value = argument.meta.get("val")
        if isinstance(value, (torch.SymInt, torch.SymFloat)):
            return self._size_tensor(value, dtype)
        if isinstance(value, (int, float)) and argument not in self.values:
            return self.tensor(value, dtype)
        if argument not in self.values:
            raise UnsupportedOperatorError(
                "the model computes with a tensor without entries, which Core ML does not have: leave it out, or "
                "choose an onnxruntime target."
            )
        var = self.values[argument]
        if isinstance(var, (list, tuple)):
            var = var[0]
        return var if dtype is None else self.cast(var, dtype)

    def _size_tensor(self, value: torch.SymInt | torch.SymFloat, dtype: torch.dtype | None) -> Var:
        expression = self._resolved(value.node.expr)
        is_float = isinstance(value, torch.SymFloat) or (dtype is not None and dtype.is_floating_point)
        if expression.is_number:
            number = float(expression) if is_float else int(expression)
            return self.scalar(number, dtype or (torch.float32 if is_float else torch.int64))
        var = self.add("squeeze", x=self.expression(expression, is_float), axes=[0])
        return var if dtype is None else self.cast(var, dtype)

    # --- sizes --------------------------------------------------------------------------------------------------

    def register_symbols(self, var: Var, fake: torch.Tensor) -> None:
        """Remember where the symbolic sizes of an input can be read at run time."""
        sizes: Sequence[object] = tuple(fake.shape)
        for axis, size in enumerate(sizes):
            if isinstance(size, torch.SymInt) and isinstance(size.node.expr, sympy.Symbol):
                self._symbols.setdefault(size.node.expr, (var, axis))

    def _resolved(self, expression: sympy.Expr) -> sympy.Expr:
        if self._batch is None or expression.is_number:
            return expression
        return expression.subs(dict.fromkeys(expression.free_symbols, self._batch))

    def size(self, argument: Any) -> int | sympy.Expr:
        """Return a size (int, fx node, SymInt or expression) as an int, or as an expression in the batch size."""
        value = argument.meta["val"] if isinstance(argument, fx.Node) else argument
        if isinstance(value, torch.SymInt):
            value = value.node.expr
        if isinstance(value, sympy.Expr):
            value = self._resolved(value)
            return int(value) if value.is_number else value
        return int(value)

    def sizes(self, sizes: Sequence[Any]) -> list[int | sympy.Expr]:
        """Return every size as :meth:`size` does."""
        return [self.size(s) for s in sizes]

    def shape_of(self, argument: Any) -> list[int | sympy.Expr]:
        """Return the shape of an fx argument's (first) result; of a number, the empty one."""
        fake = fake_of(argument) if isinstance(argument, fx.Node) else None
        return self.sizes(fake.shape) if isinstance(fake, torch.Tensor) else []

    def vector(self, sizes: Sequence[Any]) -> Any:
        """Return sizes as a list of ints, or as an int32 vector of the program where one depends on the batch."""
        resolved = self.sizes(sizes)
        if all(isinstance(s, int) for s in resolved):
            return [int(s) for s in resolved]
        parts = [
            self.literal(run) if isinstance(run, list) else self.expression(run, False)
            for run in runs_of(resolved)
        ]
        return parts[0] if len(parts) == 1 else self.add("concat", values=parts, axis=0, interleave=False)

    def expression(self, expression: sympy.Expr, is_float: bool) -> Var:
        """Return a one-element vector (int32 or floating) that computes ``expression`` at run time."""
        key = (expression, is_float)
        if key not in self._sizes:
            self._sizes[key] = self._compute(expression, is_float)
        return self._sizes[key]

    def _compute(self, expression: sympy.Expr, is_float: bool) -> Var:
        step = step_of(expression, is_float, remedy=f"{FIX_BATCH}, or in the target's file")
        if step.kind == "number":
            if is_float:
                return self.constant(np.asarray([float(expression)], self._numpy_float))
            return self.constant(np.asarray([int(expression)], np.int32))
        if step.kind == "symbol":
            return self._symbol(expression)
        parts = (self.expression(part, step.is_float) for part in step.parts)
        if step.kind == "to float":
            return self.add("cast", x=next(parts), dtype=self.float_type)
        if step.kind == "reciprocal":
            return self.add("real_div", x=self.scalar(1.0, torch.float32), y=next(parts))
        return functools.reduce(
            lambda left, right: self.add(_SIZE_OPERATORS[step.kind], x=left, y=right), parts
        )

    @property
    def _numpy_float(self) -> type[np.floating[Any]]:
        return np.float16 if self.float_type == "fp16" else np.float32

    def _symbol(self, symbol: sympy.Symbol) -> Var:
        var, axis = self._symbols[symbol]
        if var.name not in self._shapes:
            self._shapes[var.name] = self.add("shape", x=var)
        return self.add(
            "slice_by_index", x=self._shapes[var.name], begin=[axis], end=[axis + 1], **SLICE_DEFAULTS[1]
        )


def slice_defaults(rank: int) -> Mapping[str, list[Any]]:
    """Return the optional inputs of ``slice_by_index`` that say "nothing special", so that they are shared."""
    no = [False] * rank
    return {"stride": [1] * rank, "begin_mask": no, "end_mask": no, "squeeze_mask": no}


SLICE_DEFAULTS = {rank: slice_defaults(rank) for rank in range(1, 6)}
