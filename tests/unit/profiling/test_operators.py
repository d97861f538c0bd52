from __future__ import annotations

import json
from pathlib import Path

import pytest

from nagedge.errors import DataError
from nagedge.profiling.operators import parse_trace, read_trace


def run_event(ts: int, dur: int) -> dict[str, object]:
    return {
        "cat": "Session",
        "name": "model_run",
        "ts": ts,
        "dur": dur,
        "pid": 1,
        "tid": 1,
        "ph": "X",
        "args": {},
    }


def kernel(ts: int, dur: int, op: str, node: str, tid: int = 1) -> dict[str, object]:
    args = {"op_name": op, "provider": "CPUExecutionProvider", "node_index": "0"}
    return {
        "cat": "Node",
        "name": f"{node}_kernel_time",
        "ts": ts,
        "dur": dur,
        "pid": 1,
        "tid": tid,
        "args": args,
    }


def trace() -> list[dict[str, object]]:
    """Three steps of two MatMul and one Relu; the first step is ten times slower."""
    events: list[dict[str, object]] = [
        {"cat": "Session", "name": "session_initialization", "ts": 0, "dur": 900, "tid": 1, "args": {}}
    ]
    for start, factor in ((1_000, 10), (20_000, 1), (30_000, 1)):
        events += [
            kernel(start + 10, 300 * factor, "MatMul", "a"),
            kernel(start + 10 + 300 * factor, 100 * factor, "MatMul", "b"),
            kernel(start + 10 + 400 * factor, 100 * factor, "Relu", "r"),
            run_event(start, 600 * factor),
        ]
    return events


def test_rows_are_of_one_step_without_the_first() -> None:
    table = parse_trace(trace())
    assert (table.steps, table.skipped) == (2, 1)
    assert table.step_ms == pytest.approx(0.6)
    assert table.kernels_ms == pytest.approx(0.5)
    assert [(row.op_type, row.nodes, row.calls) for row in table.by_type] == [
        ("MatMul", 2, 2.0),
        ("Relu", 1, 1.0),
    ]
    assert table.by_type[0].total_ms == pytest.approx(0.4)
    assert [row.share for row in table.by_type] == pytest.approx([0.8, 0.2])
    assert [(row.node, row.nodes, row.calls) for row in table.by_node] == [
        ("a", 1, 1.0),
        ("b", 1, 1.0),
        ("r", 1, 1.0),
    ]


def test_one_interrupted_step_does_not_decide_who_is_slow() -> None:
    events: list[dict[str, object]] = []
    for step in range(8):
        start = 10_000 * step
        slow = 4_000 if step == 5 else 10
        events += [
            run_event(start, slow + 120),
            kernel(start + 5, 100, "Conv", "c"),
            kernel(start + 110, slow, "Add", "a"),
        ]
    table = parse_trace(events, skip=0)
    assert {row.op_type: row.total_ms for row in table.by_type} == pytest.approx({"Conv": 0.1, "Add": 0.01})
    assert table.by_type[0].op_type == "Conv"
    assert table.step_ms == pytest.approx(0.13)


def test_whole_microseconds_average_out() -> None:
    events = [run_event(100 * step, 10) for step in range(8)]
    events += [kernel(100 * step + 1, step % 2, "Relu", "r") for step in range(8)]
    assert parse_trace(events, skip=0).by_node[0].total_ms == pytest.approx(0.0005)


def test_all_steps_are_kept_when_there_is_only_one() -> None:
    table = parse_trace(trace()[:5], skip=3)
    assert (table.steps, table.skipped) == (1, 0)
    assert table.kernels_ms == pytest.approx(5.0)


def test_a_body_is_not_counted_twice() -> None:
    events = [
        run_event(0, 1000),
        kernel(10, 800, "Loop", "loop"),
        kernel(20, 300, "Add", "add"),
        kernel(320, 200, "Mul", "mul"),
        kernel(810, 100, "Relu", "after"),
    ]
    table = parse_trace(events)
    assert {row.op_type: row.total_ms for row in table.by_type} == pytest.approx(
        {"Loop": 0.3, "Add": 0.3, "Mul": 0.2, "Relu": 0.1}
    )
    assert sum(row.share for row in table.by_type) == pytest.approx(1.0)


def test_events_of_other_threads_do_not_nest() -> None:
    table = parse_trace(
        [run_event(0, 900), kernel(10, 800, "Conv", "a"), kernel(20, 300, "Conv", "b", tid=2)]
    )
    assert table.kernels_ms == pytest.approx(1.1)


def test_unknown_events_are_passed_over() -> None:
    assert parse_trace(
        [*trace(), {"ph": "M"}, "text", {"cat": "Node", "name": "x_fence_before"}]
    ) == parse_trace(trace())


@pytest.mark.parametrize(
    ("events", "text"),
    [
        ({}, "a trace is a JSON list of events, this is dict"),
        ([], "holds no 'model_run' event"),
        ([1], "holds no"),
    ],
)
def test_something_else_is_refused(events: object, text: str) -> None:
    with pytest.raises(DataError, match=text):
        parse_trace(events)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    path.write_text(json.dumps(trace()))
    assert read_trace(path).steps == 2
    path.write_text(json.dumps(trace())[:-20])
    with pytest.raises(DataError, match=r"trace '.*trace.json' cannot be read .* Trace again"):
        read_trace(path)
