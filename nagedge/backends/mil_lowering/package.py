"""The .mlpackage of an ML Program: the files of a folder, the same bytes for the same program."""

from __future__ import annotations

import gc
import json
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from nagedge.backends.mil_lowering.lower import Lowered
from nagedge.backends.mil_lowering.sdk import import_coremltools, quiet
from nagedge.errors import UnsupportedOperatorError, first_line

__all__ = ["LARGEST_BATCH", "PASSES", "package"]

LARGEST_BATCH = 1024
"""Upper bound of a free batch: Core ML wants one."""

PASSES = ("common::dead_code_elimination",)
"""The passes of coremltools that run on a program.

The lowering writes what is to run. Constant folding above all must not: it would store what can be computed (a
transposed copy of a weight, a filled tensor). The serializer adds its own, which check inputs, outputs and names.
"""

_SPACE = uuid.UUID("6f3f3e4e-6b1c-5d0c-9b53-1f0d2c7f5a11")
_AUTHOR = "com.apple.CoreML"


def package(lowered: Lowered, *, opset: int, metadata: Mapping[str, str]) -> dict[str, bytes]:
    """Return the files of the ``.mlpackage``: inner path -> content.

    Args:
        lowered: the program; it is consumed.
        opset: number of the iOS version.
        metadata: texts that the model carries.

    Raises:
        UnsupportedOperatorError: coremltools refuses the program.
    """
    coremltools = import_coremltools()
    with quiet(), _frozen_memory():
        try:
            model = coremltools.convert(
                lowered.program,
                convert_to="mlprogram",
                inputs=[_input(coremltools, name, shape) for name, shape in lowered.inputs.items()],
                minimum_deployment_target=getattr(coremltools.target, f"iOS{opset}"),
                compute_precision=coremltools.precision.FLOAT32,
                skip_model_load=True,
                pass_pipeline=_pipeline(coremltools),
            )
            spec = model.get_spec()
        except Exception as error:
            raise UnsupportedOperatorError(
                f"coremltools {coremltools.__version__} cannot write the program: {first_line(error)}. "
                "Choose an onnxruntime target."
            ) from error
    names = [feature.name for feature in spec.description.output]
    assert names == list(lowered.outputs), f"coremltools renamed the outputs {lowered.outputs} to {names}"
    spec.description.metadata.ClearField("userDefined")
    for key, text in metadata.items():
        spec.description.metadata.userDefined[key] = text
    files = {f"Data/{_AUTHOR}/model.mlmodel": spec.SerializeToString(deterministic=True)}
    weights = Path(model.weights_dir) / "weight.bin" if model.weights_dir else None
    if weights is not None and weights.exists():
        files[f"Data/{_AUTHOR}/weights/weight.bin"] = weights.read_bytes()
    files["Manifest.json"] = _manifest(with_weights=len(files) > 1)
    return files


@contextmanager
def _frozen_memory() -> Iterator[None]:
    """Keep what is in memory out of the full garbage collections that ``convert`` asks for: half a second each."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _pipeline(coremltools: Any) -> Any:
    pipeline = coremltools.PassPipeline.EMPTY
    pipeline.passes = list(PASSES)
    return pipeline


def _input(coremltools: Any, name: str, shape: tuple[int | None, ...]) -> Any:
    sizes = [coremltools.RangeDim(1, LARGEST_BATCH, 1) if size is None else size for size in shape]
    return coremltools.TensorType(name=name, shape=tuple(sizes))


def _manifest(*, with_weights: bool) -> bytes:
    """Return Manifest.json; its identifiers are made from the paths, not drawn."""
    paths = {"model.mlmodel": "CoreML Model Specification"}
    if with_weights:
        paths["weights"] = "CoreML Model Weights"
    entries = {
        str(uuid.uuid5(_SPACE, name)): {
            "author": _AUTHOR, "description": text, "name": name, "path": f"{_AUTHOR}/{name}",
        }
        for name, text in paths.items()
    }  # fmt: skip
    root = str(uuid.uuid5(_SPACE, "model.mlmodel"))
    content = {"fileFormatVersion": "1.0.0", "itemInfoEntries": entries, "rootModelIdentifier": root}
    return json.dumps(content, indent=2, sort_keys=True).encode()
