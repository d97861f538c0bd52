"""Lowerings that move data: each operator on ONNX Runtime as torch computes it, awkward arguments included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from lowering_harness import Lowering, case, check, flags, ints, lowered, normal
from torch import Tensor

from nagedge.backends.onnx_lowering.structure import RULES
from nagedge.errors import UnsupportedOperatorError

aten = torch.ops.aten


def permuted(sizes: list[int], order: list[int]) -> Callable[[Tensor], Tensor]:
    """Return a function that orders an image's axes, seen as ``[batch, *sizes]``, anew; some formats have five."""

    def function(x: Tensor) -> Tensor:
        ordered = aten.permute.default(aten.view.default(x, [x.shape[0], *sizes]), order)
        flat: Tensor = aten.reshape.default(ordered, [x.shape[0], -1])
        return flat

    return function


CASES: list[Lowering] = [
    # shapes
    case("view", "flatten", lambda x: aten.view.default(x, [x.shape[0], 6]), normal(2, 3)),
    case("view", "inferred size", lambda x: aten.view.default(x, [x.shape[0], -1, 2]), normal(2, 3)),
    case("view", "batch into rows", lambda x: aten.view.default(x, [x.shape[0] * 2, 3]), normal(2, 3)),
    case(
        "view",
        "two batches",
        lambda x: aten.view.default(aten.repeat.default(x, [1, x.shape[0]]), [x.shape[0], 1, x.shape[0]]),
        normal(1),
    ),
    case(
        "view",
        "no element",
        lambda x: aten.view.default(aten.slice.Tensor(x, 1, 2, 2), [x.shape[0], 3, 0]),
        normal(4, 3),
    ),
    case("view", "batch last", lambda x: aten.view.default(x, [2, x.shape[0], 3]), normal(2, 3)),
    case(
        "view",
        "to reshape",
        lambda x: aten.view.default(x, [x.shape[0], 6]),
        normal(2, 3),
        becomes=aten.reshape.default,
    ),
    case("_unsafe_view", "", lambda x: aten._unsafe_view.default(x, [x.shape[0], 6]), normal(2, 3)),
    case("_reshape_copy", "", lambda x: aten._reshape_copy.default(x, [x.shape[0], 6]), normal(2, 3)),
    case("view_copy", "", lambda x: aten.view_copy.default(x, [x.shape[0], 6]), normal(2, 3)),
    case("permute", "negative axes", lambda x: aten.permute.default(x, [-1, 0, -2]), normal(2, 3)),
    *[
        case("permute", label, permuted(sizes, order), normal(*image))
        for label, image, sizes, order in (
            ("phases, SpaceToDepth", (2, 6, 8), [2, 3, 2, 4, 2], [0, 3, 5, 1, 2, 4]),
            ("pixel_unshuffle", (2, 9, 12), [2, 3, 3, 4, 3], [0, 1, 3, 5, 2, 4]),
            ("phases, DepthToSpace", (18, 4, 5), [3, 3, 2, 4, 5], [0, 3, 4, 1, 5, 2]),
            ("pixel_shuffle", (18, 4, 5), [2, 3, 3, 4, 5], [0, 1, 4, 2, 5, 3]),
            ("unequal blocks", (2, 6, 12), [2, 3, 2, 4, 3], [0, 3, 5, 1, 2, 4]),
            ("six axes", (2, 6, 8), [2, 3, 2, 4, 2], [0, 5, 4, 3, 2, 1]),
        )
    ],
    case("transpose", "negative axes", lambda x: aten.transpose.int(x, -1, 0), normal(2, 3)),
    case("transpose", "to itself", lambda x: aten.transpose.int(x, 1, -2), normal(2, 3)),
    case("t", "matrix", aten.t.default, normal(3)),
    case("t", "vector", aten.t.default, normal()),
    case(
        "expand",
        "batch",
        lambda x, c: aten.add.Tensor(x, aten.expand.default(c, [x.shape[0], 3])),
        normal(3),
        constants=(torch.randn(1, 3),),
    ),
    case("expand", "over an image", lambda x: aten.expand.default(x, [-1, -1, 3, 5]), normal(4, 1, 1)),
    case("expand", "over columns", lambda x: aten.expand.default(x, [-1, -1, -1, 5]), normal(4, 3, 1)),
    case("expand", "over rows", lambda x: aten.expand.default(x, [-1, -1, 5, -1]), normal(4, 1, 3)),
    case("expand", "new axes", lambda x: aten.expand.default(x, [4, -1, -1, 3]), normal(2, 1)),
    case("expand", "nothing to do", lambda x: aten.expand.default(x, [-1, -1]), normal(2)),
    case(
        "expand",
        "whole numbers to the batch",
        lambda x, c: aten.expand.default(c, [2, x.shape[0]]),
        normal(),
        constants=(torch.tensor([[3], [4]]),),
    ),
    case("unsqueeze", "negative axis", lambda x: aten.unsqueeze.default(x, -1), normal(2)),
    case("unsqueeze", "first axis", lambda x: aten.unsqueeze.default(x, 0), normal(2)),
    case("squeeze", "negative axis", lambda x: aten.squeeze.dim(x, -2), normal(1, 2)),
    case("squeeze", "not of size one", lambda x: aten.squeeze.dim(x, 2), normal(1, 2)),
    case("squeeze", "several axes", lambda x: aten.squeeze.dims(x, [1, -1, 2]), normal(1, 2, 1)),
    case("squeeze", "all axes", aten.squeeze.default, normal(1, 2, 1)),
    # parts
    case("slice", "steps", lambda x: aten.slice.Tensor(x, -1, 1, 9, 3), normal(8)),
    case("slice", "negative bounds", lambda x: aten.slice.Tensor(x, 1, -4, -1), normal(6)),
    case("slice", "beyond the end", lambda x: aten.slice.Tensor(x, 1, 2, 100), normal(6)),
    case("slice", "everything", lambda x: aten.slice.Tensor(x, 1, 0, 9223372036854775807), normal(6)),
    case("slice", "of the batch", lambda x: aten.slice.Tensor(x, 0, 1, x.shape[0] - 1), normal(2)),
    case("slice", "half the batch", lambda x: aten.slice.Tensor(x, 0, 0, x.shape[0] // 2), normal(2)),
    case("slice", "last of the batch", lambda x: aten.slice.Tensor(x, 0, -1), normal(2)),
    case(
        "slice", "every second row", lambda x: aten.slice.Tensor(x, 0, 0, 9223372036854775807, 2), normal(2)
    ),
    case(
        "slice", "columns by the batch", lambda x: aten.slice.Tensor(x, 1, 0, x.shape[0] % 3 + 1), normal(6)
    ),
    case("select", "negative index", lambda x: aten.select.int(x, -1, -2), normal(4, 3)),
    case("select", "row", lambda x: aten.select.int(x, 0, 1), normal(3)),
    case("select", "last row by size", lambda x: aten.select.int(x, 0, x.shape[0] - 1), normal(3)),
    case("split", "uneven", lambda x: aten.split.Tensor(x, 3, -1), normal(7)),
    case("split", "one part", lambda x: aten.split.Tensor(x, 9, 1), normal(7)),
    case("split_with_sizes", "", lambda x: aten.split_with_sizes.default(x, [1, 4, 2], 1), normal(7)),
    case(
        "split_with_sizes",
        "the batch",
        lambda x: aten.split_with_sizes.default(x, [1, x.shape[0] - 1], 0),
        normal(7),
    ),
    case("unbind", "negative axis", lambda x: aten.unbind.int(x, -1), normal(2, 3)),
    case("flip", "two axes", lambda x: aten.flip.default(x, [-1, 0]), normal(2, 3)),
    case(
        "index_select",
        "",
        lambda x, i: aten.index_select.default(x, -1, i),
        normal(2, 5),
        constants=(torch.tensor([4, 0, 0, 2]),),
    ),
    case(
        "index_select", "rows by data", lambda x, i: aten.index_select.default(x, 0, i), normal(2), ints(0, 3)
    ),
    case("gather", "negative axis", lambda x, i: aten.gather.default(x, -1, i), normal(4), ints(0, 4, 2)),
    case(
        "gather", "smaller index", lambda x, i: aten.gather.default(x, 2, i), normal(3, 4), ints(0, 4, 2, 5)
    ),
    case(
        "embedding",
        "",
        lambda i, w: aten.embedding.default(w, i),
        ints(0, 5, 3),
        constants=(torch.randn(5, 2),),
    ),
    case(
        "embedding",
        "padding row, int32",
        lambda i, w: aten.embedding.default(w, i, 0),
        ints(0, 5, 3, dtype=torch.int32),
        constants=(torch.randn(5, 2),),
    ),
    case(
        "index",
        "one axis",
        lambda x, i: aten.index.Tensor(x, [None, i]),
        normal(5, 2),
        constants=(torch.tensor([[4, -1], [0, 2]]),),
    ),
    case("index", "rows", lambda x, i: aten.index.Tensor(x, [i]), normal(5), ints(-3, 3)),
    case(
        "index",
        "pairs, broadcast",
        lambda x, i, j: aten.index.Tensor(x, [i, j]),
        normal(5, 2),
        ints(0, 3, 1),
        ints(-5, 5, 4),
    ),
    case(
        "index",
        "pairs, the rest whole",
        lambda x, i, j: aten.index.Tensor(x, [i, j, None]),
        normal(5, 2),
        ints(0, 3),
        ints(0, 5),
    ),
    case(
        "_unsafe_index",
        "",
        lambda x, i: aten._unsafe_index.Tensor(x, [None, None, i]),
        normal(2, 5),
        constants=(torch.tensor([4, 1]),),
    ),
    # joins
    case("cat", "negative axis", lambda x, y: aten.cat.default([x, y, x], -1), normal(2, 3), normal(2, 1)),
    case("cat", "the batch", lambda x, y: aten.cat.default([x, y]), normal(2), normal(2)),
    case("cat", "mixed dtypes", lambda x, y: aten.cat.default([x, y], 1), ints(0, 9, 2), normal(2)),
    case(
        "cat",
        "old empty tensors",
        lambda x, c: aten.cat.default([c, x, c], 1),
        normal(2),
        constants=(torch.zeros(0),),
    ),
    case("cat", "no column", lambda x: aten.cat.default([x, aten.slice.Tensor(x, 1, 0, 0)], 1), normal(2)),
    case("cat", "one part", lambda x: aten.cat.default([x], 1), normal(2)),
    case("stack", "negative axis", lambda x, y: aten.stack.default([x, y], -1), normal(2), ints(0, 5, 2)),
    case("stack", "first axis", lambda x, y: aten.stack.default([x, y]), normal(2), normal(2)),
    # padding and repetition
    case(
        "constant_pad_nd",
        "value",
        lambda x: aten.constant_pad_nd.default(x, [1, 0, 0, 2], -1.5),
        normal(3, 2),
    ),
    case("constant_pad_nd", "crop", lambda x: aten.constant_pad_nd.default(x, [-1, -2]), normal(6)),
    case(
        "constant_pad_nd",
        "crop and pad",
        lambda x: aten.constant_pad_nd.default(x, [-1, 2, 3, -1], 0.5),
        normal(3, 4),
    ),
    case(
        "constant_pad_nd",
        "the batch",
        lambda x: aten.constant_pad_nd.default(x, [0, 0, 1, -1], 7),
        ints(0, 5, 2),
    ),
    case("constant_pad_nd", "flags", lambda x: aten.constant_pad_nd.default(x, [1, 1], True), flags(2)),
    case("constant_pad_nd", "nothing", lambda x: aten.constant_pad_nd.default(x, [0, 0]), normal(2)),
    case(
        "constant_pad_nd",
        "fraction into whole numbers",
        lambda x: aten.constant_pad_nd.default(x, [1, 1], 2),
        ints(0, 5, 2),
    ),
    case("repeat", "new axes", lambda x: aten.repeat.default(x, [2, 1, 3]), normal(2)),
    case("repeat", "the batch", lambda x: aten.repeat.default(x, [2, 3]), normal(2)),
    case("repeat", "as often as the batch", lambda x: aten.repeat.default(x, [1, x.shape[0]]), normal(2)),
    # writes
    case(
        "slice_scatter",
        "middle",
        lambda x, y: aten.slice_scatter.default(x, y, 1, 1, 4),
        normal(6),
        normal(3),
    ),
    case(
        "slice_scatter",
        "to the end",
        lambda x, y: aten.slice_scatter.default(x, y, -1, -2),
        normal(6),
        normal(2),
    ),
    case(
        "slice_scatter",
        "everything",
        lambda x, y: aten.slice_scatter.default(x, y, 1, 0, 99),
        normal(6),
        normal(6),
    ),
    case(
        "slice_scatter",
        "the batch but its last",
        lambda x: aten.slice_scatter.default(x, aten.slice.Tensor(x, 0, 1), 0, 0, -1),
        normal(2),
    ),
    case(
        "slice_scatter",
        "the first rows",
        lambda x, c: aten.slice_scatter.default(x, c, 0, 0, 2),
        normal(2),
        constants=(torch.ones(2, 2),),
    ),
    case(
        "slice_scatter",
        "another dtype",
        lambda x, y: aten.slice_scatter.default(x, y, 1, 0, 2),
        normal(4),
        ints(0, 5, 2),
    ),
    case(
        "select_scatter",
        "negative index",
        lambda x, y: aten.select_scatter.default(x, y, 1, -1),
        normal(3, 2),
        normal(2),
    ),
    case(
        "select_scatter", "first", lambda x, y: aten.select_scatter.default(x, y, -1, 0), normal(3), normal()
    ),
    case(
        "select_scatter",
        "last row",
        lambda x, c: aten.select_scatter.default(x, c, 0, -1),
        normal(3),
        constants=(torch.zeros(3),),
    ),
    case(
        "select_scatter",
        "second row",
        lambda x, c: aten.select_scatter.default(x, c, 0, 1),
        normal(3),
        constants=(torch.zeros(3),),
    ),
]


@pytest.mark.parametrize("item", CASES, ids=str)
def test_it_computes_what_torch_computes(item: Lowering) -> None:
    check(item)


def test_every_rule_has_a_case() -> None:
    assert set(RULES) - {item.lowers for item in CASES} == set()


def test_a_view_that_keeps_the_batch_needs_no_arithmetic_at_run_time() -> None:
    _, model = lowered(case("view", "", lambda x: aten.view.default(x, [x.shape[0], 6]), normal(2, 3)))
    assert [node.op_type for node in model.graph.node] == ["Reshape"]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        (
            case(
                "index",
                "mask",
                lambda x, m: aten.index.Tensor(x, [None, m]),
                normal(3),
                constants=(torch.tensor([True, False, True]),),
            ),
            "with a mask",
        ),
        (
            case(
                "index",
                "not leading",
                lambda x, i, j: aten.index.Tensor(x, [None, i, j]),
                normal(3, 2),
                constants=(torch.tensor([0, 2]), torch.tensor([1, 1])),
            ),
            "several index tensors that are not the leading ones",
        ),
        (
            case(
                "slice_scatter",
                "step",
                lambda x, y: aten.slice_scatter.default(x, y, 1, 0, 6, 2),
                normal(6),
                normal(3),
            ),
            "aten.slice_scatter with a step",
        ),
    ],
    ids=["mask", "not leading", "step"],
)
def test_what_has_no_lowering_is_refused(item: Lowering, says: str) -> None:
    with pytest.raises(UnsupportedOperatorError, match=says):
        lowered(item)


def test_pads_that_depend_on_the_batch_ask_for_a_fixed_one() -> None:
    item = case(
        "constant_pad_nd", "", lambda x: aten.constant_pad_nd.default(x, [0, 0, 0, x.shape[0]]), normal(2)
    )
    with pytest.raises(
        UnsupportedOperatorError, match=r"padded by the size s\d+, .*: fix the batch with --batch N"
    ):
        lowered(item)
