"""Archives of arrays: what is read, and the text of every refusal."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nagedge.data.arrays import read_arrays, read_npz
from nagedge.errors import DataError
from nagedge.specs import TaskSpec

DIGIT = TaskSpec("digit", "classification", size=3)
BOX = TaskSpec("box", "regression", size=2)


def write(path: Path, **arrays: Any) -> Path:
    np.savez(path, **arrays)
    return path


def refusal(path: Path, *tasks: TaskSpec, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        read_arrays(path, tasks or (DIGIT,), input_name=options.pop("input_name", "image"), **options)
    return str(caught.value).replace(str(path), "FILE")


def test_reads_input_targets_and_weights(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.npz",
        image=np.full((3, 2), 7, dtype=np.uint8),
        digit=[[0], [1], [2]],
        x=[1, 2, 3],
        y=[4, 5, 6],
        w=[1, 0, 2],
        note=np.array("ignored"),
    )
    raw = read_arrays(path, [DIGIT, BOX], input_name="image", targets={"box": ["x", "y"]}, sample_weight="w")
    assert raw.input.dtype == np.float32
    np.testing.assert_array_equal(raw.targets["digit"], [0, 1, 2])
    np.testing.assert_array_equal(raw.targets["box"], [[1, 4], [2, 5], [3, 6]])
    np.testing.assert_array_equal(raw.sample_weight, [1, 0, 2])
    assert list(raw.names) == ["row 1", "row 2", "row 3"]


def test_token_ids_stay_integers(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", image=np.array([[5, 2**40]], dtype=np.uint64), digit=[0])
    raw = read_arrays(path, [DIGIT], input_name="image", dtype="int64")
    assert raw.input.dtype == np.int64
    assert raw.input[0, 1] == 2**40
    fractional = write(tmp_path / "b.npz", image=np.zeros((1, 2)), digit=[0])
    assert refusal(fractional, dtype="int64") == (
        "FILE, array 'image' has dtype float64, expected integers. Convert the array."
    )


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.npz") == (
        "FILE is not a file, expected a .npz archive of numpy arrays. Check the path."
    )


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.npz").touch()
    assert refusal(tmp_path / "a.npz") == (
        "FILE is empty (0 bytes), expected a .npz archive of numpy arrays. Write it again."
    )


def test_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    path.write_text("image,digit\n1,2\n")
    assert "FILE is not a complete .npz archive, expected a file written by numpy.savez" in refusal(path)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    path = write(tmp_path / "a.npz", image=np.zeros((50, 4)), digit=np.zeros(50, dtype=int))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "truncated or of another kind: write it again" in refusal(path)


def test_a_flipped_byte(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", image=np.zeros((50, 4)), digit=np.zeros(50, dtype=int))
    content = bytearray(path.read_bytes())
    content[600] ^= 0xFF
    path.write_bytes(content)
    assert refusal(path).startswith("FILE, array 'image' cannot be read (Bad CRC-32")


def test_every_flipped_byte_gives_arrays_or_a_clear_error(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", image=np.zeros((2, 2)), digit=np.zeros(2, dtype=int))
    content = path.read_bytes()
    refused = 0
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= (0xFF, 0x01, 0x80)[position % 3]
        path.write_bytes(damaged)
        try:
            read_npz(path)
        except DataError as error:
            refused += str(path) in str(error)
    assert refused > len(content) // 2


def test_a_member_that_is_no_array(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", image=np.zeros((2, 2)), digit=[0, 1])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("note.txt", "hello")
    assert refusal(path) == (
        "FILE, array 'note.txt' cannot be read (no numpy array): expected an array written by numpy.savez. "
        "The file is damaged: write it again."
    )


def test_python_objects_are_never_loaded(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", image=np.array([{}, None], dtype=object), digit=[0, 1])
    assert refusal(path) == (
        "FILE, array 'image' holds Python objects, expected numbers; objects are not loaded because a pickle can "
        "run code. Save the array with a numeric dtype."
    )


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        (
            {"imag": np.zeros((2, 3)), "digit": [0, 1]},
            "FILE has no array 'image' for the input; it holds digit, imag. Did you mean 'imag'?",
        ),
        (
            {"image": np.zeros((2, 3)), "label": [0, 1]},
            "FILE has no array 'digit' for the target of task 'digit'; it holds image, label.",
        ),
        (
            {"image": np.zeros((2, 3)), "digit": [0, 1, 2]},
            "FILE, array 'digit' has shape [3], expected 2 rows, as many as the input has.",
        ),
        (
            {"image": np.zeros((2, 3)), "digit": np.zeros((2, 3))},
            "FILE, array 'digit': targets of classification task 'digit' have shape [2, 3], expected [n] for size 3.",
        ),
        (
            {"image": np.zeros((2, 3)), "digit": np.array(["a", "b"])},
            "FILE, array 'digit': targets of task 'digit' have dtype <U1, expected numbers.",
        ),
        (
            {"image": np.zeros((2, 3), dtype=complex), "digit": [0, 1]},
            "FILE, array 'image' has dtype complex128, expected numbers.",
        ),
        (
            {"image": np.float32(3), "digit": [0, 1]},
            "FILE, array 'image' is a single value, expected one row a sample.",
        ),
        (
            {"image": np.zeros((2, 0)), "digit": [0, 1]},
            "FILE, array 'image' has shape [2, 0], expected sizes of at least 1.",
        ),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, arrays: dict[str, Any], text: str) -> None:
    assert refusal(write(tmp_path / "a.npz", **arrays)).startswith(text)


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", image=np.zeros((2, 3)), digit=[0, 1], w=[[1], [1]])
    assert refusal(path, sample_weight="w") == (
        "FILE, array 'w' has dtype int64 and shape [2, 1], expected numbers of shape [2], one weight a row."
    )


def test_one_of_several_target_arrays_that_is_no_column(tmp_path: Path) -> None:
    path = write(tmp_path / "a.npz", image=np.zeros((2, 3)), x=[0, 1], y=np.zeros((2, 2)))
    assert refusal(path, BOX, targets={"box": ["x", "y"]}) == (
        "FILE, array 'y' has shape [2, 2], expected [n]: it is one of the columns of task 'box'."
    )
