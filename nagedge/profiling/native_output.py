"""What upstream's benchmark programs print, read: ``benchmark_model`` and ``onnxruntime_perf_test``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from nagedge.errors import DataError

__all__ = ["BenchmarkModelOutput", "PerfTestOutput", "parse_benchmark_model", "parse_perf_test"]

_NUMBER = r"(\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)"


@dataclass(frozen=True)
class BenchmarkModelOutput:
    """What TensorFlow Lite's or LiteRT's ``benchmark_model`` prints of a run.

    Args:
        init_us: opening the model. first_us: the first inference.
        count: inferences that were timed. mean_us, min_us, max_us, standard_deviation_us: of them.
        median_us: of them; None with versions that do not print it.
        memory_mb: what the process grew by, approximately; None where it is not told.
    """

    init_us: float
    first_us: float
    count: int
    mean_us: float
    min_us: float
    max_us: float
    standard_deviation_us: float
    median_us: float | None
    memory_mb: float | None


@dataclass(frozen=True)
class PerfTestOutput:
    """What ``onnxruntime_perf_test`` writes of a run.

    Args:
        durations_s: of each run. session_s: creating the session; None where it is not told.
        peak_bytes: the process's working set at most; None where it is not told.
    """

    durations_s: tuple[float, ...]
    session_s: float | None
    peak_bytes: int | None


def parse_benchmark_model(text: str) -> BenchmarkModelOutput:
    """Read what ``benchmark_model`` prints.

    The format is that of ``BenchmarkLoggingListener::OnBenchmarkEnd`` and of ``Stat::OutputToStream`` (tensorflow/lite/
    tools/benchmark/benchmark_model.cc, tensorflow/core/util/stats_calculator.h): a line ``count=... first=... curr=...
    min=... max=... avg=... std=...`` for the warm-up and another for the run, since 2.17 with ``p5``, ``median`` and
    ``p95``; then the summary.

    Raises:
        DataError: there is no summary in it.
    """
    summary = re.search(
        rf"Inference timings in us: Init: {_NUMBER}, First inference: {_NUMBER}, Warmup \(avg\): {_NUMBER}, "
        rf"Inference \(avg\): {_NUMBER}",
        text,
    )
    # A phase of one call prints no more than count and curr.
    runs = re.findall(
        rf"count=(\d+)(?: first={_NUMBER})? curr={_NUMBER}(?: min={_NUMBER} max={_NUMBER} avg={_NUMBER} std={_NUMBER})?"
        rf"(?: p5=\S+ median={_NUMBER})?",
        text,
    )
    if summary is None or not runs:
        raise DataError(_no_figures("benchmark_model", text))
    count, _, current, lowest, highest, _, deviation, median = runs[-1]
    memory = re.search(
        rf"Memory footprint delta from the start of the tool \(MB\): init=\S+ overall={_NUMBER}", text
    )
    return BenchmarkModelOutput(
        init_us=float(summary[1]), first_us=float(summary[2]), count=int(count), mean_us=float(summary[4]),
        min_us=float(lowest or current), max_us=float(highest or current),
        standard_deviation_us=float(deviation or 0), median_us=float(median) if median else None,
        memory_mb=float(memory[1]) if memory else None,
    )  # fmt: skip


def parse_perf_test(printed: str, written: str) -> PerfTestOutput:
    """Read what ``onnxruntime_perf_test`` prints and its result file.

    The file has a line ``model,seconds,peak_workingset_size,average_CPU_usage,run`` for each run
    (``PerformanceResult::DumpToFile``, onnxruntime/test/perftest/performance_result.h and test_configuration.h).

    Raises:
        DataError: the file has no run.
    """
    rows = re.findall(rf"^[^,\n]*,{_NUMBER},(\d+),\d+,\d+\s*$", written, re.MULTILINE)
    if not rows:
        raise DataError(_no_figures("onnxruntime_perf_test", printed))
    session = re.search(rf"Session creation time cost:\s*{_NUMBER} s", printed)
    return PerfTestOutput(
        durations_s=tuple(float(seconds) for seconds, _ in rows),
        session_s=float(session[1]) if session else None,
        peak_bytes=int(rows[-1][1]) or None,
    )


def _no_figures(program: str, text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if re.search(r"error|fail|unknown|not ", line, re.IGNORECASE)]
    said = (errors or lines or ["nothing"])[-1]
    return f"{program} gave no figures; it said: {said[:300]}"
