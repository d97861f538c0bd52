"""ONNX Runtime's own gradients: ``onnxruntime.training.artifacts`` of the same forward pass, with its plain SGD.

Its gradients lack Hardswish, Hardsigmoid and others (and it has no momentum): a model that needs them is refused. Its
gradient of ``GRU`` makes a graph that it does not load: recurrent layers are unrolled for it.
"""

from __future__ import annotations

import json
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import onnx
import torch

from nagedge.backends.onnx_lowering import lower_to_onnx
from nagedge.bundle import FORWARD_FILE, Bundle
from nagedge.errors import NagEdgeError
from nagedge.graphs.inference import trace_inference
from nagedge.graphs.serialization import forward_from_json
from nagedge.runtimes.isolation import ENVIRONMENTS, ensure
from tests.benchmarks.sides.exported import TARGET, export_for
from tests.benchmarks.sides.ort_training import PROCESS, available, serve
from tests.benchmarks.workloads import Workload

__all__ = ["available", "prepare"]


def _forward(bundle: Bundle) -> onnx.ModelProto:
    """Return the forward pass in operators that it has gradients of."""
    forward = forward_from_json(bundle.text(FORWARD_FILE), where=str(bundle.path))
    state = {name: torch.tensor(value) for name, value in bundle.params().items()}
    graph = trace_inference(forward, state)
    opset = bundle.manifest.targets[TARGET].opset
    assert opset is not None  # an ONNX target has one
    return lower_to_onnx(graph.module, graph.inputs, graph.outputs, graph.state, opset=opset, name="forward")


def prepare(workload: Workload, folder: Path) -> Callable[[], float]:
    bundle = export_for(workload, TARGET, folder)
    at = folder / "generated"
    at.mkdir()
    forward = _forward(bundle)
    onnx.save(forward, at / "forward.onnx")
    trained = list(bundle.manifest.training.parameters) if bundle.manifest.training else []
    floats = [t.name for t in forward.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    if missing := set(trained) - set(floats):
        raise NagEdgeError(f"the forward pass holds {min(missing)} in another form.")
    kinds = {task.name: task.kind for task in workload.tasks}
    losses = {
        "tasks": [[output.name, kinds[output.name]] for output in forward.graph.output],
        "trained": trained,
        "frozen": [name for name in floats if name not in trained],
    }
    (at / "losses.json").write_text(json.dumps(losses))
    done = subprocess.run(
        [str(ensure(ENVIRONMENTS["ort_training"])), str(PROCESS), "generate", str(at), sysconfig.get_path("purelib")],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise NagEdgeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    feeds = {bundle.manifest.inputs[0].name: workload.example.numpy()}
    for output in forward.graph.output:
        value = workload.targets[output.name]
        flat = kinds[output.name] == "classification"
        feeds[f"target.{output.name}"] = value if flat else value.reshape(len(value), -1)
    return serve(at, feeds, folder)
