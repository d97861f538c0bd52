"""The [data] table: defaults, and every key that is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from nagedge.data.config import DataConfig


def test_the_shortest_configuration_names_only_the_source() -> None:
    config = DataConfig(source="mnist")
    assert (config.input_name, config.split.seed, config.preprocessing.missing) == ("image", 0, "error")


def test_the_input_has_a_name_for_each_source() -> None:
    assert DataConfig(source="arrays", path=Path("a.npz")).input_name == "input"
    assert DataConfig(source="table", path=Path("a.csv"), columns=["a"]).input_name == "features"
    assert DataConfig(source="images", path=Path("a"), input="photo").input_name == "photo"


def test_a_relative_path_is_taken_from_the_folder_of_the_run_file() -> None:
    config = DataConfig(source="arrays", path=Path("a.npz"))
    assert config.in_folder(Path("/runs")).path == Path("/runs/a.npz")
    absolute = DataConfig(source="arrays", path=Path("/data/a.npz"))
    assert absolute.in_folder(Path("/runs")).path == Path("/data/a.npz")
    assert DataConfig(source="mnist").in_folder(Path("/runs")).path is None


@pytest.mark.parametrize(
    ("table", "text"),
    [
        ({"source": "mnits"}, "'mnist', 'arrays', 'table', 'images', 'text', 'audio' or 'shards'"),
        ({"source": "mnist", "pth": "x"}, "Extra inputs are not permitted"),
        (
            {"source": "mnist", "path": "x"},
            "path is for source 'arrays' or 'audio' or 'images' or 'shards' or 'table' or 'text', not for 'mnist'",
        ),
        ({"source": "arrays"}, "source 'arrays' needs a path"),
        (
            {"source": "arrays", "path": "x.npz", "dtype": "int64", "preprocessing": {"scale": 2}},
            "dtype 'int64' takes no resize, scale or normalise",
        ),
        ({"source": "table", "path": "x.csv"}, "needs columns"),
        ({"source": "table", "path": "x.csv", "columns": ["a", "a"]}, "columns names 'a' more than once"),
        ({"source": "arrays", "path": "x.npz", "colour": "rgb"}, "colour is for source 'images'"),
        (
            {"source": "images", "path": "x", "classes": {"t": ["a", "a"]}},
            "classes.t names 'a' more than once",
        ),
        ({"source": "mnist", "split": {"train": 0.9}}, "train + validation + test is 1.2, expected 1"),
        (
            {"source": "mnist", "preprocessing": {"scale": 0}},
            "scale is 0.0, expected a finite number other than 0",
        ),
        (
            {"source": "mnist", "preprocessing": {"resize": [0, 4]}},
            "resize is [0, 4], expected a height and a width",
        ),
        ({"source": "mnist", "preprocessing": {"missing": float("nan")}}, "missing is nan"),
        (
            {"source": "mnist", "preprocessing": {"normalise": {"mean": [0], "std": [0]}}},
            "std holds a value that is not finite and > 0",
        ),
        (
            {"source": "mnist", "preprocessing": {"normalise": {"mean": [0, 1], "std": [1]}}},
            "mean has 2 values and std 1",
        ),
    ],
)
def test_a_wrong_table_is_refused(table: dict[str, Any], text: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DataConfig.model_validate(table)
    assert text in str(caught.value)
