"""Bundles on disk: every kind of damage is one clear error, and nothing already written is ever lost."""

from __future__ import annotations

import itertools
import json
import os
import pickletools
import re
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_for_tests import CASES, TRAIN, exported, numpy_batch

from nagedge import files
from nagedge.bundle import Bundle, write_bundle
from nagedge.errors import BundleError, ConfigurationError
from nagedge.runtimes import open_training

STEP = f"targets/{TRAIN}/train_step.onnx"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(CASES["mlp"](), tmp_path_factory.mktemp("original") / "bundle")


@pytest.fixture
def copied(original: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original.path, tmp_path / "bundle"))


def refused(path: Path, says: str) -> None:
    with pytest.raises(BundleError) as caught:
        Bundle.load(path)
    text = str(caught.value)
    assert says in text
    assert "\n" not in text
    assert str(path) in text


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def test_a_bundle_reads_as_it_was_written(original: Bundle, copied: Path) -> None:
    bundle = Bundle.load(str(copied))
    assert bundle.manifest == original.manifest
    on_disk = {p.relative_to(copied).as_posix() for p in copied.rglob("*") if p.is_file()}
    assert set(bundle.manifest.files) == on_disk - {"manifest.json"}
    assert set(bundle.params()) == {"0.weight", "0.bias", "2.weight", "2.bias"}
    assert all(not value.any() for value in bundle.momentum().values())
    assert bundle.text("forward.json").startswith('{"format":"nagedge-forward"')
    with pytest.raises(BundleError, match="holds no 'secret'"):
        bundle.file("secret")


def test_no_file_holds_a_pickle(copied: Path) -> None:
    for path in copied.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not content.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK"))
            with pytest.raises(Exception):  # noqa: B017, PT011 (whatever a text that is no pickle raises)
                list(pickletools.genops(content))


# --- damage -------------------------------------------------------------------------------------------------------


def test_nothing_there(tmp_path: Path) -> None:
    refused(tmp_path / "none", "does not exist: expected a folder or .zip with manifest.json")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "holds no bundle: expected a folder or .zip with manifest.json")


@pytest.mark.parametrize("name", [STEP, "params.safetensors", "momentum.safetensors", "forward.json"])
def test_a_missing_truncated_or_changed_file(copied: Path, name: str) -> None:
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[:-1])
    refused(
        copied,
        f"'{name}' has {len(content) - 1} bytes, the manifest says {len(content)}: it is truncated or was changed",
    )
    middle = len(content) // 2
    (copied / name).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    refused(copied, "the manifest says")
    refused(copied, f"'{name}' has sha256 ")
    (copied / name).unlink()
    refused(copied, f"'{name}' is missing. Export again, or take it from a backup.")
    (copied / name).mkdir()
    refused(copied, f"'{name}' is missing")


def test_a_wrong_hash_in_the_manifest(copied: Path) -> None:
    edit(copied, lambda m: m["files"][STEP].update(sha256="0" * 64))
    refused(copied, "the manifest says 0000000000000000…: it was changed")


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "../outside",
        "targets/../../outside",
        "a\\b",
        "C:/x",
        "..",
        "a//b",
        "./a",
        "a/",
        "",
        "a\0b",
    ],
)
def test_a_name_that_leads_out(copied: Path, name: str) -> None:
    (copied.parent / "outside").write_text("x")
    edit(copied, lambda m: m["files"].update({name: {"size_bytes": 1, "sha256": "0" * 64}}))
    refused(
        copied,
        f"names the file {name!r}, which may lead out of the bundle. It was not written by this program",
    )


def test_links_in_the_place_of_files_folders_and_the_manifest(copied: Path) -> None:
    target = copied / STEP
    target.rename(copied.parent / "elsewhere")
    target.symlink_to(copied.parent / "elsewhere")
    refused(copied, f"'{STEP}' is a link. Copy the real file there.")
    target.unlink()
    (copied.parent / "elsewhere").rename(target)
    (copied / "targets").rename(copied.parent / "targets")
    (copied / "targets").symlink_to(copied.parent / "targets")
    refused(copied, "is a link")
    (copied / "manifest.json").rename(copied.parent / "manifest.json")
    (copied / "manifest.json").symlink_to(copied.parent / "manifest.json")
    refused(copied, "holds no bundle")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            lambda m: m.update(schema_version=2),
            "has schema version 2, this program reads 1. Use the version of NagEdge that wrote it",
        ),
        (lambda m: m.pop("schema_version"), "has schema version None"),
        (
            lambda m: m.update(colour="red"),
            "manifest.json is wrong at 'colour': this key is unknown",
        ),
        (lambda m: m["training"].update(lr="fast"), "manifest.json is wrong at 'training.lr'"),
        (lambda m: m.pop("tasks"), "manifest.json is wrong at 'tasks': Field required"),
        (lambda m: m.update(tasks=[]), "manifest.json is wrong at 'tasks'"),
        (lambda m: m["files"][STEP].update(size_bytes=-1), "manifest.json is wrong at 'files."),
        (lambda m: m.update(format="other"), 'is no bundle: manifest.json lacks "format": "nagedge-bundle".'),
        (
            lambda m: m["targets"][TRAIN]["artifacts"].update(train_step="targets/other.onnx"),
            f"target {TRAIN!r} names 'targets/other.onnx', which the manifest does not list",
        ),
        (
            lambda m: m["targets"][TRAIN]["artifacts"].update(train_step="../x"),
            "which the manifest does not list",
        ),
    ],
)
def test_a_wrong_manifest(copied: Path, change: Callable[[dict[str, Any]], object], says: str) -> None:
    edit(copied, change)
    refused(copied, says)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "null", "\ufeff{}", '{"format": ' + "[" * 200_000])
def test_a_manifest_that_is_none(copied: Path, text: str) -> None:
    (copied / "manifest.json").write_text(text)
    refused(copied, "manifest.json")


def test_a_manifest_that_is_no_text(copied: Path) -> None:
    (copied / "manifest.json").write_bytes(b"\xff\xfe\x00\x01")
    refused(copied, "manifest.json is damaged")


def test_a_tensor_file_that_is_none(copied: Path) -> None:
    content = b"not safetensors"
    (copied / "params.safetensors").write_bytes(content)
    (copied / "again").write_bytes(content)
    edit(
        copied,
        lambda m: m["files"].update(
            {"params.safetensors": {"size_bytes": len(content), "sha256": files.sha256_of(copied / "again")}}
        ),
    )
    bundle = Bundle.load(copied)
    with pytest.raises(BundleError, match=r"params.safetensors is no safetensors file"):
        bundle.params()


def test_a_manifest_that_trains_what_is_not_there(copied: Path) -> None:
    edit(copied, lambda m: m["training"]["parameters"].append("ghost"))
    with pytest.raises(
        BundleError, match=r"'ghost' is trained, says the manifest, but params.safetensors does not hold it"
    ):
        open_training(Bundle.load(copied))


# --- archives -----------------------------------------------------------------------------------------------------


def zipped(folder: Path, out: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(out, "w") as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.write(path, prefix + path.relative_to(folder).as_posix())
    return out


@pytest.mark.parametrize("prefix", ["", "bundle/"])
def test_a_zip_of_a_bundle_is_one(original: Bundle, copied: Path, tmp_path: Path, prefix: str) -> None:
    bundle = Bundle.load(zipped(copied, tmp_path / "bundle.zip", prefix))
    assert bundle.manifest == original.manifest
    folder = bundle.path
    inputs, targets = numpy_batch(bundle, 3)
    open_training(bundle).step(inputs, targets, lr=0.1, momentum=0.9, weight_decay=0.0)
    del bundle
    assert not folder.exists(), "the unpacked folder lives as long as the bundle"


def test_writing_a_zip(original: Bundle, tmp_path: Path) -> None:
    out = tmp_path / "made.zip"
    for _ in range(2):  # the second time over the first
        bundle = exported(CASES["mlp"](), out)
        assert set(bundle.manifest.files) == set(original.manifest.files)
        assert np.array_equal(Bundle.load(out).params()["0.weight"], original.params()["0.weight"])
    assert [p.name for p in tmp_path.iterdir()] == ["made.zip"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o644


@pytest.mark.parametrize("name", ["../slip", "/tmp/slip", "a/../../slip", "a\\..\\slip", "C:slip"])
def test_a_zip_whose_names_lead_out(copied: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "deep").mkdir()
    path = zipped(copied, tmp_path / "deep" / "bundle.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "x")
    refused(path, "may lead out of the bundle")
    assert not list(tmp_path.rglob("slip"))


def test_a_zip_with_a_link(copied: Path, tmp_path: Path) -> None:
    path = zipped(copied, tmp_path / "bundle.zip")
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    refused(path, "'link' is a link. Copy the real file there.")


def test_a_damaged_zip(copied: Path, tmp_path: Path) -> None:
    path = zipped(copied, tmp_path / "bundle.zip")
    content = path.read_bytes()
    place = content.index(b'"nagedge-bundle"')
    path.write_bytes(content[:place] + b"#" + content[place + 1 :])
    refused(path, "cannot be unpacked: Bad CRC-32")
    path.write_bytes(content[: len(content) // 2])
    refused(path, "is a file but no .zip archive: give a bundle's folder, or a .zip of it.")
    path.write_text("text")
    refused(path, "is a file but no .zip archive")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "x")
    refused(path, "holds no bundle")


# --- writing ------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_foreign_folder_file_zip_or_link_is_not_written_over(original: Bundle, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "manifest.json").write_text('{"name": "a web app"}')
    file = tmp_path / "notes"
    file.write_text("x")
    archive = tmp_path / "backup.zip"
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("letter.txt", "x")
    link = tmp_path / "link"
    link.symlink_to(original.path)
    before = contents(tmp_path)
    for out in (folder, file, archive, link):
        with pytest.raises(
            ConfigurationError,
            match=re.escape(f"{str(out)!r} exists and is not a bundle: nothing was written."),
        ):
            exported(CASES["mlp"](), out)
    assert contents(tmp_path) == before


def test_an_empty_folder_and_an_old_bundle_are_written_over(tmp_path: Path) -> None:
    out = tmp_path / "bundle"
    out.mkdir()
    exported(CASES["mlp"](), out)
    second = exported(CASES["two_inputs"](), out)
    assert set(Bundle.load(out).manifest.files) == set(second.manifest.files)
    assert Bundle.load(out).manifest.model == "TwoInputs"
    assert [p.name for p in tmp_path.iterdir()] == ["bundle"]


def failure(action: Callable[[], object]) -> str:
    try:
        action()
    except ConfigurationError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("broken", ["write_bytes", "write_text", "fsync", "replace"])
def test_a_failure_at_any_time_leaves_the_old_bundle(
    copied: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    before = contents(copied)
    old = Bundle.load(copied)
    tensors = {"params.safetensors": old.params(), "momentum.safetensors": old.momentum()}
    others = {name: copied.joinpath(name).read_bytes() for name in old.manifest.files if name not in tensors}
    owner = os if broken == "fsync" else Path
    original_call = getattr(owner, broken)
    for successes in itertools.count():  # the next call fails, then the one after that, ...
        calls = itertools.count()

        def counted(*arguments: Any, calls: Any = calls, successes: int = successes, **keywords: Any) -> Any:
            if next(calls) == successes:
                raise OSError(28, "No space left on device")
            return original_call(*arguments, **keywords)

        monkeypatch.setattr(owner, broken, counted)
        text = failure(lambda: write_bundle(copied, old.manifest, others, tensors))
        monkeypatch.undo()
        if not text:
            break
        assert "cannot be written: No space left on device. What was there is kept" in text
        assert contents(copied) == before
        assert [p.name for p in copied.parent.iterdir()] == ["bundle"], "nothing is left lying about"
    assert successes > 0
    Bundle.load(copied)


def test_verification_is_stored_whole_or_not_at_all(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = contents(copied)
    bundle = Bundle.load(copied)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="No space"):
            bundle.with_verification({})
    assert contents(copied) == before
    bundle.with_verification({})
    assert Bundle.load(copied).manifest == bundle.manifest


# --- targets ------------------------------------------------------------------------------------------------------


def test_targets_are_found_by_name_or_by_what_they_can_do(original: Bundle) -> None:
    assert original.target()[0] == original.target(TRAIN)[0] == original.target(role="train_step")[0] == TRAIN
    with pytest.raises(
        ConfigurationError,
        match=rf"has no target 'any-any-onnxruntime-fp32'; it has {TRAIN}. Did you mean '{TRAIN}'",
    ):
        original.target("any-any-onnxruntime-fp32")
    with pytest.raises(ConfigurationError, match=r"has no 'quantized' artifact \(it has infer, train_step\)"):
        original.target(TRAIN, role="quantized")
