"""What runs in the environment of onnxruntime-training 1.19.2: its own gradients, and steps of its training loop.

    python ort_process.py generate FOLDER [SITE_PACKAGES]   forward.onnx and losses.json -> the four training artifacts
    python ort_process.py serve FOLDER                      one step a line of standard input; prints its seconds

It imports nothing of NagEdge. ``onnxruntime.training`` needs torch and onnx, which come from ``SITE_PACKAGES``, the
packages of the environment that runs the benchmark; steps need neither.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np


def generate(folder: Path, site_packages: str) -> None:
    """Write ``training_model.onnx``, ``eval_model.onnx``, ``optimizer_model.onnx`` and ``checkpoint``: plain SGD."""
    sys.path.append(site_packages)
    import onnx
    from onnxruntime.training import artifacts, onnxblock

    wanted = json.loads((folder / "losses.json").read_text())

    class SumOfLosses(onnxblock.Block):
        """The mean loss of every task, summed."""

        def __init__(self) -> None:
            super().__init__()
            kinds = {"classification": onnxblock.loss.CrossEntropyLoss, "regression": onnxblock.loss.MSELoss}
            self.losses = [kinds[kind]() for _, kind in wanted["tasks"]]
            self.add = onnxblock.blocks.Add()

        def build(self, *outputs: str) -> str:
            total = ""
            for name, (task, _), loss in zip(outputs, wanted["tasks"], self.losses, strict=True):
                value = loss(name, labels_name=f"target.{task}") if "CrossEntropy" in type(loss).__name__ else loss(
                    name, target_name=f"target.{task}"
                )  # fmt: skip
                total = self.add(total, value) if total else value
            return total

    model = onnx.load(folder / "forward.onnx")
    model.ir_version = 9
    artifacts.generate_artifacts(
        model, requires_grad=wanted["trained"], frozen_params=wanted["frozen"], loss=SumOfLosses(),
        optimizer=artifacts.OptimType.SGD, artifact_directory=str(folder),
    )  # fmt: skip
    for path in folder.glob("*_model.onnx"):  # onnx stamps them with a version that the runtime refuses
        written = onnx.load(path)
        written.ir_version = 9
        onnx.save(written, path)


def serve(folder: Path) -> None:
    """Step on the arrays of ``feeds.npz`` each time a line comes in."""
    from onnxruntime.capi import _pybind_state as ort

    ort.set_default_logger_severity(3)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.set_denormal_as_zero", "1")
    device = ort.OrtDevice(ort.OrtDevice.cpu(), ort.OrtDevice.default_memory(), 0)
    checkpoint = ort.load_checkpoint(str(folder / "checkpoint"))
    module = ort.Module(str(folder / "training_model.onnx"), checkpoint, None, device, options)
    optimizer = ort.Optimizer(str(folder / "optimizer_model.onnx"), checkpoint, device, options)
    optimizer.set_learning_rate(1e-4)
    with np.load(folder / "feeds.npz") as arrays:
        feeds = [np.ascontiguousarray(arrays[name]) for name in module.input_names(True)]
    print("ready", flush=True)
    for _ in sys.stdin:
        started = time.process_time()
        module.train_step(feeds, ort.OrtValueVector())
        optimizer.optimizer_step()
        module.lazy_reset_grad()
        print(time.process_time() - started, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "generate":
        generate(Path(sys.argv[2]), sys.argv[3])
    else:
        serve(Path(sys.argv[2]))
