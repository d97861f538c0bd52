from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from nagedge.errors import BundleError
from nagedge.ort_checkpoint import OrtCheckpoint, read_checkpoint, with_state, write_checkpoint

Array = npt.NDArray[Any]

# No subnormal numbers: runtimes in the same process may have told the processor to flush them to zero.
FLOATS = arrays_of.arrays(
    np.float32,
    arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4),
    elements=arrays_of.from_dtype(np.dtype(np.float32), allow_subnormal=False),
)
NAMED = st.dictionaries(st.text(min_size=1, max_size=12), FLOATS, max_size=4)


def filled() -> OrtCheckpoint:
    rng = np.random.default_rng(0)
    params = {
        "params.b": rng.standard_normal((2, 3)).astype(np.float32),
        "params.a": np.asarray(3, np.float32),
    }
    return OrtCheckpoint(
        params, {"buffers.count": np.arange(3)}, {key: value * 2 for key, value in params.items()}, step=7,
        initial_lr=0.5, properties={"epoch": 3, "best": 0.25, "who": "Änne"},
    )  # fmt: skip


def assert_same(got: OrtCheckpoint, expected: OrtCheckpoint) -> None:
    for role in ("params", "buffers", "momentum"):
        ours, theirs = getattr(got, role), getattr(expected, role)
        assert ours.keys() == theirs.keys()
        for name, array in theirs.items():
            assert ours[name].dtype == array.dtype
            assert ours[name].shape == array.shape
            assert ours[name].tobytes() == np.ascontiguousarray(array).tobytes()
    assert got.initial_lr == pytest.approx(expected.initial_lr, rel=1e-6)  # the file holds a float32
    assert (got.step, dict(got.properties), got.nominal) == (
        expected.step, dict(expected.properties), expected.nominal
    )  # fmt: skip


def test_what_is_written_is_read() -> None:
    assert_same(read_checkpoint(write_checkpoint(filled())), filled())


@given(NAMED, NAMED)
def test_any_names_and_shapes_are_kept(params: dict[str, Array], buffers: dict[str, Array]) -> None:
    checkpoint = OrtCheckpoint(params, buffers, params)
    assert_same(read_checkpoint(write_checkpoint(checkpoint)), checkpoint)


def test_equal_checkpoints_give_equal_bytes_whatever_their_order() -> None:
    backwards = OrtCheckpoint(
        dict(reversed(filled().params.items())), filled().buffers, dict(reversed(filled().momentum.items())),
        filled().step, filled().initial_lr, filled().properties,
    )  # fmt: skip
    assert write_checkpoint(backwards) == write_checkpoint(filled())


def test_a_nominal_checkpoint_holds_names_without_values() -> None:
    nominal = write_checkpoint(OrtCheckpoint(filled().params, filled().buffers, nominal=True))
    read = read_checkpoint(nominal)
    assert read.nominal
    assert read.params.keys() == filled().params.keys()
    assert all(array.size == 0 for array in read.params.values())
    assert len(nominal) < len(write_checkpoint(filled()))
    assert with_state(nominal, filled().params, filled().momentum) == nominal


def test_a_new_state_replaces_values_and_keeps_the_rest() -> None:
    new = {"params.a": np.asarray(9, np.float32), "buffers.count": np.asarray([5, 6, 7]), "other": np.ones(3)}
    got = read_checkpoint(with_state(write_checkpoint(filled()), new, {"params.a": np.asarray(1.5)}))
    assert got.params["params.a"] == 9
    assert np.array_equal(got.params["params.b"], filled().params["params.b"])
    assert got.buffers["buffers.count"].tolist() == [5, 6, 7]
    assert got.momentum["params.a"] == np.float32(1.5)
    assert not got.momentum["params.b"].any()
    assert (got.step, dict(got.properties)) == (7, dict(filled().properties))


def test_a_state_of_another_shape_is_refused() -> None:
    with pytest.raises(BundleError, match=r"'params.b' has shape \[3, 2\], the file has \[2, 3\]"):
        with_state(write_checkpoint(filled()), {"params.b": np.zeros((3, 2), np.float32)}, {})


def test_a_dtype_that_the_format_lacks_is_refused() -> None:
    with pytest.raises(BundleError, match="'x' has dtype complex64"):
        write_checkpoint(OrtCheckpoint({"x": np.zeros(2, np.complex64)}))


@pytest.mark.parametrize("content", [b"", b"ODTC", b"\0" * 64, b"PK\x03\x04" + b"\0" * 60])
def test_a_foreign_file_is_refused(content: bytes) -> None:
    with pytest.raises(BundleError, match="no checkpoint of ONNX Runtime's on-device training"):
        read_checkpoint(content)


def test_another_version_is_refused() -> None:
    content = bytearray(write_checkpoint(OrtCheckpoint({})))
    at = content.index((2).to_bytes(4, "little"), 8)
    content[at] = 9
    with pytest.raises(BundleError, match="version 9, this program reads 2"):
        read_checkpoint(bytes(content))


def test_a_damaged_file_is_read_or_refused_but_never_anything_else() -> None:
    content = write_checkpoint(filled())
    refused = 0
    for length in range(8, len(content)):
        try:
            read_checkpoint(content[:length])
        except BundleError:
            refused += 1
    assert refused > len(content) // 2
    rng = np.random.default_rng(1)
    for _ in range(2000):
        damaged = bytearray(content)
        for at in rng.integers(8, len(content), 3):
            damaged[at] = rng.integers(256)
        try:
            read_checkpoint(bytes(damaged))
        except BundleError:
            refused += 1
    assert refused > len(content)
