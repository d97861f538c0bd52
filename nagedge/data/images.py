"""Image folders: one sub-folder a class, or a CSV file of labels; decoded with Pillow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from nagedge.data.cleaning import Finding
from nagedge.data.raw import RawExamples
from nagedge.data.resize import resize_bilinear
from nagedge.data.tables import read_columns, table_targets
from nagedge.errors import ConfigurationError, DataError, nearest_name
from nagedge.specs import TaskSpec

__all__ = ["class_folders", "decode_image", "inside", "read_images"]

Array = npt.NDArray[Any]

_MODES = {"greyscale": "L", "rgb": "RGB"}


def decode_image(path: Path | IO[bytes], colour: str) -> npt.NDArray[np.uint8] | str:
    """Return an image as uint8 ``[channels, height, width]``, turned as EXIF says, or what is wrong with it.

    Args:
        path: a file that Pillow can decode; of an animation the first frame is read.
        colour: ``"greyscale"`` (ITU-R 601 luma) or ``"rgb"``; transparency is ignored.
    """
    try:
        with Image.open(path) as image:
            if image.mode.startswith(("I", "F")):
                return f"pixel format {image.mode!r} with more than 8 bits a channel"
            pixels = np.asarray(ImageOps.exif_transpose(image).convert(_MODES[colour]))
    except FileNotFoundError:
        return "no such file"
    except UnidentifiedImageError:
        return "a file that is no image"
    except (Image.DecompressionBombError, OSError, ValueError, SyntaxError, EOFError) as error:
        return f"a damaged image ({error})"
    return pixels[np.newaxis] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def class_folders(folder: Path) -> tuple[str, ...]:
    """Return the names of the sub-folders, sorted: the classes of a folder-per-class data set.

    Raises:
        DataError: ``folder`` is no folder, or has no sub-folder.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder} is not a folder, expected one with a sub-folder of images a class. Check the path."
        )
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and entry.name[0] != "."))
    if not names:
        raise DataError(
            f"{folder} has no sub-folders, expected one a class. Make them, or name a labels file."
        )
    return names


def read_images(
    folder: Path,
    tasks: Sequence[TaskSpec],
    *,
    colour: str,
    size: tuple[int, int] | None,
    labels: str | None = None,
    targets: Mapping[str, str | Sequence[str]] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
) -> RawExamples:
    """Read all images of a folder; the input is float32 ``[n, channels, height, width]`` in 0 .. 255.

    Args:
        folder: the data set. Files whose name starts with a dot are left alone.
        tasks: what is read; exactly one classification task without ``labels``.
        colour: ``"greyscale"`` or ``"rgb"``.
        size: height and width that every image is resized to, or ``None`` when all have one size.
        labels: name of a CSV file in the folder with a ``file`` column and the target columns.
        targets: with ``labels``: task name -> its column, or its columns.
        classes: task name -> class names in label order; without ``labels`` the sub-folders, else sorted.

    Raises:
        DataError: a folder that does not fit; a damaged image is a finding, not an error.
    """
    findings: list[Finding] = []
    if labels is None:
        files, raw_targets = _by_folder(folder, tasks, classes or {})
    else:
        mapping = {task.name: (targets or {}).get(task.name, task.name) for task in tasks}
        table = read_columns(folder / labels, ["file", *_flat(mapping)])
        files = [inside(folder, name, row) for row, name in enumerate(table.text("file"), 1)]
        raw_targets = table_targets(table, tasks, mapping, classes or {})
        findings += table.findings
    images, damaged = _decode(folder, files, colour, size)
    findings.insert(0, damaged)
    return RawExamples(
        source=str(folder),
        input=images,
        targets=raw_targets,
        sample_weight=None,
        names=tuple(files),
        findings=tuple(findings),
    )


def _flat(mapping: Mapping[str, str | Sequence[str]]) -> list[str]:
    return [name for names in mapping.values() for name in ([names] if isinstance(names, str) else names)]


def _by_folder(
    folder: Path, tasks: Sequence[TaskSpec], classes: Mapping[str, Sequence[str]]
) -> tuple[list[str], dict[str, Array]]:
    if len(tasks) != 1 or tasks[0].kind != "classification":
        raise ConfigurationError(
            f"{folder}: a sub-folder a class fits exactly one classification task, the run has "
            f"{', '.join(f'{task.name} ({task.kind})' for task in tasks)}. Name a labels file with labels."
        )
    task = tasks[0]
    present = class_folders(folder)
    names = tuple(classes.get(task.name, present))
    for name in present:
        if name not in names:
            raise DataError(
                f"{folder} has a sub-folder {name!r} that is no class of task {task.name!r}; the classes are "
                f"{', '.join(names)}.{nearest_name(name, names)} Rename it, or add the class."
            )
    if len(names) != task.size:
        raise DataError(
            f"{folder} has {len(names)} classes ({', '.join(names[:10])}), task {task.name!r} has size "
            f"{task.size}. Make them equal."
        )
    files, labels = [], []
    for label, name in enumerate(names):
        inside = sorted(
            path.name for path in (folder / name).glob("*") if path.is_file() and path.name[0] != "."
        )
        files += [f"{name}/{file}" for file in inside]
        labels += [float(label)] * len(inside)
    if not files:
        raise DataError(f"{folder} holds no images in its sub-folders {', '.join(names)}. Check the path.")
    return files, {task.name: np.array(labels)}


def inside(folder: Path, name: str | None, row: int) -> str:
    """Return a file name of a labels table; refuse one that is missing or leads out of the folder."""
    if name is None or Path(name).is_absolute() or ".." in Path(name).parts:
        raise DataError(
            f"{folder}, labels row {row}: file is {name!r}, expected a path inside the folder. "
            "Correct the row."
        )
    return name


def _decode(
    folder: Path, files: Sequence[str], colour: str, size: tuple[int, int] | None
) -> tuple[npt.NDArray[np.float32], Finding]:
    """Return all images, zeros for those that cannot be read, and the finding that names these."""
    errors: dict[int, str] = {}
    images: dict[int, Array] = {}
    for row, name in enumerate(files):
        pixels = decode_image(folder / name, colour)
        if isinstance(pixels, str):
            errors[row] = pixels
            continue
        images[row] = pixels if size is None else resize_bilinear(pixels[np.newaxis], *size)[0]
    shapes = {row: image.shape for row, image in images.items()}
    first = next(iter(shapes), None)
    for row, shape in shapes.items():
        if first is not None and shape != shapes[first]:
            raise DataError(
                f"{folder / files[row]} has {shape[1]} x {shape[2]} pixels, {files[first]} has "
                f"{shapes[first][1]} x {shapes[first][2]}: expected one size. "
                "Set resize in [data.preprocessing]."
            )
    one = shapes[first] if first is not None else (len(_MODES[colour]), 1, 1)
    stacked = np.zeros((len(files), *one), dtype=np.float32)
    for row, image in images.items():
        stacked[row] = image
    damaged = np.zeros(len(files), dtype=np.bool_)
    damaged[list(errors)] = True
    return stacked, Finding("unreadable image", damaged, lambda row: errors[row], "an 8-bit image")
