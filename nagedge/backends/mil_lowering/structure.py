"""Operators that move data: views, slices, concatenation, padding, gathers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy  # type: ignore[import-untyped]  # ships no types
import torch
from torch import fx

from nagedge.backends.mil_lowering.builder import ProgramBuilder, Var
from nagedge.backends.mil_lowering.operands import filled_value, materialized
from nagedge.backends.traced import (
    argument_of,
    axis_of,
    dtype_of,
    order_of,
    pads_of,
    rank_of,
    squeezed_axes,
)

__all__ = ["RULES", "concat", "pad_constant", "reshape", "slice_axis", "transpose"]

Rule = Callable[[ProgramBuilder, fx.Node], Any]
_END = 2**62


def reshape(builder: ProgramBuilder, var: Var, sizes: Sequence[Any]) -> Var:
    """Reshape; one size that depends on the batch becomes -1, which needs no computation at run time."""
    resolved = builder.sizes(sizes)
    if list(var.shape) == resolved:
        return var
    if not resolved:
        return builder.add("squeeze", x=var, axes=list(range(var.rank)))
    symbolic = [i for i, s in enumerate(resolved) if isinstance(s, sympy.Expr)]
    if len(symbolic) == 1 and 0 not in resolved:
        resolved[symbolic[0]] = -1
    return builder.add("reshape", x=var, shape=builder.vector(resolved))


def transpose(builder: ProgramBuilder, var: Var, order: Sequence[int]) -> Var:
    """Permute the axes."""
    return var if list(order) == list(range(var.rank)) else builder.add("transpose", x=var, perm=list(order))


def slice_axis(
    builder: ProgramBuilder,
    var: Var,
    axis: int,
    start: int | sympy.Expr,
    stop: int | sympy.Expr | None,
    step: int = 1,
) -> Var:
    """Slice one axis; ``start`` and ``stop`` may depend on the batch, ``stop=None`` is the end."""
    rank = var.rank
    begin: list[int | sympy.Expr] = [0] * rank
    end: list[int | sympy.Expr] = [0] * rank
    end_mask = [True] * rank
    begin[axis] = start
    if stop is not None:
        end[axis], end_mask[axis] = stop, False
    begin_mask = [i != axis for i in range(rank)]
    return builder.add(
        "slice_by_index", x=var, begin=builder.vector(begin), end=builder.vector(end),
        stride=[step if i == axis else 1 for i in range(rank)], begin_mask=begin_mask, end_mask=end_mask,
        squeeze_mask=[False] * rank,
    )  # fmt: skip


def concat(builder: ProgramBuilder, parts: Sequence[Var], axis: int) -> Var:
    """Concatenate."""
    if len(parts) == 1:
        return parts[0]
    return builder.add("concat", values=list(parts), axis=axis, interleave=False)


def pad_constant(
    builder: ProgramBuilder, var: Var, begin: Sequence[int], end: Sequence[int], value: float
) -> Var:
    """Pad every axis with a constant; all sizes >= 0."""
    pads = [p for pair in zip(begin, end, strict=True) for p in pair]
    if not any(pads):
        return var
    if builder.stored_type(var) in {"fp16", "fp32"}:
        constant = builder.scalar(float(value), torch.float32)
        return builder.add("pad", x=var, pad=pads, mode="constant", constant_val=constant)
    # MIL pads floating tensors only; whole numbers up to 2^24 come back exactly.
    own = builder.stored_type(var)
    padded = builder.add(
        "pad", x=builder.cast_to(builder.cast_to(var, "int32"), "fp32"), pad=pads, mode="constant",
        constant_val=builder.constant(np.float32(value)),
    )  # fmt: skip
    return builder.cast_to(builder.cast_to(padded, "int32"), own)


def _view(builder: ProgramBuilder, node: fx.Node) -> Var:
    return reshape(builder, builder.tensor(node.args[0]), list(node.meta["val"].shape))


def _permute(builder: ProgramBuilder, node: fx.Node) -> Var:
    return transpose(builder, builder.tensor(node.args[0]), order_of(node))


def _expand(builder: ProgramBuilder, node: fx.Node) -> Var:
    source = node.args[0]
    value = filled_value(source)
    if value is not None:
        scalar = builder.scalar(value, dtype_of(node))
        sizes = list(node.meta["val"].shape)
        return builder.add("fill", shape=builder.vector(sizes), value=scalar) if sizes else scalar
    return materialized(builder, builder.tensor(source), builder.shape_of(source), builder.shape_of(node))


def _unsqueeze(builder: ProgramBuilder, node: fx.Node) -> Var:
    axis = int(node.args[1]) % (rank_of(node.args[0]) + 1)  # type: ignore[arg-type]
    var = builder.tensor(node.args[0])
    if not var.rank:
        return builder.add("reshape", x=var, shape=[1])
    return builder.add("expand_dims", x=var, axes=[axis])


def _squeeze(builder: ProgramBuilder, node: fx.Node) -> Var:
    axes = squeezed_axes(node)
    var = builder.tensor(node.args[0])
    return builder.add("squeeze", x=var, axes=axes) if axes else var


def _slice(builder: ProgramBuilder, node: fx.Node) -> Var:
    axis = axis_of(node)
    var = builder.tensor(node.args[0])
    size = builder.shape_of(node.args[0])[axis]
    start, stop = (
        _place(builder, argument_of(node, i, name), size) for i, name in ((2, "start"), (3, "end"))
    )
    step = int(argument_of(node, 4, "step", 1))
    start = 0 if start is None else start
    if start == 0 and step == 1 and size == builder.shape_of(node)[axis]:
        return var
    return slice_axis(builder, var, axis, start, stop, step)


def _place(builder: ProgramBuilder, given: Any, size: int | sympy.Expr) -> int | sympy.Expr | None:
    """Return a bound of a slice counted from the front, within the axis; None for its end."""
    if given is None:
        return None
    bound = builder.size(given)
    if isinstance(bound, int) and bound >= _END:
        return None
    if isinstance(bound, int) and bound < 0:
        bound = size + bound
    if isinstance(bound, int) and isinstance(size, int):
        return None if bound >= size else max(bound, 0)
    return bound


def _select(builder: ProgramBuilder, node: fx.Node) -> Var:
    axis = axis_of(node)
    var = builder.tensor(node.args[0])
    size = builder.shape_of(node.args[0])[axis]
    index = builder.size(node.args[2])
    if isinstance(index, int) and index < 0:
        index = size + index
    return _entry(builder, var, axis, index)


def _entry(builder: ProgramBuilder, var: Var, axis: int, index: int | sympy.Expr) -> Var:
    """Return one entry of an axis, without the axis."""
    here = [i == axis for i in range(var.rank)]
    place = [index if mine else 0 for mine in here]
    stop = [index + 1 if mine else 0 for mine in here]
    elsewhere = [not mine for mine in here]
    return builder.add(
        "slice_by_index", x=var, begin=builder.vector(place), end=builder.vector(stop), stride=[1] * var.rank,
        begin_mask=elsewhere, end_mask=elsewhere, squeeze_mask=here,
    )  # fmt: skip


def _cat(builder: ProgramBuilder, node: fx.Node) -> Var:
    dtype = dtype_of(node)
    axis = int(argument_of(node, 1, "dim", 0)) % node.meta["val"].dim()
    # torch ignores legacy empty tensors of shape [0] in a concatenation; MIL has no empty tensors
    parts = [a for a in node.args[0] if builder.shape_of(a)[axis if rank_of(a) > 1 else 0] != 0]  # type: ignore[union-attr]
    return concat(builder, [builder.tensor(a, dtype) for a in parts], axis)


def _stack(builder: ProgramBuilder, node: fx.Node) -> Var:
    dtype = dtype_of(node)
    axis = int(argument_of(node, 1, "dim", 0)) % node.meta["val"].dim()
    return builder.add("stack", values=[builder.tensor(a, dtype) for a in node.args[0]], axis=axis)  # type: ignore[union-attr]


def _split(builder: ProgramBuilder, node: fx.Node) -> tuple[Var, ...]:
    axis = axis_of(node, 2)
    sizes = [builder.size(value.shape[axis]) for value in node.meta["val"]]
    var = builder.tensor(node.args[0])
    if len(sizes) == 1:
        return (var,)
    if all(isinstance(s, int) and s > 0 for s in sizes) and isinstance(
        builder.shape_of(node.args[0])[axis], int
    ):
        equal = len(set(sizes)) == 1
        how = {"num_splits": len(sizes)} if equal else {"split_sizes": sizes}
        return tuple(builder.add("split", x=var, axis=axis, **how))
    parts, start = [], sympy.Integer(0)
    for size in sizes:
        parts.append(slice_axis(builder, var, axis, builder.size(start), builder.size(start + size)))
        start += size
    return tuple(parts)


def _unbind(builder: ProgramBuilder, node: fx.Node) -> tuple[Var, ...]:
    axis = axis_of(node)
    var = builder.tensor(node.args[0])
    return tuple(_entry(builder, var, axis, i) for i in range(len(node.meta["val"])))


def _pad(builder: ProgramBuilder, node: fx.Node) -> Var:
    pads = pads_of(node)
    value = argument_of(node, 2, "value", 0)
    var = builder.tensor(node.args[0])
    shape = builder.shape_of(node.args[0])
    for axis, (before, behind) in enumerate(pads):
        if before < 0 or behind < 0:
            stop = shape[axis] + behind if behind < 0 else None
            var = slice_axis(builder, var, axis, max(0, -before), stop)
    begin, end = [max(0, before) for before, _ in pads], [max(0, behind) for _, behind in pads]
    return pad_constant(builder, var, begin, end, value)


def _flip(builder: ProgramBuilder, node: fx.Node) -> Var:
    rank = rank_of(node.args[0])
    axes = [int(a) % rank for a in node.args[1]]  # type: ignore[union-attr,arg-type]
    return builder.add("reverse", x=builder.tensor(node.args[0]), axes=axes)


def _gathered(builder: ProgramBuilder, op: str, x: Var, indices: Var, axis: int) -> Var:
    options = {"validate_indices": False} if builder.opset >= 17 else {}
    if op == "gather":
        options |= {"batch_dims": 0}  # type: ignore[dict-item]
    flags = builder.stored_type(x) == "bool"  # MIL gathers numbers only
    result = builder.add(
        op, x=builder.cast_to(x, "int32") if flags else x, indices=indices, axis=axis, **options
    )
    return builder.cast_to(result, "bool") if flags else result


def _index_select(builder: ProgramBuilder, node: fx.Node) -> Var:
    axis = axis_of(node)
    return _gathered(
        builder,
        "gather",
        builder.tensor(node.args[0]),
        _from_front(builder, node.args[2], node.args[0], axis),
        axis,
    )


def _from_front(builder: ProgramBuilder, indices: Any, source: Any, axis: int) -> Var:
    """Return indices as int32; constant ones that count from the end are counted from the front here."""
    var = builder.tensor(indices, torch.int64)
    size = builder.shape_of(source)[axis]
    value = var.val
    if value is not None and isinstance(size, int) and np.any(np.asarray(value) < 0):
        return builder.constant(np.where(value < 0, value + size, value).astype(np.int32))
    return var


def _gather(builder: ProgramBuilder, node: fx.Node) -> Var:
    axis = axis_of(node)
    x, indices = builder.tensor(node.args[0]), _from_front(builder, node.args[2], node.args[0], axis)
    wanted = builder.shape_of(node)
    for i, (own, size) in enumerate(zip(builder.shape_of(node.args[0]), wanted, strict=True)):
        if i != axis and own != size:
            x = slice_axis(builder, x, i, 0, size)
    return _gathered(builder, "gather_along_axis", x, indices, axis)


def _embedding(builder: ProgramBuilder, node: fx.Node) -> Var:
    return _gathered(
        builder, "gather", builder.tensor(node.args[0]), builder.tensor(node.args[1], torch.int64), 0
    )


def _repeat(builder: ProgramBuilder, node: fx.Node) -> Var:
    repeats: list[Any] = list(node.args[1])  # type: ignore[arg-type]
    var = builder.tensor(node.args[0])
    missing = len(repeats) - rank_of(node.args[0])
    if missing:
        var = reshape(builder, var, [*[1] * missing, *builder.shape_of(node.args[0])])
    return builder.add("tile", x=var, reps=builder.vector(repeats))


RULES: dict[str, Rule] = {
    "view": _view, "reshape": _view, "_unsafe_view": _view, "_reshape_copy": _view, "view_copy": _view,
    "permute": _permute, "transpose": _permute, "t": _permute, "expand": _expand, "unsqueeze": _unsqueeze,
    "squeeze": _squeeze, "slice": _slice, "select": _select, "cat": _cat, "stack": _stack, "split": _split,
    "split_with_sizes": _split, "unbind": _unbind, "constant_pad_nd": _pad, "flip": _flip,
    "index_select": _index_select, "gather": _gather, "embedding": _embedding, "repeat": _repeat,
}  # fmt: skip
