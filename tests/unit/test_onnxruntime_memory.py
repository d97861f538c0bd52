"""The plan of a step's memory: shapes of what ONNX Runtime's optimiser adds to a graph."""

from __future__ import annotations

import pytest
from onnx import helper

from nagedge.runtimes.onnxruntime_memory import _own_shape


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
