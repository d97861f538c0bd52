"""From a configuration to splits, and new examples for a trained model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
from PIL import Image

from nagedge.data import mnist
from nagedge.data.config import DataConfig, SplitConfig
from nagedge.data.examples import DataSplits, Examples
from nagedge.data.load import load_data, load_examples, split_rows
from nagedge.data.preprocessing import FillMissing, Normalise, Preprocessing, Resize, Scale
from nagedge.errors import ConfigurationError, DataError
from nagedge.specs import TaskSpec, TensorSpec
from nagedge.tasks import check_targets, target_spec

KIND = TaskSpec("kind", "classification", size=3)
HEAT = TaskSpec("heat", "regression", size=1, unit="kelvin")


def table(folder: Path, rows: int = 40, **changes: dict[int, Any]) -> Path:
    """A Parquet file with inputs a and b, targets kind and heat; ``changes`` is column -> {row from 0: value}."""
    rng = np.random.default_rng(1)
    columns = {
        "a": rng.normal(5, 2, rows).tolist(),
        "b": rng.normal(-100, 30, rows).tolist(),
        "kind": [str("xyz"[row % 3]) for row in range(rows)],
        "heat": rng.normal(300, 10, rows).tolist(),
    }
    for name, values in changes.items():
        for row, value in values.items():
            columns[name][row] = value
    path = folder / "table.parquet"
    pa.parquet.write_table(pa.table(columns), path)
    return path


def table_config(path: Path, **preprocessing: Any) -> DataConfig:
    return DataConfig.model_validate(
        {
            "source": "table",
            "path": path,
            "columns": ["a", "b"],
            "classes": {"kind": ["x", "y", "z"]},
            "unit": "metres",
            "preprocessing": preprocessing,
        }
    )


def joined(splits: DataSplits, get: Any) -> np.ndarray[Any, Any]:
    return np.concatenate([get(part) for part in (splits.train, splits.validation, splits.test)])


def test_take_gives_rows_of_everything_in_the_order_asked_for() -> None:
    examples = Examples({"x": np.arange(4)}, {"t": np.arange(4) * 10}, np.arange(4, dtype=np.float32))
    taken = examples.take([2, 0])
    assert len(taken) == 2
    assert taken.sample_weight is not None
    for array, expected in (
        (taken.inputs["x"], [2, 0]),
        (taken.targets["t"], [20, 0]),
        (taken.sample_weight, [2, 0]),
    ):
        np.testing.assert_array_equal(array, expected)
    assert Examples({"x": np.arange(4)}, {}).take([1]).sample_weight is None


@pytest.mark.parametrize("count", [3, 4, 7, 100])
def test_splits_are_disjoint_cover_everything_and_hang_on_the_seed_alone(count: int) -> None:
    split = SplitConfig(train=0.8, validation=0.1, test=0.1, seed=4)
    parts = split_rows(count, split)
    assert sorted(np.concatenate(parts)) == list(range(count))
    assert all(len(part) >= 1 for part in parts)
    for part, again in zip(parts, split_rows(count, split), strict=True):
        np.testing.assert_array_equal(part, again)
    if count == 100:
        assert [len(part) for part in parts] == [80, 10, 10]
        assert not np.array_equal(
            parts[0], split_rows(count, SplitConfig(train=0.8, validation=0.1, test=0.1))[0]
        )


def test_statistics_come_from_the_training_part_alone(tmp_path: Path) -> None:
    path = table(tmp_path)
    config = table_config(path, normalise="train")
    splits = load_data(config, [KIND, HEAT])
    train, validation, _ = split_rows(40, config.split)
    raw = np.stack([pa.parquet.read_table(path)[name].to_numpy() for name in ("a", "b")], axis=1)
    expected = (raw[validation] - raw[train].mean(axis=0)) / raw[train].std(axis=0)
    np.testing.assert_allclose(splits.validation.inputs["features"], expected, rtol=1e-4, atol=1e-5)
    heat = pa.parquet.read_table(path)["heat"].to_numpy()
    np.testing.assert_allclose(
        splits.validation.targets["heat"],
        (heat[validation] - heat[train].mean()) / heat[train].std(),
        rtol=1e-3,
        atol=1e-4,
    )
    back = splits.preprocessing.invert_outputs({"heat": splits.validation.targets["heat"]})["heat"]
    np.testing.assert_allclose(back, heat[validation], rtol=1e-5)
    assert splits.input == TensorSpec("features", "float32", ("batch", 2), "metres")


def test_changing_rows_outside_the_training_part_changes_no_statistic(tmp_path: Path) -> None:
    first = load_data(table_config(table(tmp_path), normalise="train", missing="mean"), [KIND, HEAT])
    _, validation, test = split_rows(40, SplitConfig())
    rows = [*validation.tolist(), *test.tolist()]
    changed = table(tmp_path, a=dict.fromkeys(rows, 1000000.0), heat=dict.fromkeys(rows, 0.0))
    second = load_data(table_config(changed, normalise="train", missing="mean"), [KIND, HEAT])
    assert first.preprocessing == second.preprocessing


def test_regression_targets_stay_in_their_unit_without_standardise(tmp_path: Path) -> None:
    config = table_config(table(tmp_path)).model_copy(update={"standardise": False})
    splits = load_data(config, [KIND, HEAT])
    assert 280 < splits.train.targets["heat"].mean() < 320
    assert splits.preprocessing.targets == {}


def test_a_constant_column_is_centred_and_not_divided_by_zero(tmp_path: Path) -> None:
    path = table(tmp_path, a=dict.fromkeys(range(40), 7.0))
    splits = load_data(table_config(path, normalise="train"), [KIND])
    np.testing.assert_array_equal(splits.train.inputs["features"][:, 0], 0)


def test_missing_values_are_filled_with_the_training_mean(tmp_path: Path) -> None:
    path = table(tmp_path, a={3: None, 11: float("nan")})
    splits = load_data(table_config(path, missing="mean"), [KIND])
    step = splits.preprocessing.steps[0]
    assert isinstance(step, FillMissing)
    values = joined(splits, lambda part: part.inputs["features"][:, 0])
    assert (values == np.float32(step.value[0])).sum() == 2
    assert (splits.report.rows_kept, splits.report.filled_values) == (40, 2)
    number = load_data(table_config(path, missing=-1), [KIND])
    assert (joined(number, lambda part: part.inputs["features"][:, 0]) == -1).sum() == 2


def test_a_column_without_any_value_has_no_mean(tmp_path: Path) -> None:
    path = table(tmp_path, a=dict.fromkeys(range(40)))
    with pytest.raises(DataError) as caught:
        load_data(table_config(path, missing="mean"), [KIND])
    assert "input feature 0 has no value in any training row" in str(caught.value)


def test_dropped_rows_are_in_the_report(tmp_path: Path) -> None:
    path = table(tmp_path, a={3: None}, kind={5: "w"}, heat={8: None})
    splits = load_data(table_config(path, missing="drop", bad_rows="drop"), [KIND, HEAT])
    assert (splits.report.rows_read, splits.report.rows_kept) == (40, 37)
    assert [(entry.reason, entry.first_rows) for entry in splits.report.dropped] == [
        ("class of task 'kind' is unknown", ("row 6",)),
        ("missing input value", ("row 4",)),
        ("target 'heat' is missing", ("row 9",)),
    ]
    assert len(splits.train) + len(splits.validation) + len(splits.test) == 37


def test_the_default_refuses_a_bad_row_and_says_where_to_choose_otherwise(tmp_path: Path) -> None:
    path = table(tmp_path, heat={8: float("inf")})
    with pytest.raises(DataError) as caught:
        load_data(table_config(path), [KIND, HEAT])
    assert str(caught.value) == (
        f"{path}, row 9: target 'heat' is infinite: got inf, expected a finite float32 number. "
        "Correct the row, or choose what happens to such rows in [data.preprocessing]."
    )


def test_a_table_of_one_row_cannot_be_divided(tmp_path: Path) -> None:
    path = table(tmp_path, rows=1)
    with pytest.raises(DataError) as caught:
        load_data(table_config(path), [KIND])
    assert str(caught.value) == (
        f"{path} has 1 usable row, expected at least 3: one each to train, validate and test on. Give more data."
    )


def test_digits_have_the_dtypes_and_shapes_of_their_tasks() -> None:
    config = DataConfig.model_validate({"source": "mnist", "preprocessing": {"scale": 1 / 255}})
    splits = load_data(config, mnist.MNIST_TASKS)
    assert [len(part) for part in (splits.train, splits.validation, splits.test)] == [2800, 600, 600]
    for task in mnist.MNIST_TASKS:
        target = splits.train.targets[task.name]
        check_targets(task, target, "mnist")
        assert str(target.dtype) == target_spec(task).dtype
    assert splits.train.inputs["image"].dtype == np.float32
    assert splits.train.inputs["image"].max() == pytest.approx(1)
    assert splits.input == TensorSpec("image", "float32", ("batch", 1, 28, 28))


@pytest.mark.parametrize(
    ("change", "tasks", "text"),
    [
        ({}, [], "the run has no task, expected at least one. Add a [[tasks]] table."),
        (
            {"targets": {"kinds": "kind"}},
            [KIND],
            "data.targets names 'kinds', which is no task of the run; the tasks are kind. Did you mean 'kind'?",
        ),
        (
            {"classes": {"kind": ("x", "y")}},
            [KIND],
            (
                "data.classes.kind has 2 names for a classification task of size 3, expected a classification task and "
                "one name a class."
            ),
        ),
        ({"input": "kind"}, [KIND], "the input and a task are both named 'kind'. Rename one of them."),
    ],
)
def test_tables_that_do_not_fit_the_tasks(
    tmp_path: Path, change: dict[str, Any], tasks: list[TaskSpec], text: str
) -> None:
    config = table_config(table(tmp_path)).model_copy(update=change)
    with pytest.raises(ConfigurationError) as caught:
        load_data(config, tasks)
    assert str(caught.value) == text


class TestNewExamples:
    def test_a_users_file_is_preprocessed_as_in_training(self, tmp_path: Path) -> None:
        config = DataConfig.model_validate(
            {"source": "mnist", "preprocessing": {"resize": [14, 14], "scale": 1 / 255, "normalise": "train"}}
        )
        splits = load_data(config, mnist.MNIST_TASKS)
        path = mnist.write_demo_user(tmp_path / "user.npz", 0)
        stored = Preprocessing.from_json(splits.preprocessing.to_json())
        examples, report = load_examples(path, mnist.MNIST_TASKS, stored, splits.input)
        assert (len(examples), report.rows_kept) == (500, 500)
        raw = mnist.demo_user(0).fine_tune
        resize, scale, normalise = stored.steps
        assert isinstance(resize, Resize)
        assert isinstance(scale, Scale)
        assert isinstance(normalise, Normalise)
        expected = (resize.apply(raw["image"]) / 255 - normalise.mean[0]) / normalise.std[0]
        np.testing.assert_allclose(examples.inputs["image"], expected, atol=1e-5)
        back = stored.invert_outputs(examples.targets)
        np.testing.assert_allclose(back["slant"], raw["slant"], atol=1e-4)
        np.testing.assert_array_equal(examples.targets["digit"], raw["digit"])

    def test_the_same_rows_give_the_same_examples_from_every_format(self, tmp_path: Path) -> None:
        path = table(tmp_path)
        splits = load_data(table_config(path, normalise="train"), [KIND, HEAT])
        content = pa.parquet.read_table(path)
        pa.csv.write_csv(content, tmp_path / "table.csv")
        np.savez(
            tmp_path / "table.npz",
            features=np.stack([content["a"].to_numpy(), content["b"].to_numpy()], axis=1),
            kind=[("x", "y", "z").index(name) for name in content["kind"].to_pylist()],
            heat=content["heat"].to_numpy(),
            sample_weight=np.ones(40),
        )
        parquet, csv, npz = (
            load_examples(tmp_path / f"table.{kind}", [KIND, HEAT], splits.preprocessing, splits.input)[0]
            for kind in ("parquet", "csv", "npz")
        )
        for other in (csv, npz):
            np.testing.assert_array_equal(other.inputs["features"], parquet.inputs["features"])
            for task in ("kind", "heat"):
                np.testing.assert_array_equal(other.targets[task], parquet.targets[task])
        assert parquet.sample_weight is None
        assert npz.sample_weight is not None
        assert npz.sample_weight.dtype == np.float32
        train, _, _ = split_rows(40, SplitConfig())
        np.testing.assert_array_equal(parquet.inputs["features"][train], splits.train.inputs["features"])

    def test_missing_values_are_filled_where_training_filled_them(self, tmp_path: Path) -> None:
        filled = load_data(table_config(table(tmp_path), missing="mean"), [KIND])
        strict = load_data(table_config(table(tmp_path)), [KIND])
        path = tmp_path / "new.csv"
        path.write_text("a,b,kind\n1,,x\n2,3,y\n")
        examples, report = load_examples(path, [KIND], filled.preprocessing, filled.input)
        assert report.filled_values == 1
        assert np.isfinite(examples.inputs["features"]).all()
        with pytest.raises(DataError) as caught:
            load_examples(path, [KIND], strict.preprocessing, strict.input)
        assert str(caught.value) == (
            f"{path}, row 1: missing input value: got NaN or nothing in column 'b', expected a number. "
            "Correct or remove the row."
        )
        kept, report = load_examples(path, [KIND], strict.preprocessing, strict.input, missing="drop")
        assert len(kept) == report.rows_kept == 1

    def test_a_folder_of_images_laid_out_as_in_training(self, tmp_path: Path) -> None:
        for name in ("cat", "dog"):
            for index in range(4):
                (tmp_path / "all" / name).mkdir(parents=True, exist_ok=True)
                Image.new("L", (6 + index, 5), 40 * index).save(tmp_path / "all" / name / f"{index}.png")
        animal = TaskSpec("animal", "classification", size=2)
        config = DataConfig.model_validate(
            {
                "source": "images",
                "path": tmp_path / "all",
                "colour": "greyscale",
                "preprocessing": {"resize": [4, 4], "scale": 1 / 255},
            }
        )
        splits = load_data(config, [animal])
        assert splits.input.shape == ("batch", 1, 4, 4)
        assert splits.preprocessing.layout.classes == {"animal": ("cat", "dog")}
        (tmp_path / "new" / "dog").mkdir(parents=True)
        Image.new("RGB", (9, 9), (255, 255, 255)).save(tmp_path / "new" / "dog" / "a.png")
        examples, _ = load_examples(tmp_path / "new", [animal], splits.preprocessing, splits.input)
        np.testing.assert_array_equal(examples.targets["animal"], [1])
        np.testing.assert_allclose(examples.inputs["image"], np.ones((1, 1, 4, 4)), rtol=1e-6)

    def test_arrays_under_the_names_of_the_training_data(self, tmp_path: Path) -> None:
        ids = np.arange(20).reshape(10, 2)
        np.savez(tmp_path / "a.npz", tokens=ids, label=np.arange(10) % 3)
        config = DataConfig(
            source="arrays", path=tmp_path / "a.npz", input="tokens", dtype="int64", targets={"kind": "label"}
        )
        splits = load_data(config, [KIND])
        assert splits.input == TensorSpec("tokens", "int64", ("batch", 2))
        examples, _ = load_examples(tmp_path / "a.npz", [KIND], splits.preprocessing, splits.input)
        assert examples.inputs["tokens"].dtype == np.int64
        np.testing.assert_array_equal(examples.inputs["tokens"], ids)

    @pytest.mark.parametrize(
        ("image", "resize", "text"),
        [
            ((3, 28, 28), None, "input 'image' has shape [3, 28, 28], expected [n, 1, 28, 28]."),
            ((3, 1, 14, 14), None, "input 'image' has shape [3, 1, 14, 14], expected [n, 1, 28, 28]."),
            ((3, 3, 50, 50), Resize(28, 28), "has shape [3, 3, 50, 50], expected [n, 1, height, width]."),
        ],
    )
    def test_shapes_that_the_model_does_not_take(
        self, tmp_path: Path, image: tuple[int, ...], resize: Resize | None, text: str
    ) -> None:
        path = tmp_path / "a.npz"
        np.savez(path, image=np.zeros(image), kind=np.zeros(3, dtype=int))
        preprocessing = Preprocessing("image", () if resize is None else (resize,))
        with pytest.raises(DataError) as caught:
            load_examples(path, [KIND], preprocessing, TensorSpec("image", "float32", ("batch", 1, 28, 28)))
        assert text in str(caught.value)

    def test_a_table_for_a_model_that_was_not_trained_on_one(self, tmp_path: Path) -> None:
        spec = TensorSpec("image", "float32", ("batch", 1, 28, 28))
        with pytest.raises(DataError) as caught:
            load_examples(tmp_path / "a.csv", [KIND], Preprocessing("image"), spec)
        assert str(caught.value) == (
            f"{tmp_path / 'a.csv'} is a table, but the model was not trained on one: its input 'image' has shape "
            "[n, 1, 28, 28]. Give a .npz file with an array 'image'."
        )
        with pytest.raises(DataError, match=r"is of kind \.json, expected a \.npz, \.csv or \.parquet file"):
            load_examples(tmp_path / "a.json", [KIND], Preprocessing("image"), spec)
