"""Lowerings to TensorFlow Lite: each operator in LiteRT as torch computes it, awkward arguments included."""

from __future__ import annotations

import math

import pytest
import torch
from lowering_harness import Lowering, case, flags, ints, normal, uniform
from tflite_harness import check, kinds, lowered, sized_at_every_call, tables
from torch import Tensor

from nagedge.backends.tflite_lowering import serialize
from nagedge.backends.tflite_lowering.lower import RULES, RefusedOperatorError
from nagedge.graphs.decompositions import PORTABLE_OPS

aten = torch.ops.aten

REFUSED = {
    "bitwise_and-whole numbers": "of integers it has no TensorFlow Lite operator",
    "bitwise_or-whole numbers": "of integers it has no TensorFlow Lite operator",
    "bitwise_and-number": "of integers it has no TensorFlow Lite operator",
    "convolution-3-d": "over three axes it has no lowering",
    "max_pool2d_with_indices-indices": "the places of the maxima have no TensorFlow Lite operator",
    "max_pool2d_with_indices-without channels": "the places of the maxima have no TensorFlow Lite operator",
}

SHARED = [item for item in tables() if str(item) not in REFUSED]


def weight(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))) / math.sqrt(
        math.prod(shape[1:])
    )


def convolution(label: str, draw: object, w: Tensor, *arguments: object) -> Lowering:
    """Weights computed at run time: as a constant times an input that is one."""

    def function(x: Tensor, one: Tensor, w: Tensor) -> Tensor:
        result: Tensor = aten.convolution.default(x, w * one.amax(), None, *arguments)
        return result

    ones = uniform(1.0, 1.0)
    return case("convolution", label, function, draw, ones, constants=(w,), rtol=1e-5, atol=1e-5)


STEPS = [
    ("one axis", (..., slice(1, None, 2)), normal(3, 9)),
    ("an axis behind", (slice(None), slice(2, 8, 3), slice(1, 3)), normal(9, 4)),
    ("two axes", (..., slice(1, 8, 2), slice(0, 5, 3)), normal(9, 6)),
    ("maps", (..., slice(1, 8, 2), slice(0, 6, 2)), normal(3, 9, 6)),
    ("all axes", (slice(None), slice(0, 4, 2), slice(1, 9, 3), slice(0, 6, 2)), normal(4, 9, 6)),
    ("rows", (slice(0, None, 2),), normal(3)),
]
"""Places, and what they are taken of."""


def channels_last_steps(x: Tensor, w: Tensor) -> Tensor:
    """Steps in maps whose channels a convolution has laid last."""
    y = torch.relu(aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1))
    return y[:, :, 1::2, ::2] - y[:, :, ::2, ::2][:, :, :3]


def entries(x: Tensor) -> Tensor:
    """Entries of an axis that is stored first, of the whole and of its slices, joined again."""
    y = torch.mm(x.t(), x).sin().reshape(6, 2, 12)  # of no batch
    sources = [
        y,
        y[:, :, 3:7],
        y[1:, :, 8:],
        y[:, 1:],
        y[:, :, ::2],
        y.permute(0, 2, 1),
        y.permute(1, 0, 2)[:, 1:],
    ]
    joined = [torch.stack([s[..., t % s.shape[0], :, :] for t in (4, 0, 3, 2, 1, 0)], 0) for s in sources]
    return torch.cat([j.reshape(-1) for j in joined]) * x[:, :1]


def tokens(x: Tensor, w: Tensor) -> Tensor:
    """As a recurrent layer over time, batch and features reads and joins."""
    given = torch.mm(x.permute(1, 0, 2).reshape(-1, 6), w).reshape(6, -1, 6)
    first, second = given[:, :, :3], given[:, :, 3:]
    steps = [torch.tanh(first[t] + second[t]) for t in range(6)]
    stacked = torch.stack(steps)
    return (stacked + torch.stack(steps, 1).permute(1, 0, 2) + torch.stack(steps, 2).permute(2, 0, 1)).sum(0)


def transposed_product(x: Tensor) -> Tensor:
    """32 rows by 160 columns over all cells of the batch, the left factor stored transposed."""
    rows = x.reshape(-1, 32)
    return torch.mm(rows.t(), torch.cat([rows] * 5, 1))


OWN = [
    *(
        convolution(f"computed weights: {label}", draw, w, *arguments)
        for label, draw, w, arguments in [
            ("1x1", normal(4, 5, 6), weight(7, 4, 1, 1), ([1, 1], [0, 0], [1, 1], False, [0, 0], 1)),
            ("1x1, stride", normal(4, 5, 6), weight(7, 4, 1, 1), ([2, 2], [0, 0], [1, 1], False, [0, 0], 1)),
            ("3x3, stride", normal(4, 8, 8), weight(6, 4, 3, 3), ([2, 2], [1, 1], [1, 1], False, [0, 0], 1)),
            ("3x3, dilated", normal(4, 9, 8), weight(6, 4, 3, 3), ([1, 1], [2, 2], [2, 2], False, [0, 0], 1)),
            ("groups", normal(4, 7, 6), weight(6, 2, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 2)),
            ("depthwise", normal(4, 7, 6), weight(4, 1, 3, 5), ([1, 1], [1, 2], [1, 1], False, [0, 0], 4)),
            ("depthwise, two each", normal(3, 7, 6), weight(6, 1, 3, 3), ([2, 2], [1, 1], [1, 1], False, [0, 0], 3)),
            ("depthwise, dilated", normal(3, 9, 9), weight(3, 1, 3, 3), ([1, 1], [2, 2], [2, 2], False, [0, 0], 3)),
            ("transposed", normal(4, 5, 4), weight(4, 6, 3, 3), ([2, 2], [1, 1], [1, 1], True, [1, 1], 1)),
            ("transposed, 4x4", normal(4, 5, 4), weight(4, 6, 4, 4), ([2, 2], [1, 1], [1, 1], True, [0, 0], 1)),
            ("transposed, gaps", normal(4, 5, 4), weight(4, 6, 2, 2), ([3, 3], [0, 0], [1, 1], True, [0, 0], 1)),
            ("transposed, dilated", normal(4, 5, 4), weight(4, 2, 3, 3), ([2, 2], [2, 2], [2, 2], True, [1, 1], 1)),
            ("transposed, 3 by 2", normal(4, 5, 4), weight(4, 2, 3, 2), ([3, 2], [1, 0], [2, 3], True, [0, 1], 1)),
            ("transposed, groups", normal(4, 5, 4), weight(4, 3, 3, 3), ([1, 1], [1, 1], [1, 1], True, [0, 0], 2)),
            ("transposed, depthwise", normal(4, 5, 4), weight(4, 1, 5, 5), ([2, 2], [2, 2], [1, 1], True, [1, 1], 4)),
            ("transposed, cropped", normal(2, 5, 4), weight(2, 3, 2, 2), ([1, 1], [1, 1], [1, 1], True, [0, 0], 1)),
            ("narrow windows", normal(3, 9, 8), weight(5, 3, 3, 3), ([2, 1], [1, 2], [1, 1], False, [0, 0], 1)),
            ("few channels", normal(7, 6, 5), weight(5, 7, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)),
            ("few channels, stride", normal(7, 9, 8), weight(5, 7, 3, 3), ([2, 2], [1, 1], [1, 1], False, [0, 0], 1)),
            ("by taps", normal(16, 6, 5), weight(40, 16, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)),
            ("by taps, stride", normal(16, 9, 8), weight(40, 16, 3, 2), ([3, 2], [1, 0], [1, 1], False, [0, 0], 1)),
            ("by taps, dilated", normal(16, 9, 8), weight(40, 16, 3, 3), ([1, 1], [2, 2], [2, 2], False, [0, 0], 1)),
            ("product first", normal(16, 9, 8), weight(4, 16, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)),
            ("product first, wide", normal(16, 9, 8), weight(4, 16, 2, 3), ([1, 1], [1, 2], [2, 2], False, [0, 0], 1)),
            ("by blocks", normal(16, 9, 8), weight(4, 16, 3, 3), ([2, 2], [1, 1], [1, 1], False, [0, 0], 1)),
            ("by blocks of 9", normal(20, 11, 13), weight(3, 20, 4, 2), ([3, 3], [0, 1], [1, 1], False, [0, 0], 1)),
            ("by blocks, cropped", normal(16, 9, 9), weight(2, 16, 1, 2), ([4, 4], [0, 0], [1, 1], False, [0, 0], 1)),
            ("transposed, wide", normal(16, 5, 4), weight(16, 33, 3, 3), ([2, 2], [1, 1], [1, 1], True, [1, 1], 1)),
            ("one axis", normal(4, 9), weight(6, 4, 3), ([2], [1], [1], False, [0], 1)),
            ("one axis, transposed", normal(4, 9), weight(4, 6, 3), ([2], [1], [1], True, [1], 1)),
        ]
    ),
    case("bmm", "both factors stored transposed", lambda x: torch.bmm(x.mT, x.sin().mT), normal(4, 4)),
    case("mm", "cheaper the other way round", transposed_product, normal(250, 32), rtol=1e-5, atol=1e-4),
    *(case("slice", f"steps: {label}", lambda x, at=at: x[at] + 0, draw) for label, at, draw in STEPS),
    case("slice", "steps of channels last", channels_last_steps, normal(3, 7, 6), constants=(weight(5, 3, 1, 1),)),
    case("slice", "steps of whole numbers", lambda x: x[:, 1::3] + 1, ints(0, 9, 10)),
    case("select", "entries", entries, normal(12), rtol=1e-5, atol=1e-5),
    case("select", "tokens", tokens, normal(6, 6), constants=(weight(6, 6),), rtol=1e-5),
    case("hardswish", "at its edges", torch.ops.aten.hardswish.default, uniform(-4.0, 4.0, 40)),
    case("clamp", "from zero", lambda x: torch.clamp(x * 2.0, 0.0, 1.5), normal(5)),
    case("bmm", "an expanded factor", lambda x: torch.bmm(x, x[:1].expand(x.shape[0], -1, -1)), normal(3, 3)),
    case("sum", "over expanded axes", lambda x: (x[:, :1].expand(-1, 5) * 1.0).sum(1), normal(3)),
    case("mean", "channels of a map", lambda x: x.permute(0, 2, 3, 1).mean(3), normal(3, 4, 5)),
    case("cat", "maps in two orders", lambda x: torch.cat([x, x.permute(0, 1, 3, 2)], 2), normal(3, 4, 4)),
    case("expand", "rows times a number", lambda x: torch.cat([x.reshape(-1), x[0, :1].expand(x.numel())]), normal(6)),
    case("eq", "five axes that broadcast", lambda x: x.eq(x[:, :1, :, :1]), ints(0, 3, 2, 3, 2, 2)),
    case("where", "six axes", lambda c, x: torch.where(c[:, :, :1], x, x * 2), flags(*[2] * 5), normal(*[2] * 5)),
    case("permute", "six axes", lambda x: x.permute(0, 5, 1, 4, 2, 3).contiguous() + 1, normal(2, 3, 2, 3, 2)),
    case("erf", "finely", torch.erf, uniform(-5.0, 5.0, 400), rtol=0.0, atol=5e-7),
]  # fmt: skip


@pytest.mark.parametrize("item", [*SHARED, *OWN], ids=str)
def test_it_computes_what_torch_computes(item: Lowering) -> None:
    check(item)


@pytest.mark.parametrize(("label", "says"), REFUSED.items())
def test_what_has_no_lowering_is_refused(label: str, says: str) -> None:
    item = next(item for item in tables() if str(item) == label)
    with pytest.raises(RefusedOperatorError, match=says) as caught:
        lowered(item)
    assert caught.value.operator == f"aten.{item.rule}"


def test_every_portable_operator_has_a_rule() -> None:
    arithmetic_on_sizes = {"sym_size", "floordiv", "getitem"}
    assert PORTABLE_OPS - arithmetic_on_sizes <= RULES.keys()


def test_shapes_are_known_before_a_call() -> None:
    by_label = {str(item): item for item in [*SHARED, *OWN]}
    chosen = ["expand-rows times a number", "convolution-computed weights: transposed", "slice-two places"]
    for label in chosen:
        if label in by_label:
            assert sized_at_every_call(lowered(by_label[label])[1]) == []
    computed = case("slice", "all but the last rows", lambda x: x[:-2] + 1, normal(3))
    assert sized_at_every_call(lowered(computed)[1]) == ["STRIDED_SLICE"]


@pytest.mark.parametrize(
    "label", ["narrow windows", "few channels", "by taps", "product first", "1x1", "transposed"]
)
def test_xnnpack_could_take_a_convolution_with_computed_weights(label: str) -> None:
    """It takes CONV_2D and FULLY_CONNECTED with constant weights only, and no slices with steps."""
    item = next(item for item in OWN if str(item) == f"convolution-computed weights: {label}")
    subgraph = lowered(item, batch=4)[1]
    assert "BATCH_MATMUL" in kinds(subgraph)
    for operation in subgraph.operations:
        if operation.kind in ("CONV_2D", "FULLY_CONNECTED"):
            assert subgraph.tensors[operation.inputs[1]].data is not None
        if operation.kind == "STRIDED_SLICE":
            steps = subgraph.tensors[operation.inputs[3]].data
            assert steps is not None
            assert (steps != 2).all(), "the weights are turned round, nothing else"


def test_strides_become_blocks_where_outputs_are_few() -> None:
    item = next(item for item in OWN if str(item) == "convolution-computed weights: by blocks")
    names = kinds(lowered(item, batch=4)[1])
    assert names.count("SPACE_TO_DEPTH") == 1
    assert names.count("BATCH_MATMUL") == 1
    assert names.count("PAD") == 2, "of the input once, and of the weights"


def test_slices_with_steps_are_slices_of_one_rearranged_tensor() -> None:
    item = next(item for item in OWN if str(item) == "slice-steps of channels last")
    names = kinds(lowered(item, batch=4)[1])
    assert names.count("SPACE_TO_DEPTH") == 1
    assert "STRIDED_SLICE" not in names


def test_a_product_is_computed_in_the_cheaper_orientation() -> None:
    item = next(item for item in OWN if item.function is transposed_product)
    subgraph = lowered(item, batch=4)[1]
    (product,) = (o for o in subgraph.operations if o.kind == "BATCH_MATMUL")
    assert subgraph.tensors[product.outputs[0]].sizes == (160, 32)


def test_tokens_are_read_and_joined_without_a_reshape_of_each() -> None:
    item = next(item for item in OWN if item.function is tokens)
    made = kinds(lowered(item, batch=4)[1])
    assert made.count("SLICE") == 12
    assert made.count("RESHAPE") < 10, "6 are for the entries of a new last axis"
    assert sized_at_every_call(lowered(item)[1]) == []


def test_rows_of_one_index_are_scattered_whole() -> None:
    rows = next(
        item for item in SHARED if str(item) == "scatter_add-embedding's gradient, torch.int64, padding -1"
    )
    values = next(item for item in SHARED if str(item) == "scatter_add-values that meet")
    for item, updates in ((rows, 2), (values, 1)):
        subgraph = lowered(item, batch=4)[1]
        (scattered,) = (o for o in subgraph.operations if o.kind == "SCATTER_ND")
        assert len(subgraph.tensors[scattered.inputs[1]].sizes) == updates
        assert sized_at_every_call(lowered(rows)[1]) == []
        assert "EQUAL" not in kinds(subgraph), "a product with a one-hot matrix"


def both_ways(x: Tensor, w: Tensor) -> Tensor:
    y = aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
    y = aten.convolution.default(torch.relu(y), w, None, [1, 1], [0, 0], [1, 1], True, [0, 0], 1)
    matrix = w.reshape(48, 32)
    return torch.mm(torch.mm(y.mean((2, 3)), matrix.t()), matrix)


def test_a_constant_weight_is_read_in_both_directions_as_it_is_stored() -> None:
    """As in a step with frozen weights, forward and backward; turned round it would be computed at every call."""
    w = weight(48, 32, 1, 1)
    item = case("convolution", "both ways", both_ways, normal(32, 3, 3), constants=(w,), rtol=1e-5, atol=1e-5)
    check(item)
    subgraph = lowered(item, batch=4)[1]
    for operation in subgraph.operations:
        if operation.kind in ("CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL"):
            assert subgraph.tensors[operation.inputs[1]].data is not None
    assert len(serialize([subgraph])) < 1.5 * w.numel() * 4


def network(x: Tensor, w1: Tensor, w2: Tensor, w3: Tensor) -> Tensor:
    x = torch.relu(aten.convolution.default(x, w1, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1))
    y = aten.convolution.default(x, w2, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 4)
    x = torch.cat([x, torch.clamp(y, 0.0, 6.0)], 1)
    x = torch.nn.functional.pad(x, [1, 0, 0, 1]) * x.mean((2, 3), keepdim=True).sigmoid()
    return aten.convolution.default(x, w3, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1).mean((2, 3))


def test_a_convolutional_net_is_transposed_once_at_its_input() -> None:
    constants = (weight(4, 3, 3, 3), weight(4, 1, 3, 3), weight(5, 8, 1, 1))
    item = case("convolution", "net", network, normal(3, 6, 6), constants=constants, rtol=1e-5, atol=1e-5)
    check(item)
    names = kinds(lowered(item)[1])
    assert names.count("TRANSPOSE") == 1
    assert names[0] == "TRANSPOSE"
    assert "RELU" not in names, "an activation is fused into the convolution before it"
    assert "RELU6" not in names


def test_an_activation_of_joined_tensors_stays_by_itself() -> None:
    """The kernel that joins has the option of an activation and refuses it."""
    item = case("cat", "activated", lambda x, y: torch.relu(torch.cat([x, y], 1)), normal(3, 4), normal(2, 4))
    check(item)
    assert kinds(lowered(item)[1]) == ["CONCATENATION", "RELU"]


def test_values_in_two_orders_meet_in_the_one_that_both_have_already() -> None:
    """As the gradients that a max pool's windows hand on: each order is computed once, not at every meeting."""

    def meet(x: Tensor, w: Tensor) -> Tensor:
        rest = x * 2.0
        mask = aten.convolution.default(x, w, None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1)
        for _ in range(3):
            won = torch.where(mask > 0.1, rest, torch.zeros_like(rest))
            rest = rest - won * 0.5
        return rest

    item = case(
        "sub", "two orders", meet, normal(3, 4, 5), constants=(weight(3, 3, 1, 1),), rtol=1e-5, atol=1e-5
    )
    check(item)
    assert kinds(lowered(item)[1]).count("TRANSPOSE") <= 3, "of the input, the first rest and the result"


def test_what_is_expanded_or_filled_is_stored_as_one_number() -> None:
    item = case("add", "mask", lambda x: x + torch.full((64, 64), -1e4) * torch.ones(64, 64), normal(64, 64))
    _, subgraph = lowered(item)
    assert max(t.data.size for t in subgraph.tensors if t.data is not None) <= 2


def test_a_mask_of_positions_is_computed_not_stored() -> None:
    def masked(x: Tensor) -> Tensor:
        row, column = torch.arange(64), torch.arange(64)
        return torch.where(row[:, None] >= column[None, :], x, torch.full((), -1e4))

    item = case("where", "causal", masked, normal(64, 64))
    check(item)
    assert max(t.data.size for t in lowered(item)[1].tensors if t.data is not None) <= 64


def test_a_tensor_of_the_model_read_in_two_orders_is_stored_once() -> None:
    w = weight(40, 30)
    item = case(
        "mm",
        "there and back",
        lambda x, w: (x @ w).tanh() @ w.t(),
        normal(40),
        constants=(w,),
        rtol=1e-5,
        atol=1e-5,
    )
    check(item)
    _, subgraph = lowered(item)
    assert sum(t.data.size for t in subgraph.tensors if t.data is not None) < w.numel() + 64


def test_the_batch_is_minus_one_in_the_signature_and_one_at_first() -> None:
    from ai_edge_litert.interpreter import Interpreter

    from nagedge.backends.tflite_lowering import serialize

    item = case("add", "one", lambda x: x + 1, normal(3))
    interpreter = Interpreter(model_content=serialize([lowered(item)[1]]))
    (details,) = interpreter.get_signature_runner("case").get_input_details().values()
    assert list(details["shape_signature"]) == [-1, 3]
    assert list(details["shape"]) == [1, 3]
    fixed = Interpreter(model_content=serialize([lowered(item, batch=4)[1]]))
    (details,) = fixed.get_signature_runner("case").get_input_details().values()
    assert list(details["shape_signature"]) == [4, 3]


def test_outputs_that_are_inputs_constants_or_one_another_get_their_own_tensors() -> None:
    def same(x: Tensor, c: Tensor) -> list[Tensor]:
        y = x * 2
        return [x, y, y, c]

    check(case("mul", "outputs", same, normal(3), constants=(torch.arange(3.0),)))
