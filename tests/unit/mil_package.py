"""A saved ML Program, small and sound, and the tools to damage it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mil_harness import normal, quiet, saved

__all__ = ["WEIGHT", "block_of", "edit_manifest", "edit_model", "model_of", "network", "op_of", "weights_of"]

WEIGHT = normal(16, 8, seed=1)


def network(folder: Path) -> Path:
    """Save ``relu(linear(x))`` of ``x`` ``[2, 8]``; the weight's record is the first of its file."""

    def build(x: Any) -> Any:
        from coremltools.converters.mil.mil import Builder as mb  # noqa: N813

        weight = mb.const(val=WEIGHT, name="weight")
        return mb.relu(x=mb.linear(x=x, weight=weight, name="product"), name="result")

    return saved(build, {"x": normal(2, 8)}, folder)


def weights_of(package: Path) -> Path:
    return package / "Data/com.apple.CoreML/weights/weight.bin"


def model_of(package: Path) -> Path:
    return package / "Data/com.apple.CoreML/model.mlmodel"


def edit_model(package: Path, change: Callable[[Any], Any]) -> None:
    """Change the specification's message and write it back."""
    with quiet():
        from coremltools.proto import Model_pb2
    model = Model_pb2.Model()
    model.ParseFromString(model_of(package).read_bytes())
    change(model)
    model_of(package).write_bytes(model.SerializeToString())


def edit_manifest(package: Path, change: Callable[[Any], Any]) -> None:
    """Change Manifest.json in place, or write what ``change`` returns."""
    path = package / "Manifest.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(change(document) or document))


def block_of(model: Any) -> Any:
    function = model.mlProgram.functions["main"]
    return function.block_specializations[function.opset]


def op_of(model: Any, kind: str) -> Any:
    return next(op for op in block_of(model).operations if op.type == kind)
