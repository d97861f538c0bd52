"""Operators that move data: views, slices, concatenation, padding, gathers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import sympy  # type: ignore[import-untyped]  # ships no types
import torch
from torch import fx

from nagedge.backends.onnx_lowering.builder import GraphBuilder
from nagedge.backends.traced import (
    argument_of,
    axis_of,
    dtype_of,
    fake_of,
    order_of,
    pads_of,
    rank_of,
    squeezed_axes,
)
from nagedge.errors import UnsupportedOperatorError

__all__ = ["RULES"]

Rule = Callable[[GraphBuilder, fx.Node], Any]
_END = np.iinfo(np.int64).max

_SPLIT, _UNSHUFFLE = [0, 3, 5, 1, 2, 4], [0, 1, 3, 5, 2, 4]
"""``[batch, C, h, s, w, s]`` to one image a phase: phases before channels, and behind them (``pixel_unshuffle``)."""
_JOIN, _SHUFFLE = [0, 3, 4, 1, 5, 2], [0, 1, 4, 2, 5, 3]
"""Back again: from ``[batch, s, s, C, h, w]``, and from ``[batch, C, s, s, h, w]`` (``pixel_shuffle``)."""


def reshape(builder: GraphBuilder, name: str, sizes: Sequence[Any]) -> str:
    """Reshape; one size that depends on the batch becomes -1, which needs no computation at run time."""
    resolved = [builder.size(s) for s in sizes]
    symbolic = [i for i, s in enumerate(resolved) if isinstance(s, sympy.Expr)]
    if len(symbolic) == 1 and 0 not in resolved:
        resolved[symbolic[0]] = -1
    empty = 1 if 0 in resolved else None  # else 0 means "as the input"
    return builder.add("Reshape", [name, builder.shape(resolved)], allowzero=empty)


def _view(builder: GraphBuilder, node: fx.Node) -> str:
    return reshape(builder, builder.tensor(node.args[0]), list(node.meta["val"].shape))


def _permute(builder: GraphBuilder, node: fx.Node) -> str:
    order, name = order_of(node), builder.tensor(node.args[0])
    if len(order) == 6 and dtype_of(node) == torch.float32:
        sizes, moved = fake_of(node.args[0]).shape, node.meta["val"].shape
        found = _phases(builder, name, order, sizes, moved) if _all_known(sizes[1:]) else None
        if found is not None:
            return found
    return name if len(order) < 2 else builder.add("Transpose", [name], perm=order)


def _phases(
    builder: GraphBuilder, name: str, order: Sequence[int], sizes: Sequence[Any], moved: Sequence[Any]
) -> str | None:
    """Write the transpositions of 6 axes that ONNX has an operator for, with reshapes, which copy nothing.

    ONNX Runtime 1.31 takes 0.62 ms for that of ``[16, 16, 14, 2, 14, 2]`` as Transpose, 0.08 ms as SpaceToDepth; and
    back 0.60 and 0.26 ms.
    """
    order = list(order)
    if order in (_SPLIT, _UNSHUFFLE) and sizes[3] == sizes[5]:
        batch, channels, height, block, width, _ = sizes
        image = reshape(builder, name, [batch, channels, height * block, width * block])
        deep = builder.add("SpaceToDepth", [image], blocksize=int(block))
        if order == _SPLIT:
            return reshape(builder, deep, moved)
        apart = reshape(builder, deep, [batch, block * block, channels, height * width])
        return reshape(builder, builder.add("Transpose", [apart], perm=[0, 2, 1, 3]), moved)
    block, channels = (sizes[1], sizes[3]) if order == _JOIN else (sizes[2], sizes[1])
    if order in (_JOIN, _SHUFFLE) and block == (sizes[2] if order == _JOIN else sizes[3]):
        deep = reshape(builder, name, [sizes[0], channels * block * block, sizes[4], sizes[5]])
        mode = "DCR" if order == _JOIN else "CRD"
        image = builder.add("DepthToSpace", [deep], blocksize=int(block), mode=mode)
        return reshape(builder, image, moved)
    return None


def _all_known(sizes: Sequence[object]) -> bool:
    return all(isinstance(size, int) for size in sizes)


def _expand(builder: GraphBuilder, node: fx.Node) -> str:
    source, result = fake_of(node.args[0]).shape, node.meta["val"].shape
    offset = len(result) - len(source)
    # A size the input already has may be given as 1: ONNX Expand broadcasts both ways.
    sizes = [
        1 if i >= offset and str(source[i - offset]) == str(size) else size for i, size in enumerate(result)
    ]
    name = builder.tensor(node.args[0])
    if all(isinstance(s, int) and s == 1 for s in sizes) and offset == 0:
        return name
    cells = _repeated_cells(source, result)
    if cells is not None and dtype_of(node) == torch.float32:
        column = builder.add("Reshape", [name, builder.ints([-1, 1])])
        row = builder.constant(np.ones((1, cells), np.float32))
        return reshape(builder, builder.add("MatMul", [column, row]), result)
    return builder.add("Expand", [name, builder.shape(sizes)])


def _repeated_cells(source: Sequence[Any], result: Sequence[Any]) -> int | None:
    """Return how often each value of ``[batch, C, 1, 1]`` is repeated in a row, as in the gradient of a global mean.

    As a product with ones ONNX Runtime 1.31 does that for ``[8, 960, 3, 3]`` in 0.02 ms, as Expand in 0.16 ms. None for
    another kind of expansion.
    """
    if len(source) != len(result) or len(source) < 3 or not _all_known(result[1:]):
        return None
    alike = [str(a) == str(b) for a, b in zip(source, result, strict=True)]
    axes = len(alike) - alike.index(False) if False in alike else 0
    repeated = not any(alike[-axes:]) and all(str(size) == "1" for size in source[-axes:])
    return math.prod(result[-axes:]) if axes and repeated else None


def _unsqueeze(builder: GraphBuilder, node: fx.Node) -> str:
    axis = int(node.args[1]) % (rank_of(node.args[0]) + 1)  # type: ignore[arg-type]
    return builder.add("Unsqueeze", [builder.tensor(node.args[0]), builder.ints([axis])])


def _squeeze(builder: GraphBuilder, node: fx.Node) -> str:
    axes = squeezed_axes(node)
    name = builder.tensor(node.args[0])
    return builder.add("Squeeze", [name, builder.ints(axes)]) if axes else name


def slice_axis(builder: GraphBuilder, name: str, axis: int, start: Any, end: Any, step: int = 1) -> str:
    """Slice one axis; ``start`` and ``end`` may depend on the batch."""
    return builder.add(
        "Slice",
        [name, builder.shape([start]), builder.shape([end]), builder.ints([axis]), builder.ints([step])],
    )


def _slice(builder: GraphBuilder, node: fx.Node) -> str:
    axis = axis_of(node)
    start = argument_of(node, 2, "start", None)
    end = argument_of(node, 3, "end", None)
    step = argument_of(node, 4, "step", 1)
    start = 0 if start is None else start
    end = _END if end is None else end
    name = builder.tensor(node.args[0])
    if (
        start == 0
        and step == 1
        and str(fake_of(node.args[0]).shape[axis]) == str(node.meta["val"].shape[axis])
    ):
        return name
    return slice_axis(builder, name, axis, start, end, step)


def _select(builder: GraphBuilder, node: fx.Node) -> str:
    axis = axis_of(node)
    index = builder.tensor(node.args[2], torch.int64)
    return builder.add("Gather", [builder.tensor(node.args[0]), index], axis=axis)


def _cat(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    axis = int(argument_of(node, 1, "dim", 0)) % node.meta["val"].dim()
    # torch ignores legacy empty tensors of shape [0] in a concatenation
    parts = [a for a in node.args[0] if not (rank_of(a) == 1 and fake_of(a).shape[0] == 0)]  # type: ignore[union-attr]
    names = [builder.tensor(a, dtype) for a in parts]
    return names[0] if len(names) == 1 else builder.add("Concat", names, axis=axis)


def _stack(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    axis = int(argument_of(node, 1, "dim", 0)) % node.meta["val"].dim()
    parts = [
        builder.add("Unsqueeze", [builder.tensor(a, dtype), builder.ints([axis])])
        for a in node.args[0]  # type: ignore[union-attr]
    ]
    return builder.add("Concat", parts, axis=axis)


def _split(builder: GraphBuilder, node: fx.Node) -> tuple[str, ...]:
    rank = rank_of(node.args[0])
    axis = int(argument_of(node, 2, "dim", 0)) % rank
    sizes = [value.shape[axis] for value in node.meta["val"]]
    name = builder.tensor(node.args[0])
    if len(sizes) == 1:
        return (name,)
    return builder.add_many("Split", [name, builder.shape(sizes)], len(sizes), axis=axis)


def _unbind(builder: GraphBuilder, node: fx.Node) -> tuple[str, ...]:
    axis = axis_of(node)
    name = builder.tensor(node.args[0])
    return tuple(
        builder.add("Gather", [name, builder.constant(np.int64(i))], axis=axis)
        for i in range(len(node.meta["val"]))
    )


def _pad(builder: GraphBuilder, node: fx.Node) -> str:
    dtype = dtype_of(node)
    value = argument_of(node, 2, "value", 0)
    name = builder.tensor(node.args[0])
    pads = pads_of(node)
    for axis, (before, behind) in enumerate(pads):
        # ONNX Pad with negative sizes is not dependable across runtimes: crop with Slice
        if before < 0 or behind < 0:
            stop = behind if behind < 0 else _END
            name = slice_axis(builder, name, axis, max(0, -before), stop)
    added = [max(0, before) for before, _ in pads] + [max(0, behind) for _, behind in pads]
    if not any(added):
        return name
    return builder.add("Pad", [name, builder.ints(added), builder.scalar(value, dtype)])


def _flip(builder: GraphBuilder, node: fx.Node) -> str:
    rank = rank_of(node.args[0])
    axes = [int(a) % rank for a in node.args[1]]  # type: ignore[union-attr,arg-type]
    count = len(axes)
    return builder.add(
        "Slice",
        [
            builder.tensor(node.args[0]),
            builder.ints([-1] * count),
            builder.ints([np.iinfo(np.int64).min] * count),
            builder.ints(axes),
            builder.ints([-1] * count),
        ],
    )


def _index_select(builder: GraphBuilder, node: fx.Node) -> str:
    axis = axis_of(node)
    return builder.add("Gather", [builder.tensor(node.args[0]), builder.tensor(node.args[2])], axis=axis)


def _gather(builder: GraphBuilder, node: fx.Node) -> str:
    axis = axis_of(node)
    return builder.add(
        "GatherElements", [builder.tensor(node.args[0]), builder.tensor(node.args[2])], axis=axis
    )


def _embedding(builder: GraphBuilder, node: fx.Node) -> str:
    return builder.add("Gather", [builder.tensor(node.args[0]), builder.tensor(node.args[1])], axis=0)


def _index(builder: GraphBuilder, node: fx.Node) -> str:
    indices: list[Any] = list(node.args[1])  # type: ignore[arg-type]
    given = [i for i, index in enumerate(indices) if index is not None]
    if len(given) == 1 and dtype_of(indices[given[0]]) != torch.bool:
        return builder.add(
            "Gather", [builder.tensor(node.args[0]), builder.tensor(indices[given[0]])], axis=given[0]
        )
    masks = any(dtype_of(index) == torch.bool for index in indices if index is not None)
    leading = given == list(range(len(given))) and not masks
    if not leading:
        raise UnsupportedOperatorError(
            "indexing with several index tensors that are not the leading ones, or with a mask, has no lowering: "
            "use torch.where, or index one axis at a time."
        )
    shape = list(torch.broadcast_shapes(*[fake_of(indices[i]).shape for i in given]))  # type: ignore[no-untyped-call]
    parts = []
    for i in given:
        expanded = builder.add("Expand", [builder.tensor(indices[i], torch.int64), builder.shape(shape)])
        parts.append(builder.add("Unsqueeze", [expanded, builder.ints([-1])]))
    return builder.add("GatherND", [builder.tensor(node.args[0]), builder.add("Concat", parts, axis=-1)])


def _repeat(builder: GraphBuilder, node: fx.Node) -> str:
    repeats = list(node.args[1])  # type: ignore[arg-type]
    source = fake_of(node.args[0])
    name = builder.tensor(node.args[0])
    extra = len(repeats) - source.dim()
    if extra:
        name = reshape(builder, name, [*[1] * extra, *source.shape])
    return builder.add("Tile", [name, builder.shape(repeats)])


def _scatter_into(builder: GraphBuilder, node: fx.Node, axis: int, start: Any, end: Any, source: str) -> str:
    """Replace ``[start, end)`` of one axis by ``source``, by concatenation."""
    base = builder.tensor(node.args[0])
    size = fake_of(node.args[0]).shape[axis]
    parts = [source]
    if builder.size(start) != 0:
        parts.insert(0, slice_axis(builder, base, axis, 0, start))
    if str(builder.size(end)) != str(size):
        parts.append(slice_axis(builder, base, axis, end, _END))
    return source if len(parts) == 1 else builder.add("Concat", parts, axis=axis)


def _slice_scatter(builder: GraphBuilder, node: fx.Node) -> str:
    axis = axis_of(node, 2)
    size: object = fake_of(node.args[0]).shape[axis]
    start, end = argument_of(node, 3, "start", None), argument_of(node, 4, "end", None)
    if argument_of(node, 5, "step", 1) != 1:
        raise UnsupportedOperatorError(
            "aten.slice_scatter with a step has no lowering: use torch.cat instead."
        )
    start = 0 if start is None else start
    end = size if end is None or (isinstance(end, int) and isinstance(size, int) and end > size) else end
    if isinstance(size, int):
        start = start + size if isinstance(start, int) and start < 0 else start
        end = end + size if isinstance(end, int) and end < 0 else end
    elif isinstance(end, int) and end >= _END:
        end = size
    return _scatter_into(builder, node, axis, start, end, builder.tensor(node.args[1], dtype_of(node)))


def _select_scatter(builder: GraphBuilder, node: fx.Node) -> str:
    axis = axis_of(node, 2)
    index = int(node.args[3])  # type: ignore[arg-type]
    size = builder.size(fake_of(node.args[0]).shape[axis])
    index = index + size if index < 0 else index
    source = builder.add("Unsqueeze", [builder.tensor(node.args[1], dtype_of(node)), builder.ints([axis])])
    return _scatter_into(builder, node, axis, index, index + 1, source)


RULES: dict[str, Rule] = {
    "view": _view, "reshape": _view, "_unsafe_view": _view, "_reshape_copy": _view, "view_copy": _view,
    "permute": _permute, "transpose": _permute, "t": _permute, "expand": _expand, "unsqueeze": _unsqueeze,
    "squeeze": _squeeze, "slice": _slice, "select": _select, "cat": _cat, "stack": _stack, "split": _split,
    "split_with_sizes": _split, "unbind": _unbind, "constant_pad_nd": _pad, "flip": _flip,
    "index_select": _index_select, "gather": _gather, "embedding": _embedding, "index": _index,
    "_unsafe_index": _index, "repeat": _repeat, "slice_scatter": _slice_scatter, "select_scatter": _select_scatter,
}  # fmt: skip
