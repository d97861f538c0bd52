"""What upstream's benchmark programs print, as they printed it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from nagedge.errors import DataError
from nagedge.profiling.native_output import BenchmarkModelOutput, parse_benchmark_model, parse_perf_test
from nagedge.profiling.on_native import tensor_proto

# Of TensorFlow 2.13's program on a Linux machine: MobileNet with per-operator profiling.
DESKTOP = """\
STARTING!
Log parameter values verbosely: [0]
Min num runs: [50]
Num threads: [4]
Graph: [./mobilenet_v1_1.0_224.tflite]
Enable op profiling: [1]
#threads used for CPU inference: [4]
Loaded model ./mobilenet_v1_1.0_224.tflite
The input model file size (MB): 16.9008
Initialized session in 17.187ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=1 curr=3512391

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=2990275 curr=2913402 min=2727568 max=3189954 avg=2.95034e+06 std=109798

Inference timings in us: Init: 17187, First inference: 3512391, Warmup (avg): 3.51239e+06, Inference (avg): 2.95034e+06
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your discretion.
Memory footprint delta from the start of the tool (MB): init=4.21094 overall=46.0859
"""
# Of TensorFlow 2.17's, on a board of an industrial vendor: every line has its level, and there are quantiles.
BOARD = """\
   INFO: STARTING!
   INFO: Initialized session in 5.579ms.
   INFO: Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
   INFO: count=1 curr=1357602 p5=1357602 median=1357602 p95=1357602

   INFO: Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
   INFO: count=50 first=1249964 curr=1240143 min=1238588 max=1252566 avg=1.24027e+06 std=2565 p5=1238753 median=1239807 p95=1247415

   INFO: Inference timings in us: Init: 5579, First inference: 1357602, Warmup (avg): 1.3576e+06, Inference (avg): 1.24027e+06
   INFO: Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your discretion.
   INFO: Memory footprint delta from the start of the tool (MB): init=6.36328 overall=109.832
"""
# Of an Android phone, 2021: the memory line had another wording.
PHONE = """\
count=50 first=249042 curr=250889 min=247067 max=254474 avg=249684 std=1442
Inference timings in us: Init: 16242, First inference: 360262, Warmup (avg): 304586, Inference (avg): 249684
Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual memory footprint of the model at runtime. Take the information at your discretion.
Peak memory footprint (MB): init=4.92969 overall=138.809
"""
SIGNATURES = """\
INFO: STARTING!
ERROR: Signature not specified or incorrect for graph with multiple signatures. Pass one of the following to the flag "--signature_to_run_for"
ERROR:  #> Signature key: infer
ERROR:  #> Signature key: train
ERROR: Failed to initialize the interpreter
ERROR: Benchmarking failed.
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            DESKTOP,
            BenchmarkModelOutput(17187, 3512391, 50, 2.95034e6, 2727568, 3189954, 109798, None, 46.0859),
        ),
        (BOARD, BenchmarkModelOutput(5579, 1357602, 50, 1.24027e6, 1238588, 1252566, 2565, 1239807, 109.832)),
        (PHONE, BenchmarkModelOutput(16242, 360262, 50, 249684, 247067, 254474, 1442, None, None)),
    ],
)
def test_benchmark_model_is_read(text: str, expected: BenchmarkModelOutput) -> None:
    assert parse_benchmark_model(text) == expected
    assert parse_benchmark_model(text.replace("\n", "\r\n")) == expected


def test_benchmark_model_without_figures_says_why() -> None:
    with pytest.raises(
        DataError, match=r"benchmark_model gave no figures; it said: ERROR: Benchmarking failed"
    ):
        parse_benchmark_model(SIGNATURES)
    with pytest.raises(DataError, match="it said: nothing"):
        parse_benchmark_model("")


# Of onnxruntime_perf_test 1.15 on a Pixel 6, one thread, ResNet-18; and the lines of its result file.
PRINTED = """\
Setting intra_op_num_threads to 1
Session creation time cost: 0.0508382 s
Total inference time cost: 1.9918 s
Total inference requests: 100
Average inference time cost: 19.918 ms
Total inference run time: 1.99202 s
Number of inferences per second: 50.2002
Avg CPU usage: 12 %
Peak working set size: 109531136 bytes
Avg CPU usage:12
Peak working set size:109531136
Runs:100
Min Latency: 0.0197812 s
P50 Latency: 0.0199047 s
"""
WRITTEN = """\
model,0.0197812,109531136,12,0
model,0.0202704,109531136,12,1
model,1.99047e-05,109531136,12,2

Min Latency is 0.0197812 sec
"""
OLD = (
    "Session creation time cost:0.31 s\nTotal inference time cost:58.8053 s\nTotal inference requests:1000\n"
)


def test_perf_test_is_read() -> None:
    found = parse_perf_test(PRINTED, WRITTEN)
    assert found.durations_s == (0.0197812, 0.0202704, 1.99047e-05)
    assert (found.session_s, found.peak_bytes) == (0.0508382, 109531136)
    assert parse_perf_test(OLD, "resnet,0.05,0,0,0\n").session_s == 0.31
    assert parse_perf_test("", "resnet,0.05,0,0,0\n").peak_bytes is None


def test_perf_test_without_figures_says_why() -> None:
    said = "Setting intra_op_num_threads to 1\nthere is no test input data for input x and model model\n"
    with pytest.raises(
        DataError, match=r"onnxruntime_perf_test gave no figures; it said: there is no test input"
    ):
        parse_perf_test(said, "")


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3), np.array(0.5, np.float32), np.array([-1, 2**40], np.int64),
        np.array([[True], [False]]), np.arange(300, dtype=np.uint8), np.zeros((0, 4), np.float32),
    ],
)  # fmt: skip
def test_inputs_are_onnxs_own_tensors(array: np.ndarray) -> None:
    read = onnx.TensorProto.FromString(tensor_proto("target.digit", array))
    assert read.name == "target.digit"
    got = onnx.numpy_helper.to_array(read)
    assert (got.dtype, got.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(got, array)
