"""Time by operator, from the trace that ONNX Runtime writes when a session has profiling switched on.

The trace slows the session down, so it is taken in a run of its own and never mixed with the timed one: it tells
how time is *shared*, :mod:`nagedge.profiling.measure` tells how much there is.
"""

from __future__ import annotations

import bisect
import json
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nagedge.errors import DataError

__all__ = ["OperatorRow", "OperatorTable", "parse_trace", "read_trace"]

_KERNEL = "_kernel_time"


@dataclass(frozen=True)
class OperatorRow:
    """One node, or one operator type summed over its nodes.

    Args:
        op_type: the ONNX operator, or the runtime's fused one. node: the node's name; empty in a sum.
        nodes: how many nodes are summed, 1 for a node.
        calls: per step. total_ms: per step, nested subgraphs excluded. share: of the time of all nodes, in [0, 1].
    """

    op_type: str
    node: str
    nodes: int
    calls: float
    total_ms: float
    share: float


@dataclass(frozen=True)
class OperatorTable:
    """Where a step's time goes.

    Args:
        steps: traced steps that the figures are interquartile means of. skipped: earlier ones, left out as warm-up.
        step_ms: duration of a traced step; longer than an untraced one.
        kernels_ms: of which inside operators; the rest is the runtime's own.
        by_type, by_node: rows in falling order of time.
    """

    steps: int
    skipped: int
    step_ms: float
    kernels_ms: float
    by_type: tuple[OperatorRow, ...]
    by_node: tuple[OperatorRow, ...]


@dataclass(frozen=True)
class _Event:
    start_us: float
    duration_us: float
    thread: int
    op_type: str
    node: str

    @property
    def end_us(self) -> float:
        return self.start_us + self.duration_us


def read_trace(path: Path, *, skip: int = 1) -> OperatorTable:
    """Read the file that ``InferenceSession.end_profiling`` names; see :func:`parse_trace`.

    Raises:
        DataError: for a file that cannot be read or is no trace of ONNX Runtime.
    """
    try:
        events = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"trace {str(path)!r} cannot be read ({error}); expected the JSON file of ONNX Runtime's profiler. "
            "Trace again."
        ) from None
    return parse_trace(events, skip=skip)


def parse_trace(events: object, *, skip: int = 1) -> OperatorTable:
    """Sum the kernel events of a trace by node and by operator type.

    A node with a body (If, Loop, Scan) encloses the events of its body on the same thread; it is given the rest of
    its time only, so that the shares add up to one. A node's time is the interquartile mean of its steps: one step in
    which the system took the core away would else decide who is slow. Durations are whole microseconds in the
    trace, so a node of a few microseconds has a coarse figure.

    Args:
        events: the parsed JSON: a list of Chrome trace events with ``cat``, ``name``, ``ts``, ``dur``, ``args``.
        skip: steps to leave out at the beginning, as warm-up; at least one step is kept.

    Raises:
        DataError: for something else, or for a trace without a step.
    """
    runs, kernels = _events(events)
    skipped = min(skip, len(runs) - 1)
    kept = runs[skipped:]
    starts = [start for start, _ in kept]
    inside = [event for event in kernels if event.start_us >= starts[0]]
    steps = len(kept)
    spent: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0.0] * steps)
    calls: Counter[tuple[str, str]] = Counter()
    for event, own_us in zip(inside, _exclusive_us(inside), strict=True):
        key = (event.op_type, event.node)
        spent[key][bisect.bisect_right(starts, event.start_us) - 1] += own_us
        calls[key] += 1
    time_ms = {key: _typical(by_step) / 1e3 for key, by_step in spent.items()}
    total_ms = math.fsum(time_ms.values())
    by_node = [
        OperatorRow(key[0], key[1], 1, calls[key] / steps, time, time / total_ms if total_ms else 0.0)
        for key, time in time_ms.items()
    ]
    return OperatorTable(
        steps=steps,
        skipped=skipped,
        step_ms=_typical([duration for _, duration in kept]) / 1e3,
        kernels_ms=total_ms,
        by_type=_slowest_first(_summed_by_type(by_node)),
        by_node=_slowest_first(by_node),
    )


def _typical(values: Sequence[float]) -> float:
    """The interquartile mean: a step that was interrupted does not count, and whole microseconds still average out."""
    ordered = sorted(values)
    cut = len(ordered) // 4
    middle = ordered[cut : len(ordered) - cut]
    return math.fsum(middle) / len(middle)


def _summed_by_type(rows: Sequence[OperatorRow]) -> list[OperatorRow]:
    groups: dict[str, list[OperatorRow]] = defaultdict(list)
    for row in rows:
        groups[row.op_type].append(row)
    return [
        OperatorRow(
            op_type=op_type,
            node="",
            nodes=len(group),
            calls=math.fsum(row.calls for row in group),
            total_ms=math.fsum(row.total_ms for row in group),
            share=math.fsum(row.share for row in group),
        )
        for op_type, group in groups.items()
    ]


def _slowest_first(rows: Sequence[OperatorRow]) -> tuple[OperatorRow, ...]:
    return tuple(sorted(rows, key=lambda row: (-row.total_ms, row.op_type, row.node)))


def _events(events: object) -> tuple[list[tuple[float, float]], list[_Event]]:
    """The (start, duration) of each step in microseconds, and the kernel events, both in order of time."""
    if not isinstance(events, list):
        raise DataError(
            f"a trace is a JSON list of events, this is {type(events).__name__}. Give the file that ONNX Runtime's "
            "end_profiling() names."
        )
    runs: list[tuple[float, float]] = []
    kernels: list[_Event] = []
    for event in events:
        try:
            name, category = str(event["name"]), event["cat"]
            start, duration = float(event["ts"]), float(event["dur"])
            if category == "Session" and name == "model_run":
                runs.append((start, duration))
            elif category == "Node" and name.endswith(_KERNEL):
                op_type = str(event["args"]["op_name"])
                kernels.append(
                    _Event(start, duration, int(event["tid"]), op_type, name.removesuffix(_KERNEL))
                )
        except (KeyError, TypeError, ValueError):
            continue  # other versions write further kinds of events
    if not runs:
        raise DataError(
            "the trace holds no 'model_run' event; expected at least one step. Run the session before end_profiling()."
        )
    return sorted(runs), sorted(kernels, key=lambda event: (event.start_us, -event.duration_us))


def _exclusive_us(events: Iterable[_Event]) -> list[float]:
    """Each event's duration without the events nested in it, in microseconds; events are in order of start."""
    own: list[float] = []
    open_on: dict[int, list[tuple[int, _Event]]] = defaultdict(list)
    for index, event in enumerate(events):
        own.append(event.duration_us)
        enclosing = open_on[event.thread]
        # Times are rounded to microseconds: an event that starts as another ends is its successor, not its child.
        while enclosing and not (
            event.start_us < enclosing[-1][1].end_us and event.end_us <= enclosing[-1][1].end_us
        ):
            enclosing.pop()
        if enclosing:
            parent = enclosing[-1][0]
            own[parent] = max(0.0, own[parent] - event.duration_us)
        enclosing.append((index, event))
    return own
