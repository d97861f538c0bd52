"""A pytest plugin: coremltools' own tests of its ops predict with the evaluator instead of Core ML.

They build programs, and compare what Core ML computes with numbers that were written down by hand or come from numpy or
torch. Without macOS they stop after the conversion; with this plugin they go on.
"""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import testing_utils
from coremltools.converters.mil.mil.ops.tests import testing_utils as vendor
from coremltools.models import utils

from nagedge.runtimes.mil_program import load_program

testing_utils._IS_MACOS = True
utils._is_macos = lambda: True
utils._macos_version = lambda: (15, 0)


def _program(model: ct.models.MLModel) -> Any:
    if not hasattr(model, "_evaluated"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.mlpackage"
            model.save(str(path))
            model._evaluated = load_program(path)
    return model._evaluated


def _predict(model: ct.models.MLModel, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
    program = _program(model)
    # Core ML takes floats for every input, and gives a vector where the program has a scalar.
    given = {
        name: np.asarray(value).reshape(
            np.asarray(value).shape if program.inputs[name].kind.shape != () else ()
        )
        for name, value in data.items()
    }
    outputs = program.run(given, state)
    return {
        name: value.reshape(1) if isinstance(value, np.ndarray) and value.shape == () else value
        for name, value in outputs.items()
    }


def _compare(mlmodel: Any, *args: Any, rtol: float = 1e-5, atol: float = 1e-4, **options: Any) -> Any:
    """Compare within what fp16 holds where the program computes in it; coremltools allows much more there, or less."""
    if any(kind in str(mlmodel._mil_program) for kind in ("fp16", "float16")):
        rtol, atol = max(rtol, 4e-3), max(atol, 4e-3)
    return _compare_backend(mlmodel, *args, rtol=rtol, atol=atol, **{**options, "dtype": "fp32"})


_compare_backend = testing_utils.compare_backend
testing_utils.compare_backend = vendor.compare_backend = _compare
ct.models.MLModel.predict = _predict
ct.models.MLModel.make_state = lambda model: _program(model).initial_state()

LEFT_OUT = {
    "TestSliceByIndex::test_slice_by_index": "asks for the older format",
    "TestResample::test_builder_to_backend_smoke": "counts casts, as it expects them in fp16",
    "iOS15/test_image_resizing.py::TestCropResize": "a box outside of the image, which the reference does not define",
    "iOS16/test_image_resizing.py::TestCropResize": "numbers rounded to three places",
    "iOS17/test_image_resizing.py::TestCropResize": "numbers rounded to three places",
    "LocalResponseNorm::test_builder_to_backend_smoke": "numbers of the older format, whose channels lie elsewhere",
    "TestRandom": "random numbers",
    "NonMaximumSuppression": "an op that is not known here",
}
"""Parts of test names -> why they are left out."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep some parameters of each test function, spread over all, and of the two formats the ML Program."""
    functions: dict[str, list[pytest.Item]] = {}
    for item in items:
        name = f"{item.path}::{item.nodeid.partition('::')[2]}"
        if "neuralnetwork" not in name and not any(part in name for part in LEFT_OUT):
            functions.setdefault(name.partition("[")[0], []).append(item)
    most = int(os.environ.get("MIL_VENDOR_PARAMETERS", "4"))
    kept = {
        id(found[i * len(found) // most]) if len(found) > most else id(found[min(i, len(found) - 1)])
        for found in functions.values()
        for i in range(most)
    }
    config.hook.pytest_deselected(items=[item for item in items if id(item) not in kept])
    items[:] = [item for item in items if id(item) in kept]
    gc.freeze()  # every conversion collects garbage, and would look through all that was imported
