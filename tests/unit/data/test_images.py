"""Image folders: both layouts, colours, sizes, damaged files, and the text of every refusal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nagedge.data.images import decode_image, read_images
from nagedge.data.raw import clean
from nagedge.errors import ConfigurationError, DataError
from nagedge.specs import TaskSpec

ANIMAL = TaskSpec("animal", "classification", size=2)
WEIGHT = TaskSpec("weight", "regression", size=1)


def image(path: Path, level: int = 100, size: tuple[int, int] = (4, 3), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, level if mode in ("L", "I;16") else (level, 0, 0)).save(path)


def refusal(folder: Path, tasks: list[TaskSpec], **options: Any) -> str:
    options = {"colour": "greyscale", "size": None} | options
    with pytest.raises((DataError, ConfigurationError)) as caught:
        read_images(folder, tasks, **options)
    return str(caught.value).replace(str(folder), "FOLDER")


def test_a_sub_folder_a_class(tmp_path: Path) -> None:
    image(tmp_path / "dog" / "b.png", 20)
    image(tmp_path / "cat" / "c.png", 30)
    image(tmp_path / "dog" / "a.jpg", 10)
    (tmp_path / "dog" / ".hidden").write_text("left alone")
    raw = read_images(tmp_path, [ANIMAL], colour="greyscale", size=None)
    assert list(raw.names) == ["cat/c.png", "dog/a.jpg", "dog/b.png"]
    assert raw.input.shape == (3, 1, 3, 4)
    assert raw.input.dtype == np.float32
    np.testing.assert_array_equal(raw.input[:, 0, 0, 0], [30, 10, 20])
    np.testing.assert_array_equal(raw.targets["animal"], [0, 1, 1])
    listed = read_images(
        tmp_path, [ANIMAL], colour="greyscale", size=None, classes={"animal": ["dog", "cat"]}
    )
    np.testing.assert_array_equal(listed.targets["animal"], [0, 0, 1])


def test_a_labels_file_with_several_tasks(tmp_path: Path) -> None:
    image(tmp_path / "a.png", 200, mode="RGB")
    image(tmp_path / "sub" / "b.png", 100, mode="RGB")
    (tmp_path / "labels.csv").write_text("file,species,weight\nsub/b.png,dog,7.5\na.png,cat,4\n")
    raw = read_images(
        tmp_path,
        [ANIMAL, WEIGHT],
        colour="rgb",
        size=(6, 8),
        labels="labels.csv",
        targets={"animal": "species"},
        classes={"animal": ["cat", "dog"]},
    )
    assert raw.input.shape == (2, 3, 6, 8)
    np.testing.assert_array_equal(raw.input[:, 0, 2, 2], [100, 200])
    np.testing.assert_array_equal(raw.targets["animal"], [1, 0])
    np.testing.assert_array_equal(raw.targets["weight"], [7.5, 4])


def test_damaged_images_are_named_and_counted(tmp_path: Path) -> None:
    for name in ("a.png", "b.png", "c.png"):
        image(tmp_path / "cat" / name)
    image(tmp_path / "dog" / "d.png")
    (tmp_path / "cat" / "b.png").write_bytes((tmp_path / "cat" / "b.png").read_bytes()[:50])
    (tmp_path / "dog" / "notes.txt").write_text("hello")
    raw = read_images(tmp_path, [ANIMAL], colour="greyscale", size=None)
    kept, report = clean(raw, [ANIMAL], missing="error", bad_rows="drop", remedy="")
    assert list(kept.names) == ["cat/a.png", "cat/c.png", "dog/d.png"]
    assert report.dropped[0].first_rows == ("cat/b.png", "dog/notes.txt")
    with pytest.raises(DataError) as caught:
        clean(raw, [ANIMAL], missing="error", bad_rows="error", remedy="Replace it.")
    text = str(caught.value)
    assert text.startswith(f"{tmp_path}, cat/b.png: unreadable image: got a damaged image (")
    assert text.endswith("), expected an 8-bit image (2 such rows). Replace it.")


def test_what_is_wrong_with_a_file(tmp_path: Path) -> None:
    assert decode_image(tmp_path / "no.png", "rgb") == "no such file"
    (tmp_path / "text.png").write_text("hello")
    assert decode_image(tmp_path / "text.png", "rgb") == "a file that is no image"
    (tmp_path / "empty.png").touch()
    assert decode_image(tmp_path / "empty.png", "rgb") == "a file that is no image"
    image(tmp_path / "deep.png", 1000, mode="I;16")
    assert decode_image(tmp_path / "deep.png", "rgb") == "pixel format 'I;16' with more than 8 bits a channel"


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = Image.fromarray(np.array([[0, 250]], dtype=np.uint8).repeat(8, 0).repeat(8, 1))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    picture.save(tmp_path / "a.png", exif=exif)
    pixels = decode_image(tmp_path / "a.png", "greyscale")
    assert not isinstance(pixels, str)
    assert pixels.shape == (1, 16, 8)
    np.testing.assert_array_equal(pixels[0, :, 0], [0] * 8 + [250] * 8)


def test_images_of_several_sizes_need_resize(tmp_path: Path) -> None:
    image(tmp_path / "cat" / "a.png", size=(4, 3))
    image(tmp_path / "dog" / "b.png", size=(5, 6))
    assert refusal(tmp_path, [ANIMAL]) == (
        "FOLDER/dog/b.png has 6 x 5 pixels, cat/a.png has 3 x 4: expected one size. "
        "Set resize in [data.preprocessing]."
    )
    assert read_images(tmp_path, [ANIMAL], colour="greyscale", size=(8, 8)).input.shape == (2, 1, 8, 8)


def test_folders_that_do_not_fit(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no", [ANIMAL]) == (
        "FOLDER/no is not a folder, expected one with a sub-folder of images a class. Check the path."
    ).replace("FOLDER/no", "FOLDER")
    assert refusal(tmp_path, [ANIMAL]) == (
        "FOLDER has no sub-folders, expected one a class. Make them, or name a labels file."
    )
    assert refusal(tmp_path, [ANIMAL, WEIGHT]) == (
        "FOLDER: a sub-folder a class fits exactly one classification task, the run has animal (classification), "
        "weight (regression). Name a labels file with labels."
    )
    (tmp_path / "cat").mkdir()
    assert (
        refusal(tmp_path, [ANIMAL])
        == "FOLDER has 1 classes (cat), task 'animal' has size 2. Make them equal."
    )
    assert refusal(tmp_path, [ANIMAL], classes={"animal": ["cats", "dogs"]}) == (
        "FOLDER has a sub-folder 'cat' that is no class of task 'animal'; the classes are cats, dogs. "
        "Did you mean 'cats'? Rename it, or add the class."
    )
    (tmp_path / "dog").mkdir()
    assert (
        refusal(tmp_path, [ANIMAL]) == "FOLDER holds no images in its sub-folders cat, dog. Check the path."
    )


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", ""])
def test_labels_that_point_outside_the_folder(tmp_path: Path, name: str) -> None:
    (tmp_path / "labels.csv").write_text(f"file,weight\n{name},1\n")
    shown = repr(name) if name else "None"
    assert refusal(tmp_path, [WEIGHT], labels="labels.csv") == (
        f"FOLDER, labels row 1: file is {shown}, expected a path inside the folder. Correct the row."
    )


def test_a_labels_file_without_the_file_column(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("fil,weight\na.png,1\n")
    assert refusal(tmp_path, [WEIGHT], labels="labels.csv") == (
        "FOLDER/labels.csv has no column 'file'; it holds fil, weight. Did you mean 'fil'? "
        "Add the column, or name the right one."
    )
