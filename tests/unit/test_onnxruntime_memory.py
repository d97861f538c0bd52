"""The plan of two steps requests of the arena what ONNX Runtime 1.31 was seen to, but for copies of a loop's states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from nagedge.runtimes import onnxruntime_memory
from nagedge.runtimes.arena import Arena
from nagedge.runtimes.onnxruntime_graph import _own_shape

ROWS = 256
ROW = 4096
"""Bytes of ``[256, 4]`` in single precision."""


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes taken, and less than zero given back, in order; small ones left out."""
    found: list[int] = []
    sizes: dict[int, int] = {}

    class Recorded(Arena):
        def take(self, size_bytes: int) -> int:
            address = super().take(size_bytes)
            sizes[address] = size_bytes
            found.append(size_bytes)
            return address

        def give(self, address: int) -> None:
            found.append(-sizes[address])
            super().give(address)

    monkeypatch.setattr(onnxruntime_memory, "Arena", Recorded)
    return found


def floats(name: str, *shape: int | str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def model(
    nodes: list[onnx.NodeProto],
    inputs: Mapping[str, tuple[int | str, ...]],
    outputs: Mapping[str, tuple[int | str, ...]],
    weights: Sequence[onnx.TensorProto] = (),
) -> bytes:
    given, results = ([floats(name, *shape) for name, shape in one.items()] for one in (inputs, outputs))
    graph = helper.make_graph(nodes, "step", given, results, weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    content: bytes = made.SerializeToString()
    return content


def test_a_choice_spreads_both_sides_first(requests: list[int]) -> None:
    nodes = [
        helper.make_node("Greater", ["x", "y"], ["more"]),
        helper.make_node("Where", ["more", "x", "y"], ["chosen"]),
        helper.make_node("ReduceSum", ["chosen"], ["loss"], keepdims=0),
    ]
    content = model(nodes, {"x": ("batch", 4), "y": ("batch", 4)}, {"loss": ()})
    planned = onnxruntime_memory.planned_step_bytes(content, ROWS)
    first = [ROW // 4, ROW, ROW, ROW, -ROW, -ROW, -ROW // 4, -ROW]
    block = ROW // 4 + ROW
    assert requests == [*first, block, ROW, ROW, -ROW, -ROW, -block]
    assert planned > 3 * ROW


def test_what_nobody_reads_stays_to_the_end(requests: list[int]) -> None:
    nodes = [
        helper.make_node("Split", ["x"], ["left", "right"], axis=1, num_outputs=2),
        helper.make_node("ReduceSum", ["left"], ["loss"], keepdims=0),
    ]
    onnxruntime_memory.planned_step_bytes(model(nodes, {"x": ("batch", 4)}, {"loss": ()}), ROWS)
    assert requests == [ROW // 2, ROW // 2, -ROW // 2, -ROW // 2, ROW, -ROW]


def test_a_transposed_convolution_has_columns(requests: list[int]) -> None:
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceSum", ["y"], ["loss"], keepdims=0),
    ]
    content = model(nodes, {"x": ("batch", 2, 8, 8), "w": (2, 3, 3, 3)}, {"loss": ()})
    onnxruntime_memory.planned_step_bytes(content, 2)
    columns, result = 3 * 9 * 64 * 4, 2 * 3 * 64 * 4
    assert requests == [result, columns, -columns, -result] * 2


def test_a_packed_weight_stays_in_the_arena(requests: list[int]) -> None:
    weight = onnx.numpy_helper.from_array(np.ones((2, 3, 3, 3), np.float32), "w")
    nodes = [
        helper.make_node("ConvTranspose", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("ReduceSum", ["y"], ["loss"], keepdims=0),
    ]
    content = model(nodes, {"x": ("batch", 2, 8, 8)}, {"loss": ()}, [weight])
    onnxruntime_memory.planned_step_bytes(content, 2)
    assert requests[0] == 2 * 3 * 9 * 4
    assert -requests[0] not in requests


def test_a_loop_takes_its_results_when_it_writes_them(requests: list[int]) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "token"], ["sum"]),
            helper.make_node("Mul", ["sum", "sum"], ["square"]),
            helper.make_node("Sub", ["square", "token"], ["next"]),
            helper.make_node("Neg", ["square"], ["kept"]),
        ],
        "body",
        [floats("state", "batch", 4), floats("token", "batch", 4)],
        [floats("next", "batch", 4), floats("kept", "batch", 4)],
    )
    nodes = [
        helper.make_node("Scan", ["first", "tokens"], ["last", "all"], body=body, num_scan_inputs=1),
        helper.make_node("ReduceSum", ["all"], ["loss"], keepdims=0),
    ]
    content = model(nodes, {"first": ("batch", 4), "tokens": (5, "batch", 4)}, {"loss": ()})
    onnxruntime_memory.planned_step_bytes(content, ROWS)
    results = 5 * ROW
    first = [ROW, ROW, ROW, -ROW, ROW, results, -ROW, 2 * ROW, -2 * ROW, -ROW, -results, -ROW]
    block = results + ROW
    assert requests == [*first, block, ROW, 2 * ROW, -2 * ROW, 2 * ROW, -2 * ROW, -ROW, -block]


@pytest.mark.parametrize(
    ("op", "attributes", "outputs", "given", "expected"),
    [
        ("ReorderInput", {}, ["y"], (8, 192, 6, 5), (8, 192, 6, 5)),
        ("ReorderInput", {"channels_last": 1}, ["y"], (8, 6, 5, 192), (8, 192, 6, 5)),
        ("GlobalAveragePool", {}, ["y"], (8, 16, 6, 5), (8, 16, 1, 1)),
        ("Split", {"axis": -1}, ["y", "z"], (8, 6, 5, 16), (8, 6, 5, 8)),
        ("Split", {}, ["y", "z"], (8, 6), (4, 6)),
        ("Conv", {"strides": [2, 2], "pads": [1, 1, 1, 1]}, ["y"], (8, 16, 6, 5), (8, 32, 3, 3)),
    ],
)
def test_the_shapes_of_nodes_that_the_optimiser_made(
    op: str,
    attributes: dict[str, int | list[int]],
    outputs: list[str],
    given: tuple[int, ...],
    expected: tuple[int, ...],
) -> None:
    node = helper.make_node(op, ["x", "w"], outputs, **attributes)
    assert _own_shape(node, {"x": given}, {"w": (32, 16, 3, 3)}) == expected
