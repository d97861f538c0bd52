"""The page computes the preprocessing of a manifest exactly as Python does: one file of examples, two implementations.

``python tests/unit/test_web_preprocessing.py`` writes ``web_preprocessing.json`` again.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nagedge.data.images import decode_image
from nagedge.data.preprocessing import FillMissing, Normalise, Preprocessing, Resize, Scale, StandardiseTarget
from nagedge.web.npm import node_command

HERE = Path(__file__).parent
VECTORS = HERE / "web_preprocessing.json"
BYTES = Scale(1 / 255)
IMAGENET = Normalise((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))

CASES: dict[str, tuple[tuple[Any, ...], tuple[int, ...], str]] = {
    "nothing to do": ((), (2, 3), "float32"),
    "token ids stay as they are": ((), (2, 5), "int64"),
    "bytes to floats": ((BYTES,), (1, 1, 4, 4), "uint8"),
    "one mean for all": ((BYTES, Normalise((0.1307,), (0.3081,))), (1, 1, 4, 4), "uint8"),
    "a mean a channel": ((BYTES, IMAGENET), (2, 3, 3, 2), "uint8"),
    "a mean a feature": ((Normalise((0.1, -7.3, 1e-3, 40.0), (3.0, 0.7, 1e-4, 1e5)),), (3, 4), "float32"),
    "a mean a channel of a signal": ((Normalise((0.3, -0.2), (1.1, 0.9)),), (2, 2, 7), "float32"),
    "missing values, one filling": ((FillMissing((0.25,)), Scale(3.3)), (4, 3), "missing"),
    "missing values, a filling a feature": (
        (FillMissing((0.1, 0.2, 0.3)), Normalise((0.1,), (0.7,))),
        (4, 3),
        "missing",
    ),
    "a smaller image": ((Resize(5, 3), BYTES), (1, 1, 11, 9), "uint8"),
    "a larger image": ((Resize(9, 8), BYTES, IMAGENET), (1, 3, 4, 5), "uint8"),
    "rows only": ((Resize(4, 6),), (2, 1, 7, 6), "float32"),
    "to one pixel": ((Resize(1, 1),), (1, 2, 5, 4), "float32"),
    "from one pixel": ((Resize(3, 2),), (1, 1, 1, 1), "float32"),
    "scaled before it is resized": ((BYTES, Resize(4, 4)), (1, 1, 6, 5), "uint8"),
}

TARGETS = {
    "one mean": StandardiseTarget((7.168864727020264,), (14.818902969360352,)),
    "a mean an output": StandardiseTarget((0.1, -3.0, 1e4), (0.3, 1e-3, 7.0)),
}


def _input(shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> np.ndarray:
    if kind == "uint8":
        return rng.integers(0, 256, shape).astype(np.uint8)
    if kind == "int64":
        return rng.integers(-(2**40), 2**40, shape)
    values = rng.normal(0, 10, shape).astype(np.float32)
    if kind == "missing":
        values[rng.random(shape) < 0.4] = np.nan
    return values


def _plain(array: np.ndarray) -> list[Any]:
    """Return exact values for JSON: every float32 is a float64; NaN is null."""
    return [None if value != value else value for value in array.reshape(-1).tolist()]  # noqa: PLR0124 - NaN


def document() -> dict[str, Any]:
    """Return the examples as numpy computes them."""
    rng = np.random.default_rng(0)
    cases = []
    for name, (steps, shape, kind) in CASES.items():
        x = _input(shape, kind, rng)
        preprocessing = Preprocessing("x", steps)
        y = preprocessing.apply_array(x)
        cases.append({
            "name": name, "steps": preprocessing.to_json()["steps"], "dtype": str(x.dtype), "shape": list(shape),
            "input": _plain(x), "output_dtype": str(y.dtype), "output_shape": list(y.shape), "output": _plain(y),
        })  # fmt: skip
    targets = []
    for name, step in TARGETS.items():
        target = rng.normal(0, 20, (4, len(step.mean))).astype(np.float32)
        learnt = step.apply(target)
        targets.append({
            "name": name, "mean": list(step.mean), "std": list(step.std), "target": target.tolist(),
            "learnt": learnt.tolist(), "in_unit": step.invert(learnt).tolist(),
        })  # fmt: skip
    return {"cases": cases, "targets": targets}


def test_numpy_computes_what_the_file_says() -> None:
    assert json.loads(VECTORS.read_text(encoding="utf-8")) == document()


def test_the_page_computes_what_the_file_says() -> None:
    _node("test_web_preprocessing.mjs", str(VECTORS), expected=len(CASES) + len(TARGETS))


@pytest.mark.parametrize("colour", ["greyscale", "rgb"])
def test_pixels_become_the_image_that_pillow_reads(colour: str, tmp_path: Path) -> None:
    from PIL import Image

    rgb = np.random.default_rng(1).integers(0, 256, (5, 7, 3)).astype(np.uint8)
    Image.fromarray(rgb).save(tmp_path / "image.png")
    expected = decode_image(tmp_path / "image.png", colour)
    assert isinstance(expected, np.ndarray)
    rgba = np.concatenate([rgb, np.full((5, 7, 1), 255, np.uint8)], axis=2)
    (tmp_path / "pixels.json").write_text(
        json.dumps({"rgba": rgba.reshape(-1).tolist(), "width": 7, "height": 5, "image": expected.tolist()})
    )
    _node("test_web_pixels.mjs", str(tmp_path / "pixels.json"), expected=1)


def _node(script: str, file: str, *, expected: int) -> None:
    """Run a test script in Node and see that it ran as many tests as there are cases."""
    done = subprocess.run(
        [*node_command(), "--test-reporter=tap", str(HERE / script), file],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"# pass {expected}\n" in done.stdout, done.stdout


if __name__ == "__main__":
    VECTORS.write_text(json.dumps(document(), indent=None) + "\n", encoding="utf-8")
