from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from nagedge.errors import ConfigurationError
from nagedge.targets import available_targets, load_target, target_file

if TYPE_CHECKING:
    from pathlib import Path

TRAIN = "any-any-onnxruntime-fp32-train"


@pytest.mark.parametrize("name", available_targets())
def test_a_shipped_name_repeats_the_keys_of_its_file(name: str) -> None:
    target = load_target(name)
    suffix = "-train" if target.train else ""
    assert name == f"{target.os}-{target.arch}-{target.backend}-{target.precision}{suffix}"


def test_the_shipped_targets_are_the_documented_ones() -> None:
    readme = (target_file(TRAIN).parent / "README.md").read_text()
    assert re.findall(r"^\| `([^`|]+-[^`|]+)` \|", readme, re.MULTILINE) == list(available_targets())
    assert load_target(TRAIN).opset == 18


def test_a_target_is_read_from_a_file_and_named_after_it(tmp_path: Path) -> None:
    copy = tmp_path / "my-phone.toml"
    copy.write_text(target_file(TRAIN).read_text().replace("opset = 18", "opset = 20"))
    for given in (copy, str(copy)):
        target = load_target(given)
        assert (target.name, target.opset, target.train) == ("my-phone", 20, True)


def test_an_unknown_name_is_refused_with_the_nearest_one() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load_target("any-any-onxruntime-fp32-train")
    assert str(caught.value) == (
        f"unknown target 'any-any-onxruntime-fp32-train'; `nagedge targets ls` lists the {len(available_targets())} "
        "that come with NagEdge, or give the path of a .toml file. "
        "Did you mean 'any-any-onnxruntime-fp32-train'?"
    )


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        ("opset = 18", 'opset = "18"', "opset is '18', expected a whole number."),
        ("opset = 18", "opset = true", "opset is True, expected a whole number."),
        (
            "opset = 18",
            "opset = 11",
            "opset is 11, expected 18 to 22; 18 runs on every ONNX Runtime since 1.14.",
        ),
        ("opset = 18", "opsett = 18", "unknown key 'opsett'; expected os, arch, backend,"),
        ("opset = 18", "opsett = 18", "Did you mean 'opset'?"),
        ("opset = 18\n", "\n", "'opset' is missing; a target that writes ONNX states it."),
        ("rtol = 1e-3", "rtol = -1", "rtol is -1.0, expected a finite number >= 0."),
        ("rtol = 1e-3", "rtol = nan", "rtol is nan, expected a finite number >= 0."),
        ("train = true", "train = 1", "train is 1, expected true or false."),
        (
            '"onnxruntime"',
            '"onnx-runtime"',
            "unknown backend 'onnx-runtime'; this version has onnxruntime, ort_training, litert, tflite_runtime, ",
        ),
        (
            '"fp32"',
            '"fp8"',
            "unknown precision 'fp8'; this version has fp32, fp16, int8, int8_dynamic, palette4.",
        ),
        ('"fp32"', '"palette4"', "precision is 'palette4', but backend 'onnxruntime' has fp32, fp16, int8, "),
        ('"fp32"', '"fp16"', "train is true with precision 'fp16'; a training step is fp32"),
        ("opset = 18", 'opset = 18\nminimum_os = "iOS18"', "minimum_os belongs to backend 'coreml' only."),
        ("opset = 18", "opset = 18\nbatch = 0", "batch is 0, expected a size >= 1."),
        ('"onnxruntime"', '"litert"', "opset is 18, but backend 'litert' writes no ONNX: remove it."),
        (
            "train = true",
            "train = ",
            "not valid TOML (Invalid value (at line 7, column 9)); start from a copy",
        ),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, old: str, new: str, text: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(re.sub(f"(?m)^{old}" if old[0] != '"' else old, new, target_file(TRAIN).read_text()))
    with pytest.raises(ConfigurationError) as caught:
        load_target(path)
    assert str(caught.value).startswith(f"target file {path}: ")
    assert text in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"cannot be read \(No such file or directory\); give the path"
    ):
        load_target(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes(b'os = "\xe9"')
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        load_target(tmp_path / "latin.toml")


def test_a_whole_number_is_accepted_where_a_number_is_expected(tmp_path: Path) -> None:
    path = tmp_path / "loose.toml"
    path.write_text(target_file(TRAIN).read_text().replace("rtol = 1e-3", "rtol = 1"))
    rtol = load_target(path).rtol
    assert rtol == 1.0
    assert isinstance(rtol, float)
