"""The resize against torch's and ONNX's definition, and its error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nagedge.data.resize import resize_bilinear
from nagedge.errors import DataError

sizes = st.integers(1, 40)


@settings(max_examples=60, deadline=None)
@given(height=sizes, width=sizes, new_height=sizes, new_width=sizes, seed=st.integers(0, 99))
def test_equals_torch_without_antialiasing(
    height: int, width: int, new_height: int, new_width: int, seed: int
) -> None:
    x = np.random.default_rng(seed).uniform(0, 255, (2, 3, height, width)).astype(np.float32)
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(x), (new_height, new_width), mode="bilinear", align_corners=False, antialias=False
    ).numpy()
    got = resize_bilinear(x, new_height, new_width)
    assert got.dtype == np.float32
    # Both work in float32; torch computes positions in float32 too, which costs it some bits at large sizes.
    np.testing.assert_allclose(got, expected, rtol=0, atol=255 * 2e-5)


def test_a_known_row() -> None:
    x = np.array([0, 4], dtype=np.uint8).reshape(1, 1, 1, 2)
    np.testing.assert_array_equal(resize_bilinear(x, 1, 4).ravel(), [0, 1, 3, 4])


def test_the_same_size_changes_nothing() -> None:
    x = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    np.testing.assert_array_equal(resize_bilinear(x, 3, 4), x)


def test_refuses_what_is_no_stack_of_images() -> None:
    with pytest.raises(DataError) as caught:
        resize_bilinear(np.zeros((5, 28, 28)), 14, 14)
    assert str(caught.value) == (
        "cannot resize an input of shape [5, 28, 28]: expected [n, channels, height, width]. "
        "Remove resize, or give images."
    )
