"""Lower a traced graph to an ML Program: one pass over the fx nodes, one rule an operator.

coremltools' own front end takes TorchScript or ``torch.export`` programs: it would retrace the graph, and it follows
torch's releases late. Its builder and its serializer are what is needed of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy  # type: ignore[import-untyped]  # ships no types
import torch
from torch import Tensor, fx

from nagedge.backends import traced
from nagedge.backends.mil_lowering import activations, compute, convolution, elementwise, pooling, structure
from nagedge.backends.mil_lowering.builder import ProgramBuilder, Var
from nagedge.backends.mil_lowering.compression import Compression
from nagedge.backends.mil_lowering.high_rank import within_rank
from nagedge.backends.mil_lowering.names import feature_name
from nagedge.backends.mil_lowering.sdk import import_coremltools, quiet
from nagedge.backends.traced import fake_of, is_size, rule_of, short_name
from nagedge.errors import UnsupportedOperatorError, first_line
from nagedge.graphs.cleanup import is_getitem, operator_name
from nagedge.specs import TensorSpec

__all__ = ["RULES", "Lowered", "Options", "RefusedOperatorError", "lower_to_mil", "unsupported_operators"]

Rule = Callable[[ProgramBuilder, fx.Node], Any]
RULES: dict[str, Rule] = {
    **elementwise.RULES, **activations.RULES, **structure.RULES, **compute.RULES, **pooling.RULES, **convolution.RULES,
}  # fmt: skip


class RefusedOperatorError(UnsupportedOperatorError):
    """One operator that cannot be lowered.

    Attributes:
        operator: such as ``"aten.add"``.
        reason: without a full stop.
    """

    def __init__(self, operator: str, reason: str) -> None:
        super().__init__(f"{operator!r} cannot be lowered to an ML Program: {reason}.")
        self.operator = operator
        self.reason = reason


@dataclass(frozen=True)
class Options:
    """How a program is written.

    Attributes:
        opset: number of the iOS version whose operators it uses, 16 or newer.
        half: compute in float16; inputs and outputs stay float32.
        compression: of the weights.
        batch: the only batch size; None leaves it free.
        fed: constants that become inputs instead, with the names these get.
    """

    opset: int
    half: bool = False
    compression: Compression | None = None
    batch: int | None = None
    fed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Lowered:
    """An ML Program (coremltools') and what Core ML must be told of its inputs and outputs.

    Attributes:
        program: with one function, ``main``.
        inputs: feature name -> shape; None is the free batch.
        outputs: feature names, in order.
    """

    program: Any
    inputs: Mapping[str, tuple[int | None, ...]]
    outputs: tuple[str, ...]


def unsupported_operators(module: fx.GraphModule) -> list[str]:
    """Return the names of operators in ``module`` that have no lowering, each once, in graph order."""
    return traced.unsupported_operators(module, RULES)


def lower_to_mil(
    module: fx.GraphModule,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    constants: Mapping[str, Tensor],
    options: Options,
) -> Lowered:
    """Return the ML Program of a traced graph.

    Core ML has no tensors without axes at its border, no bool, no int64 and no float64: an input or output without axes
    has the shape [1], flags and whole numbers are int32, floats float32.

    Args:
        module: its placeholders are ``inputs``, then ``constants``.
        inputs: name, dtype and shape of each run-time input.
        outputs: the name each output gets.
        constants: stored in the program under their names.
        options: precision, operator set, batch.

    Raises:
        RefusedOperatorError: an operator without a rule, or one that MIL refuses.
        UnsupportedOperatorError: something else that Core ML does not have.
    """
    missing = unsupported_operators(module)
    if missing:
        raise RefusedOperatorError(missing[0], "it has no lowering" + _also(missing[1:]))
    with quiet():
        return _lowered_program(within_rank(module), inputs, outputs, constants, options)


def _also(more: Sequence[str]) -> str:
    return f", nor have {', '.join(more)}" if more else ""


def _lowered_program(
    module: fx.GraphModule,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[str],
    constants: Mapping[str, Tensor],
    options: Options,
) -> Lowered:
    coremltools = import_coremltools()
    from coremltools.converters.mil.mil import Function

    builder = ProgramBuilder(
        half=options.half, opset=options.opset, batch=options.batch, compression=options.compression
    )
    placeholders = [node for node in module.graph.nodes if node.op == "placeholder"]
    given = dict(zip(placeholders, inputs, strict=False))
    stored = dict(zip(placeholders[len(inputs) :], constants.items(), strict=True))
    for node, (name, tensor) in list(stored.items()):
        if name in options.fed:
            dtype = str(tensor.dtype).removeprefix("torch.")
            given[node] = TensorSpec(options.fed[name], dtype, tuple(tensor.shape))
            del stored[node]
    border = _border(builder, given)
    program = _program()
    with Function(dict(border), opset_version=getattr(coremltools.target, f"iOS{options.opset}")) as function:
        for node, spec in given.items():
            var = function.inputs[feature_name(spec.name)]
            builder.register_symbols(var, node.meta["val"])
            builder.values[node] = _inside(builder, var, node, spec)
        for node, (name, tensor) in stored.items():
            if node.users:
                builder.values[node] = builder.weight(name, tensor, axis=_output_axis(node))
        results = _lower_nodes(builder, module)
        function.set_outputs(_outputs(builder, function, results, outputs))
    program.add_function("main", function)
    shapes = {
        name: tuple(size if isinstance(size, int) else None for size in placeholder.sym_shape)
        for name, placeholder in border.items()
    }
    return Lowered(program, shapes, tuple(feature_name(name) for name in outputs))


def _program() -> Any:
    """Return an empty program that is neither printed nor checked after every pass: half the time of serialising it.

    It is checked after dead code is removed, and before it is written.
    """
    from coremltools.converters.mil.mil import Program

    class Quick(Program):  # type: ignore[misc] # coremltools ships no types
        def __str__(self) -> str:
            return "an ML Program"

        def validate(self, check_essential_scope: bool | None = False) -> None:
            if check_essential_scope:
                super().validate(check_essential_scope)

    return Quick()


def _border(builder: ProgramBuilder, given: Mapping[fx.Node, TensorSpec]) -> dict[str, Any]:
    """Return the program's inputs; all free batches are one symbol."""
    from coremltools.converters.mil import Builder
    from coremltools.converters.mil.mil import get_new_symbol, types

    symbol = None
    border = {}
    for node, spec in given.items():
        shape: list[Any] = []
        for size in builder.sizes(node.meta["val"].shape):
            if isinstance(size, sympy.Expr):
                symbol = symbol or get_new_symbol()
                shape.append(symbol)
            else:
                shape.append(size)
        dtype = types.fp32 if spec.dtype.startswith("float") else types.int32
        name = feature_name(spec.name)
        border[name] = Builder.placeholder(shape=shape or [1], dtype=dtype, name=name)
    return border


def _inside(builder: ProgramBuilder, var: Var, node: fx.Node, spec: TensorSpec) -> Var:
    """Return an input as the graph has it: without the axis a scalar got, and in the program's own types."""
    if not node.users:
        return var
    if not spec.shape:
        var = builder.add("squeeze", x=var, axes=[0])
    return builder.cast(var, getattr(torch, spec.dtype))


def _output_axis(node: fx.Node) -> int | None:
    """Return the axis of a weight's output channels, or None when it is not (only) a weight."""
    axes = set()
    for user, through in _uses(node):
        name = short_name(user)
        if name == "convolution" and user.args[1] is through:
            axes.add(1 if user.args[6] else 0)
        elif name in {"mm", "bmm", "matmul", "addmm", "baddbmm"}:
            rank = fake_of(node).dim()
            axes.add(rank - 2 if through is not node else rank - 1)
        elif name == "embedding" and user.args[0] is through:
            axes.add(0)
        else:
            return None
    return axes.pop() if len(axes) == 1 else None


def _uses(node: fx.Node) -> list[tuple[fx.Node, fx.Node]]:
    """Return the operators that use a constant, each with what it is given: the constant, or it transposed."""
    found = []
    for user in node.users:
        if short_name(user) in {"permute", "transpose", "t"}:
            found += [(further, user) for further in user.users]
        else:
            found.append((user, node))
    return found


def _lower_nodes(builder: ProgramBuilder, module: fx.GraphModule) -> list[Any]:
    results: list[Any] = []
    for node in module.graph.nodes:
        if node.op == "get_attr":  # a constant that a decomposition made
            builder.values[node] = builder.tensor_constant(getattr(module, str(node.target)))
        elif node.op == "output":
            results = list(node.args[0])
        elif node.op == "call_function" and not is_size(node):
            if is_getitem(node):
                builder.values[node] = builder.values[node.args[0]][node.args[1]]
            elif not _is_empty(builder, node):
                builder.values[node] = _lowered(builder, node)
    return results


def _lowered(builder: ProgramBuilder, node: fx.Node) -> Any:
    rule = rule_of(node, RULES)
    assert rule is not None  # checked by lower_to_mil
    try:
        value = rule(builder, node)
    except (UnsupportedOperatorError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise RefusedOperatorError(operator_name(node), first_line(error)) from error
    first = value[0] if isinstance(value, tuple) else value
    wanted = builder.sizes(fake_of(node).shape)
    for own, size in zip(first.shape, wanted, strict=True):
        if isinstance(own, int) and isinstance(size, int) and own != size:
            raise AssertionError(f"{node.format_node()}: lowered to shape {first.shape}, expected {wanted}")
    return value


def _is_empty(builder: ProgramBuilder, node: fx.Node) -> bool:
    """Whether a node's result holds nothing; MIL has no such tensors, and concatenations leave them out."""
    return 0 in builder.shape_of(node)


def _outputs(
    builder: ProgramBuilder, function: Any, results: Sequence[Any], outputs: Sequence[str]
) -> list[Var]:
    """Return the program's outputs under their names, copied where a tensor has a name already."""
    given = {id(var) for var in function.inputs.values()}
    taken: set[int] = set()
    named = []
    for result, name in zip(results, outputs, strict=True):
        var = builder.tensor(result)
        if not var.rank:
            var = builder.add("expand_dims", x=var, axes=[0])
        var = builder.cast_to(var, "int32" if builder.stored_type(var) in {"bool", "int32"} else "fp32")
        if id(var) in given or id(var) in taken or compute.is_constant(var):
            var = builder.add("identity", x=var)
        taken.add(id(var))
        var.name = feature_name(name)
        named.append(var)
    return named
