"""Lowerings that compute over axes: each operator on ONNX Runtime as torch computes it, awkward arguments included."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from lowering_harness import Lowering, case, check, flags, ints, lowered, normal, one_of, uniform
from torch import Tensor

from nagedge.backends.onnx_lowering.compute import RULES
from nagedge.backends.onnx_lowering.lower import RULES as ALL_RULES
from nagedge.errors import UnsupportedOperatorError

aten = torch.ops.aten


def weight(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) / math.sqrt(
        math.prod(shape[1:])
    )


def convolution(
    label: str,
    draw: object,
    w: Tensor,
    *,
    bias: int | None = None,
    transposed: bool = False,
    output_padding: object = (0, 0),
    stride: object = (1, 1),
    padding: object = (0, 0),
    dilation: object = (1, 1),
    groups: int = 1,
) -> Lowering:
    constants = (w,) if bias is None else (w, weight(bias))

    def function(x: Tensor, w: Tensor, b: Tensor | None = None) -> Tensor:
        result: Tensor = aten.convolution.default(
            x, w, b, stride, padding, dilation, transposed, output_padding, groups
        )
        return result

    return case("convolution", label, function, draw, constants=constants, rtol=1e-5, atol=1e-5)


def max_pool(label: str, draw: object, *arguments: object, indices: bool = False) -> Lowering:
    def function(x: Tensor) -> list[Tensor]:
        values, places = aten.max_pool2d_with_indices.default(x, *arguments)
        return [values, places] if indices else [values]

    return case("max_pool2d_with_indices", label, function, draw)


def pools() -> list[Lowering]:
    """Every combination of kernel, stride, padding, rounding and counting that torch allows, on two sizes."""
    items = []
    for size, kernel, stride, padding, ceil in itertools.product(
        ((7, 8), (5, 6)), ((2, 2), (3, 2)), ((2, 2), (1, 3), (3, 3)), ((0, 0), (1, 1), (1, 0)), (False, True)
    ):
        label = f"{size} kernel {kernel} stride {stride} padding {padding}{' ceil' if ceil else ''}"
        items.append(
            max_pool(label, normal(2, *size), list(kernel), list(stride), list(padding), [1, 1], ceil)
        )
        items += [
            case(
                "avg_pool2d",
                f"{label}{' counted' if counted else ''}",
                lambda x, k=kernel, s=stride, p=padding, c=ceil, n=counted: aten.avg_pool2d.default(
                    x, list(k), list(s), list(p), c, n
                ),
                normal(2, *size),
            )
            for counted in (True, False)
        ]
    return items


CASES: list[Lowering] = [
    # products
    case("mm", "", aten.mm.default, normal(3), constants=(weight(3, 4),)),
    case("mm", "batch inside", lambda x: aten.mm.default(aten.t.default(x), x), normal(3)),
    case(
        "mm", "as matmul", aten.mm.default, normal(3), constants=(weight(3, 4),), becomes=aten.matmul.default
    ),
    case("bmm", "", aten.bmm.default, normal(2, 3), normal(3, 4)),
    case(
        "bmm",
        "one matrix repeated",
        lambda x, w: aten.bmm.default(x, w.unsqueeze(0).expand(x.shape[0], 3, 4)),
        normal(2, 3),
        constants=(weight(3, 4),),
    ),
    case(
        "bmm",
        "one matrix repeated along two axes",
        lambda x, w: aten.bmm.default(x.reshape(-1, 2, 3), w.expand(x.shape[0], 5, 3, 4).reshape(-1, 3, 4)),
        normal(5, 2, 3),
        constants=(weight(3, 4),),
    ),
    case(
        "bmm",
        "several matrices repeated",
        lambda x, w: aten.bmm.default(
            x.reshape(-1, 2, 3), torch.stack([w, 2 * w]).expand(x.shape[0], 2, 3, 4).reshape(-1, 3, 4)
        ),
        normal(2, 2, 3),
        constants=(weight(3, 4),),
    ),
    case(
        "bmm",
        "one row repeated",
        lambda x, w: aten.bmm.default(x, w[:1].expand(x.shape[0], 3, 4)),
        normal(2, 3),
        constants=(weight(3, 4),),
    ),
    case("mv", "", aten.mv.default, normal(3), constants=(weight(3),)),
    case("dot", "", lambda x: aten.dot.default(x, x), normal()),
    case(
        "addmm",
        "bias",
        lambda x, w, b: aten.addmm.default(b, x, w),
        normal(3),
        constants=(weight(3, 4), weight(4)),
    ),
    case(
        "addmm",
        "scaled",
        lambda x, w, b: aten.addmm.default(b, x, w, beta=0.5, alpha=-2),
        normal(3),
        constants=(weight(3, 4), weight(1, 4)),
    ),
    case(
        "addmm",
        "column",
        lambda x, w, b: aten.addmm.default(b, aten.t.default(w), aten.t.default(x)),
        normal(3),
        constants=(weight(3, 4), weight(4, 1)),
    ),
    case(
        "addmm",
        "turned weight",
        lambda x, w, b: aten.addmm.default(b, x, aten.permute.default(w, [1, 0])),
        normal(3),
        constants=(weight(4, 3), weight(4)),
    ),
    case("baddbmm", "", aten.baddbmm.default, normal(2, 4), normal(2, 3), normal(3, 4)),
    case(
        "baddbmm",
        "scaled, broadcast",
        lambda x, y, b: aten.baddbmm.default(b, x, y, beta=0.5, alpha=3),
        normal(2, 3),
        normal(3, 4),
        constants=(weight(2, 1),),
    ),
    # convolutions
    convolution("plain", normal(3, 6, 7), weight(4, 3, 3, 2), bias=4),
    convolution(
        "stride, padding, dilation",
        normal(3, 9, 8),
        weight(4, 3, 3, 3),
        stride=(2, 1),
        padding=(1, 2),
        dilation=(2, 1),
    ),
    convolution("groups", normal(4, 6, 7), weight(6, 2, 3, 3), bias=6, groups=2),
    convolution("depthwise", normal(4, 6, 7), weight(8, 1, 3, 3), groups=4, padding=(1, 1)),
    convolution(
        "one number for all axes",
        normal(3, 6, 7),
        weight(4, 3, 3, 3),
        stride=(2,),
        padding=(1,),
        dilation=(1,),
        output_padding=(0,),
    ),
    convolution(
        "1-d", normal(3, 9), weight(4, 3, 3), stride=(2,), padding=(1,), dilation=(2,), output_padding=(0,)
    ),
    convolution(
        "3-d",
        normal(2, 4, 5, 4),
        weight(3, 2, 2, 3, 2),
        bias=3,
        stride=(1, 2, 1),
        padding=(1, 0, 1),
        dilation=(1, 1, 1),
        output_padding=(0, 0, 0),
    ),
    convolution(
        "transposed",
        normal(3, 4, 5),
        weight(3, 4, 3, 3),
        bias=4,
        transposed=True,
        stride=(2, 1),
        padding=(1, 0),
    ),
    convolution(
        "transposed, output padding",
        normal(3, 4, 5),
        weight(3, 4, 3, 3),
        transposed=True,
        stride=(3, 2),
        padding=(1, 1),
        output_padding=(2, 1),
        dilation=(1, 2),
    ),
    convolution(
        "transposed, groups", normal(4, 4, 5), weight(4, 3, 2, 2), transposed=True, groups=2, stride=(2, 2)
    ),
    convolution(
        "transposed, 1-d",
        normal(3, 7),
        weight(3, 2, 4),
        transposed=True,
        stride=(2,),
        padding=(1,),
        dilation=(1,),
        output_padding=(0,),
    ),
    # pooling
    *pools(),
    max_pool("default stride", normal(2, 6, 6), [3, 3]),
    max_pool("dilation", normal(2, 9, 9), [3, 2], [1, 2], [1, 0], [2, 3]),
    max_pool("dilation, ceil", normal(2, 9, 8), [2, 2], [2, 3], [0, 1], [2, 2], True),
    max_pool("indices", normal(2, 6, 5), [2, 2], [2, 2], [1, 1], [1, 1], True, indices=True),
    max_pool("without channels", normal(6, 6), [2, 2], indices=True),
    max_pool("negative values at the border", uniform(-9, -8, 2, 4, 4), [3, 3], [2, 2], [1, 1]),
    case(
        "avg_pool2d",
        "divisor",
        lambda x: aten.avg_pool2d.default(x, [3, 2], [2, 2], [1, 1], False, True, 5),
        normal(2, 6, 7),
    ),
    case(
        "avg_pool2d",
        "divisor, ceil, uncounted",
        lambda x: aten.avg_pool2d.default(x, [3, 2], [2, 2], [1, 0], True, False, 4),
        normal(2, 6, 7),
    ),
    case("avg_pool2d", "default stride", lambda x: aten.avg_pool2d.default(x, [2, 3]), normal(2, 6, 7)),
    case(
        "avg_pool2d",
        "without channels",
        lambda x: aten.avg_pool2d.default(x, [2, 2], [2, 2], [1, 1], True),
        normal(5, 5),
    ),
    case("avg_pool2d", "1-d, ceil", lambda x: aten.avg_pool1d.default(x, [3], [2], [1], True), normal(2, 6)),
    case(
        "avg_pool2d",
        "1-d, uncounted",
        lambda x: aten.avg_pool1d.default(x, [3], [2], [1], False, False),
        normal(2, 6),
    ),
    # reductions
    *(
        case(name, label, lambda x, o=op, a=axes, k=keep: o(x, a, k), draw, rtol=1e-5)
        for name, op in (
            ("sum", aten.sum.dim_IntList),
            ("mean", aten.mean.dim),
            ("amax", aten.amax.default),
            ("amin", aten.amin.default),
        )
        for label, axes, keep, draw in (
            ("last", [-1], False, normal(3, 4)),
            ("two, kept", [-1, 1], True, normal(3, 4)),
            ("the batch", [0], False, normal(3)),
            ("the batch, kept", [0, 1], True, normal(3)),
            ("no axis is all", [], False, normal(3)),
        )
    ),
    case("sum", "everything", aten.sum.default, normal(3, 2), rtol=1e-5),
    case("sum", "flags", lambda x: aten.sum.dim_IntList(x, [-1]), flags(9)),
    case(
        "sum",
        "whole numbers as floats",
        lambda x: aten.sum.dim_IntList(x, [1], dtype=torch.float32),
        ints(-9, 9, 5),
    ),
    case("mean", "everything", aten.mean.default, normal(3, 2), rtol=1e-5),
    case("prod", "axis", lambda x: aten.prod.dim_int(x, -1, True), uniform(0.5, 1.5, 4), rtol=1e-5),
    case("prod", "everything", aten.prod.default, uniform(0.8, 1.2, 4), rtol=1e-5),
    case("amax", "whole numbers", lambda x: aten.amax.default(x, [1]), ints(-9, 9, 5)),
    case("amax", "infinite", lambda x: aten.amax.default(x, [1]), one_of((-math.inf, math.inf, 0.0), 3)),
    *(
        case(name, label, function, draw)
        for name, packet in (("any", aten.any), ("all", aten.all))
        for label, function, draw in (
            ("axis", lambda x, p=packet: p.dim(x, -1), flags(3)),
            ("axis, kept", lambda x, p=packet: p.dim(x, 1, True), flags(3, 2)),
            ("axes", lambda x, p=packet: p.dims(x, [1, -1]), flags(3, 2)),
            ("everything", lambda x, p=packet: p.default(x), flags(3)),
            ("numbers", lambda x, p=packet: p.dim(x, 1), one_of((0.0, 0.0, 0.5, -3.0), 2)),
        )
    ),
    case("argmax", "axis", lambda x: aten.argmax.default(x, -1), normal(5)),
    case("argmax", "axis, kept", lambda x: aten.argmax.default(x, 1, True), normal(5, 2)),
    case("argmax", "first of equals", lambda x: aten.argmax.default(x, 1), ints(0, 2, 6)),
    case("argmax", "everything", aten.argmax.default, normal(5)),
    case("argmin", "axis", lambda x: aten.argmin.default(x, -2), normal(5, 2)),
    case("cumsum", "negative axis", lambda x: aten.cumsum.default(x, -1), normal(5), rtol=1e-5),
    case("cumsum", "the batch", lambda x: aten.cumsum.default(x, 0), normal(5), rtol=1e-5),
    case("cumsum", "flags", lambda x: aten.cumsum.default(x, 1), flags(5)),
    # normalisation
    case("_softmax", "negative axis", lambda x: aten._softmax.default(x, -1, False), normal(5)),
    case("_softmax", "middle axis", lambda x: aten._softmax.default(x, 1, False), normal(5, 2)),
    case(
        "_softmax",
        "masked",
        lambda x: aten._softmax.default(x, 1, False),
        one_of((0.0, -math.inf, 300.0, -300.0, 1.0), 5),
    ),
    case(
        "_log_softmax",
        "far",
        lambda x: aten._log_softmax.default(x, -1, False),
        one_of((0.0, 90.0, -90.0), 5),
        rtol=1e-5,
    ),
    case(
        "_native_batch_norm_legit_no_training",
        "affine",
        lambda x, w, b, m, v: aten._native_batch_norm_legit_no_training.default(x, w, b, m, v, 0.1, 1e-3)[0],
        normal(3, 4),
        constants=(weight(3), weight(3), weight(3), weight(3).abs() + 0.3),
        rtol=1e-5,
        atol=1e-5,
    ),
    case(
        "_native_batch_norm_legit_no_training",
        "plain, of vectors",
        lambda x, m, v: aten._native_batch_norm_legit_no_training.default(x, None, None, m, v, 0.1, 1e-5)[0],
        normal(3),
        constants=(weight(3), weight(3).abs() + 0.3),
        rtol=1e-5,
        atol=1e-5,
    ),
    case(
        "native_layer_norm",
        "affine",
        lambda x, w, b: aten.native_layer_norm.default(x, [5], w, b, 1e-5)[0],
        normal(2, 5),
        constants=(weight(5), weight(5)),
        rtol=1e-5,
        atol=1e-5,
    ),
    case(
        "native_layer_norm",
        "no bias",
        lambda x, w: aten.native_layer_norm.default(x, [5], w, None, 1e-6)[0],
        normal(2, 5),
        constants=(weight(5),),
        rtol=1e-5,
        atol=1e-5,
    ),
    case(
        "native_layer_norm",
        "plain, two axes",
        lambda x: aten.native_layer_norm.default(x, [2, 5], None, None, 1e-2)[0],
        normal(2, 5),
        rtol=1e-5,
        atol=1e-5,
    ),
]


@pytest.mark.parametrize("item", CASES, ids=str)
def test_it_computes_what_torch_computes(item: Lowering) -> None:
    check(item)


def test_every_rule_has_a_case() -> None:
    assert set(RULES) - {item.lowers for item in CASES} == set()


@pytest.mark.parametrize("opset", range(18, 24))
def test_every_opset_of_a_target_runs(opset: int) -> None:
    for label in ("mm-", "native_layer_norm-affine", "sum-last", "avg_pool2d-divisor", "amax-last"):
        check(next(item for item in CASES if str(item) == label), opset=opset)


def test_an_older_opset_is_refused() -> None:
    with pytest.raises(
        UnsupportedOperatorError, match="opset 17 is too old: the ONNX lowering needs 18 or newer"
    ):
        lowered(CASES[0], opset=17)


def test_an_operator_without_a_rule_is_named() -> None:
    assert "cummax" not in ALL_RULES
    with pytest.raises(
        UnsupportedOperatorError, match=r"^no ONNX lowering for aten\.cummax, aten\.lgamma\.$"
    ):
        lowered(case("cummax", "", lambda x: aten.lgamma.default(aten.cummax.default(x, 1)[0]), normal(3)))


def test_a_sum_with_a_product_reads_turned_matrices_as_they_are() -> None:
    def function(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return aten.addmm.default(b, x, aten.t.default(w))

    _, model = lowered(case("addmm", "", function, normal(3), constants=(weight(4, 3), weight(4))))
    assert [node.op_type for node in model.graph.node] == ["Gemm"]


def padded_convolution(pads: list[int], value: float) -> Lowering:
    """A convolution with a padding of its own of an image that was padded, and the sum of all that it read."""

    def function(x: Tensor, w: Tensor) -> Tensor:
        padded = aten.constant_pad_nd.default(x, pads, value)
        return aten.convolution.default(padded, w, None, [1, 2], [1, 0], [1, 1], False, [0, 0], 1)

    return case(
        "convolution", "", function, normal(2, 5, 6), constants=(weight(3, 2, 3, 2),), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(
    ("pads", "value", "operators"),
    [
        ([0, 1, 2, 0], 0.0, ["Conv"]),
        ([1, 0], 0.0, ["Conv"]),
        ([0, 1, 2, 0], 1.0, ["Pad", "Conv"]),
        ([-1, 1, 0, 0], 0.0, None),
        ([0, 0, 0, 0, 0, 0, 0, 1], 0.0, None),
    ],
)
def test_zeros_around_an_image_are_put_there_by_its_convolution(
    pads: list[int], value: float, operators: list[str] | None
) -> None:
    item = padded_convolution(pads, value)
    check(item)
    _, model = lowered(item)
    if operators is not None:
        assert [node.op_type for node in model.graph.node] == operators


def test_a_size_without_a_lowering_says_what_to_do() -> None:
    def function(x: Tensor) -> Tensor:
        result: Tensor = aten.mul.Tensor(x, torch.sym_max(x.shape[0], 6))
        return result

    with pytest.raises(
        UnsupportedOperatorError, match=r"computes the size Max\(6, s\d+\).*fix the batch with --batch N"
    ):
        lowered(case("mul", "", function, normal(3)))


def test_outputs_that_are_inputs_constants_or_one_another_get_their_own_names() -> None:
    def function(x: Tensor, c: Tensor) -> list[Tensor]:
        y = aten.add.Tensor(x, 1)
        return [x, y, y, c, aten.alias.default(x)]

    item = case("add", "", function, normal(2), constants=(torch.ones(2),))
    _, model = lowered(item)
    assert [output.name for output in model.graph.output] == ["y0", "y1", "y2", "y3", "y4"]
    check(item)


def test_the_batch_is_named_and_unused_constants_are_left_out() -> None:
    _, model = lowered(
        case("add", "", lambda x, c: aten.add.Tensor(x, 1), normal(2), constants=(torch.ones(2),))
    )
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert (shape[0].dim_param, shape[1].dim_value) == ("batch", 2)
    assert [tensor.name for tensor in model.graph.initializer if tensor.name.startswith("c0")] == []
