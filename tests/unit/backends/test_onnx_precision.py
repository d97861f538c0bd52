"""float16 and int8 artifacts: each computes what torch computes, within its target's tolerance."""

from __future__ import annotations

import functools
import logging
import re
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, numpy_helper
from precision_harness import MODELS, Arrays, difference, inference_of, lowered, rows, run, target
from torch import nn

from nagedge.backends.onnxruntime import lower
from nagedge.errors import ConfigurationError, DataError, UnsupportedOperatorError
from nagedge.graphs.inference import InferenceGraph

CONVERTED = ("fp16", "int8", "int8_dynamic")
CALIBRATION = {name: [rows(name, 32, seed=1), rows(name, 32, seed=2)] for name in MODELS}


def reference(model: nn.Module, inputs: Arrays) -> Any:
    with torch.no_grad():
        return model(torch.from_numpy(inputs["x"])).numpy()


@functools.cache
def infer(name: str, precision: str) -> bytes:
    return lowered(name, precision)["infer"][1]


def weights(content: bytes) -> dict[int, int]:
    """Return the number of values of each element type in the model's constants."""
    found: dict[int, int] = {}
    for tensor in onnx.load_from_string(content).graph.initializer:
        count = int(np.prod(tensor.dims, dtype=np.int64))
        found[tensor.data_type] = found.get(tensor.data_type, 0) + count
    return found


@pytest.mark.parametrize("precision", CONVERTED)
@pytest.mark.parametrize("name", MODELS)
def test_it_computes_what_torch_computes_at_any_batch_size(name: str, precision: str) -> None:
    model, _ = inference_of(name)
    wanted = target(precision)
    content = infer(name, precision)
    onnx.checker.check_model(onnx.load_from_string(content))
    for batch in (8, 5, 1):
        inputs = rows(name, batch, seed=9)
        expected, got = reference(model, inputs), run(content, inputs)
        assert list(got) == ["kind"]
        assert got["kind"].dtype == np.float32
        allowed = wanted.inference_atol + wanted.inference_rtol * np.abs(expected).max()
        assert np.abs(got["kind"] - expected).max() <= allowed, f"batch {batch}"


@pytest.mark.parametrize("precision", CONVERTED)
def test_inputs_outputs_and_operator_set_stay(precision: str) -> None:
    for name in ("cnn", "encoder"):
        float32, converted = (onnx.load_from_string(infer(name, p)).graph for p in ("fp32", precision))
        assert list(converted.input) == list(float32.input)
        assert list(converted.output) == list(float32.output)
    model = onnx.load_from_string(infer("cnn", precision))
    assert [(o.domain, o.version) for o in model.opset_import if not o.domain] == [("", 18)]
    assert {node.domain for node in model.graph.node} <= {"", "ai.onnx"}


def test_float16_holds_no_float32_weight() -> None:
    for name in ("residual", "gru", "encoder"):
        held = weights(infer(name, "fp16"))
        assert TensorProto.FLOAT not in held, name
        # not equal: what is computed from constants is folded before
        assert held[TensorProto.FLOAT16] >= 0.9 * weights(infer(name, "fp32"))[TensorProto.FLOAT], name


def test_float16_leaves_to_float32_what_its_kernels_get_wrong() -> None:
    """Grouped convolutions, but depthwise ones, and transpositions before a matrix product."""
    types = {
        "cnn": {1: TensorProto.FLOAT16, 4: TensorProto.FLOAT},
        "residual": dict.fromkeys((1, 8), TensorProto.FLOAT16),
    }
    for name, expected in types.items():
        graph = onnx.load_from_string(infer(name, "fp16")).graph
        kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
        found = {
            next((a.i for a in node.attribute if a.name == "group"), 1): kinds[node.input[1]]
            for node in graph.node
            if node.op_type == "Conv"
        }
        assert found == expected, name
    graph = onnx.load_from_string(infer("swapped", "fp16")).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert products
    assert "Transpose" not in {made_by.get(name) for node in products for name in node.input}


def test_float16_casts_once_what_is_read_twice() -> None:
    graph = onnx.load_from_string(infer("twice", "fp16")).graph
    casts = [name for node in graph.node for name in node.output if name.endswith("_cast_to_fp32")]
    readers = [node for node in graph.node if casts[0] in node.input]
    assert (len(casts), len(readers)) == (1, 2)


def test_float16_limits_what_half_cannot_hold() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 3))
    with torch.no_grad():
        model[0].bias.copy_(torch.tensor([1e6, 1e-12, float("-inf")]))
    got = run(_lowered(model, "fp16"), rows("mlp", 2))["kind"]
    assert np.isfinite(got[:, :2]).all()
    assert (got[:, 0] > 6e4).all()
    assert np.isneginf(got[:, 2]).all()


def test_int8_holds_its_weights_in_bytes() -> None:
    for name, precision in (
        ("cnn", "int8"),
        ("residual", "int8"),
        ("encoder", "int8"),
        ("encoder", "int8_dynamic"),
    ):
        before, after = weights(infer(name, "fp32")), weights(infer(name, precision))
        in_bytes = after.get(TensorProto.INT8, 0) + after.get(TensorProto.UINT8, 0)
        assert in_bytes > 0.7 * before[TensorProto.FLOAT], name
        assert after.get(TensorProto.FLOAT, 0) < 0.4 * before[TensorProto.FLOAT], name


def test_int8_becomes_integer_kernels(tmp_path: Path) -> None:
    """What ONNX Runtime makes of the model: no convolution and no linear layer is left in float."""
    from nagedge.runtimes.onnxruntime import import_onnxruntime

    ort = import_onnxruntime()
    for name, kernels in (
        ("cnn", {"QLinearConv", "QGemm"}),
        ("mlp", {"QGemm"}),
        ("gru", {"QGemm"}),
    ):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
        ort.InferenceSession(infer(name, "int8"), options, providers=["CPUExecutionProvider"])
        found = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
        assert kernels <= found, name
        assert not {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul"} & found, name


def test_int8_gives_every_channel_its_scale() -> None:
    model, _ = inference_of("units")
    content = infer("units", "int8")
    inputs = rows("units", 64, seed=9)
    expected, got = reference(model, inputs), run(content, inputs)["kind"]
    for output in range(3):
        assert difference(got[:, output], expected[:, output]) < 0.1


@pytest.mark.parametrize("name", ["mlp", "cnn", "gru"])
def test_int8_outputs_may_leave_the_range_of_the_calibration(name: str) -> None:
    model, graph = inference_of(name)
    narrow = [{"x": 0.3 * batch["x"]} for batch in CALIBRATION[name]]
    seen = max(np.abs(reference(model, batch)).max() for batch in narrow)
    with torch.no_grad():
        model.get_submodule("head" if name == "gru" else str(len(model) - 1)).bias += 10 * seen  # type: ignore[arg-type]
    content = _with_state(graph, model, "int8", narrow)
    inputs = {"x": 0.3 * rows(name, 4, seed=9)["x"]}
    assert difference(run(content, inputs)["kind"], reference(model, inputs)) < 0.01


@pytest.mark.parametrize("name", ["cnn", "gru"])
def test_int8_runs_on_processors_that_would_saturate(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their exact mode refuses weights that several operators share, as in a GRU: those are loaded without it."""
    from nagedge.runtimes import onnxruntime

    monkeypatch.setattr(onnxruntime, "_saturates", lambda: True)
    inputs = rows(name, 5, seed=9)
    (got,) = onnxruntime.load_session(infer(name, "int8")).run(None, inputs)
    np.testing.assert_allclose(got, run(infer(name, "int8"), inputs)["kind"], rtol=1e-3, atol=1e-3)


def test_a_weight_used_often_is_stored_once() -> None:
    for name, most in (("shared", 8 * 8 + 3 * 8), ("gru", 3 * 8 * (5 + 8) + 3 * 8 * 16 + 3 * 8)):
        for precision, kind in (("int8", TensorProto.INT8), ("int8_dynamic", TensorProto.INT8)):
            held = [
                int(np.prod(t.dims))
                for t in onnx.load_from_string(infer(name, precision)).graph.initializer
                if t.data_type == kind and len(t.dims) == 2
            ]
            assert sum(held) == most, (name, precision)


def test_names_inside_are_short_and_at_the_border_kept() -> None:
    graph = onnx.load_from_string(infer("residual", "int8")).graph
    assert max(len(tensor.name) for tensor in graph.initializer) <= 4
    assert [graph.input[0].name, graph.output[0].name] == ["x", "kind"]
    assert all(node.name for node in graph.node)


@pytest.mark.parametrize("precision", CONVERTED)
def test_the_same_model_gives_the_same_bytes(precision: str) -> None:
    assert infer("residual", precision) == lowered("residual", precision)["infer"][1]


def test_calibration_may_come_in_batches_of_any_size() -> None:
    _, graph = inference_of("cnn")
    whole = np.concatenate([batch["x"] for batch in CALIBRATION["cnn"]])
    pieces = [{"x": piece, "unused": piece} for piece in np.split(whole, [1, 4, 40])]
    contents = [
        lower(graph, None, target("int8"), calibration=c)["infer"][1] for c in ([{"x": whole}], pieces)
    ]
    assert contents[0] == contents[1]


@pytest.mark.parametrize("precision", ["fp32", *CONVERTED])
def test_a_target_may_fix_the_batch(precision: str) -> None:
    model, graph = inference_of("cnn")
    content = lower(graph, None, target(precision, batch=3), calibration=CALIBRATION["cnn"])["infer"][1]
    border = onnx.load_from_string(content).graph
    assert [v.type.tensor_type.shape.dim[0].dim_value for v in (*border.input, *border.output)] == [3, 3]
    inputs = rows("cnn", 3, seed=9)
    assert difference(run(content, inputs)["kind"], reference(model, inputs)) < 0.05
    with pytest.raises(Exception, match="Got: 4 Expected: 3"):
        run(content, rows("cnn", 4))


@pytest.mark.parametrize("precision", CONVERTED)
def test_a_graph_of_fixed_batch_is_converted_too(precision: str) -> None:
    model, graph = inference_of("gru", batch=4)
    content = lower(graph, None, target(precision), calibration=[rows("gru", 10, seed=1)])["infer"][1]
    inputs = rows("gru", 4, seed=9)
    assert difference(run(content, inputs)["kind"], reference(model, inputs)) < 0.1


def test_int8_without_calibration_says_what_to_give() -> None:
    _, graph = inference_of("mlp")
    text = (
        "target 'android-arm64-onnxruntime-int8' is int8: the ranges of its activations are taken from calibration "
        "data, and none was given. Give a few hundred examples of prepared inputs, or choose a target of precision "
        "'int8_dynamic', 'fp16' or 'fp32', which need none."
    )
    with pytest.raises(ConfigurationError, match=f"^{re.escape(text)}$"):
        lower(graph, None, target("int8"))


@pytest.mark.parametrize(
    ("batches", "text"),
    [
        ([{"y": np.zeros((4, 10), np.float32)}], r"batch 0: input 'x' is missing; got y\. Give every input\."),
        ([rows("mlp", 4), {"x": np.zeros((4, 9), np.float32)}], r"batch 1: .* \[4, 9\], expected \[batch, 10\]"),
        ([{"x": np.float32(1)}], r"has shape \[\], expected \[batch, 10\]"),
        ([{"x": np.zeros((4, 10), np.complex64)}], "has dtype complex64, expected float32"),
        ([{"x": np.full((4, 10), np.nan, np.float32)}], "holds NaN or infinite values"),
        ([{"x": np.zeros((0, 10), np.float32)}], "has no row: give a few hundred"),
    ],
)  # fmt: skip
def test_calibration_that_does_not_fit_is_refused(batches: list[Arrays], text: str) -> None:
    _, graph = inference_of("mlp")
    with pytest.raises(DataError, match=text):
        lower(graph, None, target("int8"), calibration=batches)


@pytest.mark.parametrize("precision", ["int8", "int8_dynamic"])
def test_a_model_with_nothing_to_quantise_is_refused(precision: str) -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(10))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tanh(x * self.scale)[:, :3]

    with pytest.raises(
        UnsupportedOperatorError, match=r"^target .* is 8-bit, and the model has no operator to quantise"
    ):
        _lowered(Scale(), precision, CALIBRATION["mlp"])


def test_convolutions_alone_are_no_matter_for_dynamic_quantisation() -> None:
    model = nn.Sequential(nn.Conv1d(1, 3, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten())
    with pytest.raises(UnsupportedOperatorError, match="no linear layer or lookup"):
        _lowered(nn.Sequential(nn.Unflatten(1, (1, 10)), model), "int8_dynamic")


def test_nothing_is_printed_logged_or_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    _, graph = inference_of("cnn")
    handlers = list(logging.getLogger().handlers)
    capfd.readouterr()
    for precision in CONVERTED:
        lower(graph, None, target(precision), calibration=CALIBRATION["cnn"])
    lower(graph, None, target("fp32", ort_format=True))
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger().handlers == handlers
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_constants_of_the_float_model_are_as_they_were() -> None:
    """A personal model is lowered again from its graph: no conversion may change what it was given."""
    model, graph = inference_of("shared")
    before = {key: value.clone() for key, value in graph.state.items()}
    for precision in CONVERTED:
        lower(graph, None, target(precision), calibration=CALIBRATION["shared"])
    assert all(torch.equal(before[key], value) for key, value in graph.state.items())
    content = lower(graph, None, target("fp32"))["infer"][1]
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load_from_string(content).graph.initializer}
    np.testing.assert_array_equal(
        stored["linear.weight"], model.get_parameter("linear.weight").detach().numpy()
    )


def _lowered(model: nn.Module, precision: str, calibration: Any = ()) -> bytes:
    """Lower a module of one's own from ten numbers to three."""
    from dataclasses import replace

    from nagedge.graphs.forward import trace_forward
    from nagedge.graphs.inference import trace_inference
    from nagedge.specs import TaskSpec

    example = torch.from_numpy(rows("mlp", 4)["x"])
    forward = trace_forward(model.eval(), example, (TaskSpec("kind", "classification", size=3),))
    forward = replace(forward, inputs=(replace(forward.inputs[0], name="x"),))
    full = {**dict(model.named_parameters()), **dict(model.named_buffers()), **forward.constants}
    graph = trace_inference(forward, {key: full[key].detach() for key in forward.state_names})
    return lower(graph, None, target(precision), calibration=calibration)["infer"][1]


def _with_state(graph: InferenceGraph, model: nn.Module, precision: str, calibration: Any) -> bytes:
    """Lower a traced graph with the module's present parameters, as a personal bundle is lowered again."""
    from dataclasses import replace

    full = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    state = {key: full[key].detach() if key in full else value for key, value in graph.state.items()}
    return lower(replace(graph, state=state), None, target(precision), calibration=calibration)["infer"][1]
