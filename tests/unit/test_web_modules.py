"""The page's modules, in Node: they read what Python writes, and Python reads what they write."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import safetensors
import safetensors.numpy
from onnx import TensorProto, helper, numpy_helper

from nagedge.web.npm import node_command

HERE = Path(__file__).parent
ASSETS = HERE.parents[1] / "nagedge" / "web" / "assets"
WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def _model() -> onnx.ModelProto:
    """A model with one initializer of raw bytes, one of packed floats and one that nobody changes."""
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "weight", "bias"], ["y"])],
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
        [
            numpy_helper.from_array(WEIGHT, "weight"),
            helper.make_tensor("bias", TensorProto.FLOAT, [3], [1.0, 2.0, 3.0]),
            numpy_helper.from_array(np.ones(4, np.float32), "unchanged"),
        ],
    )
    return helper.make_model(graph, doc_string="x" * 300)  # lengths of more than one byte


def test_the_modules(tmp_path: Path) -> None:
    tensors = {
        "weight": WEIGHT,
        "ids": np.array([-1, 2**40]),
        "scalar": np.array(0.5, np.float32),
        "flags": np.array([True, False, True]),
        "unknown": np.ones(3, ml_dtypes.bfloat16),
    }
    safetensors.numpy.save_file(tensors, tmp_path / "python.safetensors", {"who": "python"})
    (tmp_path / "model.onnx").write_bytes(_model().SerializeToString())
    script = HERE / "test_web_modules.mjs"
    done = subprocess.run(
        [*node_command(), "--test-reporter=tap", str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    tests = len(re.findall(r'^test\("', script.read_text(encoding="utf-8"), re.MULTILINE))
    assert f"# pass {tests}\n" in done.stdout, done.stdout

    written = safetensors.numpy.load_file(tmp_path / "page.safetensors")
    assert written.keys() == tensors.keys() - {"unknown"}
    for name, array in written.items():
        np.testing.assert_array_equal(array, tensors[name], err_msg=name)
        assert array.dtype == tensors[name].dtype
    with safetensors.safe_open(tmp_path / "page.safetensors", "numpy") as file:
        assert file.metadata() == {"who": "page"}

    changed = onnx.load(tmp_path / "changed.onnx")
    onnx.checker.check_model(changed)
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in changed.graph.initializer}
    np.testing.assert_array_equal(values["weight"], WEIGHT + 10)
    np.testing.assert_array_equal(values["bias"], [-1, -2, -3])
    np.testing.assert_array_equal(values["unchanged"], np.ones(4))


def test_no_module_is_large_and_none_names_an_address() -> None:
    modules = sorted(ASSETS.glob("*.mjs"))
    assert len(modules) > 10
    for module in modules:
        text = module.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 400, module.name
        assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)", text) == [], module.name
        assert "innerHTML" not in text, "what a manifest says is text, never markup"
