"""Declared steps: what each computes, their order, and the way through JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from nagedge.data.preprocessing import (
    DataLayout,
    FillMissing,
    Normalise,
    Preprocessing,
    Resize,
    Scale,
    StandardiseTarget,
)
from nagedge.errors import DataError

FULL = Preprocessing(
    input="image",
    steps=(
        FillMissing((0.5, 1.5)),
        Resize(6, 5),
        Scale(1 / 255),
        Normalise((0.1, float(np.float32(0.2))), (0.3, 0.4)),
    ),
    targets={"angle": StandardiseTarget((2.0,), (4.0,)), "box": StandardiseTarget((1.0, 2.0), (3.0, 0.1))},
    layout=DataLayout(
        columns=("a", "b"),
        targets={"angle": "deg", "box": ("x", "y")},
        classes={"kind": ("cat", "dog")},
        colour="rgb",
        labels="labels.csv",
    ),
)


def test_json_gives_the_same_preprocessing_back() -> None:
    text = json.dumps(FULL.to_json(), allow_nan=False)
    assert Preprocessing.from_json(json.loads(text)) == FULL


def test_steps_run_in_their_order_in_float32() -> None:
    x = np.array([[1.0, np.nan], [3.0, 4.0]])
    steps = (FillMissing((0.0, 10.0)), Scale(0.1), Normalise((1.0,), (2.0,)))
    got = Preprocessing("features", steps).apply({"features": x})["features"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, [[-0.45, 0.0], [-0.35, -0.3]], rtol=1e-6)
    assert np.isnan(x[0, 1]), "the argument is left as it was"


def test_normalise_works_on_channels() -> None:
    x = np.ones((1, 2, 2, 2), dtype=np.uint8)
    got = Preprocessing("image", (Normalise((1.0, 0.0), (1.0, 0.5)),)).apply({"image": x})["image"]
    np.testing.assert_array_equal(got[0, 0], 0)
    np.testing.assert_array_equal(got[0, 1], 2)


def test_other_inputs_and_token_ids_pass_unchanged() -> None:
    ids = np.array([[1, 2**40]], dtype=np.int64)
    out = Preprocessing("tokens").apply({"tokens": ids, "other": ids})
    assert out["tokens"].dtype == np.int64
    np.testing.assert_array_equal(out["tokens"], ids)
    assert out["other"] is ids


def test_targets_go_there_and_back() -> None:
    targets = {
        "angle": np.array([2.0, 10.0], dtype=np.float32),
        "box": np.array([[1.0, 2.1], [4.0, 2.0]], dtype=np.float32),
        "kind": np.array([0, 1]),
    }
    learnt = FULL.apply_targets(targets)
    np.testing.assert_allclose(learnt["angle"], [0, 2], rtol=1e-6)
    np.testing.assert_allclose(learnt["box"], [[0, 1], [1, 0]], atol=1e-6)
    assert learnt["kind"] is targets["kind"]
    back = FULL.invert_outputs(learnt)
    np.testing.assert_allclose(back["angle"], targets["angle"], rtol=1e-6)
    np.testing.assert_allclose(back["box"], targets["box"], rtol=1e-6)
    np.testing.assert_allclose(
        FULL.invert_outputs({"angle": np.zeros((3, 1))})["angle"], np.full((3, 1), 2.0)
    )


def test_an_input_with_other_channels_is_refused() -> None:
    with pytest.raises(DataError) as caught:
        FULL.apply({"image": np.zeros((1, 3, 6, 5))})
    assert "2 values for axis 1, the input has shape [1, 3, 6, 5]" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            {"steps": [{"step": "rotate", "by": 3}]},
            "unknown step 'rotate', expected one of fill_missing, resize, scale",
        ),
        ({"steps": [{"step": "scale", "facto": 3}]}, "preprocessing cannot be read (TypeError"),
        ({"steps": [{"factor": 3}]}, "preprocessing cannot be read (KeyError: 'step')"),
        ({"targets": {"a": {"mean": ["x"], "std": [1]}}}, "preprocessing cannot be read (ValueError"),
        ({"layout": []}, "preprocessing cannot be read (TypeError"),
    ],
)
def test_json_that_is_damaged_is_refused(change: dict[str, Any], text: str) -> None:
    with pytest.raises(DataError) as caught:
        Preprocessing.from_json(FULL.to_json() | change)
    assert text in str(caught.value)


def test_a_device_needs_numpy_alone() -> None:
    code = (
        "import sys, nagedge.data.examples, nagedge.data.preprocessing\n"
        "print(sorted({'torch', 'pyarrow', 'pydantic', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
