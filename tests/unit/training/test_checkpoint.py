"""Checkpoints: what they hold, what is refused, and that a crash while writing loses nothing."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from nagedge.data.examples import DataSplits
from nagedge.errors import BundleError
from nagedge.training.checkpoint import CHECKPOINT_FILE, Checkpoint, TrainingState, write_checkpoint
from nagedge.training.fit import train
from nagedge.training.run import Run

MakeRun = Callable[..., Run]
MakeData = Callable[..., DataSplits]


@pytest.fixture
def trained(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> Checkpoint:
    return train(make_run(schedule={"epochs": 1}), out=tmp_path / "c", data=make_data())


def edit(checkpoint: Checkpoint, change: Callable[[dict[str, object]], object]) -> None:
    file = checkpoint.path / CHECKPOINT_FILE
    document = json.loads(file.read_text())
    change(document)
    file.write_text(json.dumps(document))


def test_loading_gives_what_was_trained(trained: Checkpoint, make_run: MakeRun, make_data: MakeData) -> None:
    loaded, data = Checkpoint.load(trained.path), make_data()
    assert loaded == trained
    assert loaded.run == make_run(schedule={"epochs": 1})
    assert [task.name for task in loaded.tasks] == ["kind", "level", "tags"]
    assert loaded.input == data.input
    assert loaded.preprocessing == data.preprocessing
    assert loaded.finished


def test_the_folder_holds_three_files_and_no_pickle(trained: Checkpoint) -> None:
    assert {file.name for file in trained.path.iterdir()} == {CHECKPOINT_FILE, *trained.files.values()}
    assert all(name.endswith(".safetensors") for name in trained.files.values())


def test_the_model_is_rebuilt_in_evaluation_mode(trained: Checkpoint, make_data: MakeData) -> None:
    from nagedge.training.batches import DeviceExamples
    from nagedge.training.evaluate import evaluate

    model, data = trained.build_model(), make_data()
    assert not model.training
    for name, value in model.state_dict().items():
        assert torch.equal(value, trained.params()[name])
    examples = DeviceExamples.of(data.validation, "features", torch.device("cpu"))
    assert evaluate(model, examples, trained.tasks, trained.preprocessing)[1] == trained.metrics


def test_batchnorm_statistics_are_kept(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    from nagedge.specs import TensorSpec

    data = make_data()
    image = TensorSpec("features", "float32", ("batch", 1, 6, 6))
    noise = np.random.default_rng(0).standard_normal((96, 1, 6, 6)).astype(np.float32) + 3
    train_part, validation, test = (
        dataclasses.replace(part, inputs={"features": noise[: len(part)]})
        for part in (data.train, data.validation, data.test)
    )
    data = dataclasses.replace(data, input=image, train=train_part, validation=validation, test=test)
    checkpoint = train(make_run(model={"trunk": "cnn", "channels": [4, 8]}), out=tmp_path / "c", data=data)
    buffers = dict(checkpoint.build_model().named_buffers())
    assert buffers["trunk.1.num_batches_tracked"].item() == 18
    assert bool(buffers["trunk.1.running_var"].ne(1).all())


def test_momentum_buffers_have_the_names_and_shapes_of_the_parameters(trained: Checkpoint) -> None:
    momentum, model = trained.momentum(), trained.build_model()
    assert {name: value.shape for name, value in momentum.items()} == {
        name: tuple(param.shape) for name, param in model.named_parameters()
    }
    assert all(value.any() for value in momentum.values())


def refused(path: Path) -> str:
    with pytest.raises(BundleError) as error:
        Checkpoint.load(path)
    return str(error.value)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path) == (
        f"{str(tmp_path)!r} holds no checkpoint: checkpoint.json cannot be read (No such file or directory)."
        " Give the folder that `nagedge train` wrote."
    )
    assert "is no folder: checkpoint.json cannot be read" in refused(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    assert "is no folder" in refused(tmp_path / "file")


def test_foreign_and_newer_documents_are_refused(trained: Checkpoint) -> None:
    edit(trained, lambda document: document.update(version=99))
    assert "has version 99, this program reads 1. Use the version that wrote it." in refused(trained.path)
    edit(trained, lambda document: document.update(format="other"))
    assert 'is no checkpoint: checkpoint.json lacks "format": "nagedge-checkpoint".' in refused(trained.path)
    (trained.path / CHECKPOINT_FILE).write_text("[1, 2]")
    assert "is no checkpoint" in refused(trained.path)


@pytest.mark.parametrize("key", ["run", "input", "preprocessing", "files", "state"])
def test_a_document_that_lacks_a_part_is_refused(trained: Checkpoint, key: str) -> None:
    edit(trained, lambda document: document.pop(key))
    assert f"checkpoint.json does not hold what version 1 expects (KeyError: '{key}')" in refused(
        trained.path
    )
    edit(trained, lambda document: document.update({key: 3}))
    assert "checkpoint.json does not hold what version 1 expects" in refused(trained.path)


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.9])
def test_truncated_files_are_refused(trained: Checkpoint, kept: float) -> None:
    for name in [*trained.files.values(), CHECKPOINT_FILE]:
        file = trained.path / name
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * kept)])
        assert f"{name} is damaged" in refused(trained.path)
        file.write_bytes(content)
    assert Checkpoint.load(trained.path) == trained


def test_one_changed_bit_is_refused(trained: Checkpoint) -> None:
    file = trained.path / trained.files["momentum"]
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert (
        f"{file.name} is damaged: its {len(content)} bytes are not the {len(content)} bytes with sha256 "
        in refused(trained.path)
    )


def test_a_missing_tensor_file_is_refused(trained: Checkpoint) -> None:
    (trained.path / trained.files["params"]).unlink()
    assert f"{trained.files['params']} cannot be read (No such file or directory)" in refused(trained.path)


@pytest.mark.parametrize(
    "name", ["../params.safetensors", "/etc/passwd", "momentum-0123456789abcdef.safetensors"]
)
def test_names_that_this_program_does_not_give_are_refused(trained: Checkpoint, name: str) -> None:
    def rename(document: dict[str, object]) -> None:
        files = document["files"]
        assert isinstance(files, dict)
        files["params"]["name"] = name

    edit(trained, rename)
    assert f"checkpoint.json names {name!r} as its params, expected 'params-<hash>.safetensors'" in refused(
        trained.path
    )


def test_a_file_that_is_no_safetensors_is_refused_even_with_its_hash(trained: Checkpoint) -> None:
    content = b"not tensors"
    name = f"params-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    (trained.path / name).write_bytes(content)

    def point(document: dict[str, object]) -> None:
        files = document["files"]
        assert isinstance(files, dict)
        files["params"] = {
            "name": name,
            "sha256": hashlib.sha256(content).hexdigest(),
            "size_bytes": len(content),
        }

    edit(trained, point)
    assert f"{name} is no safetensors file" in refused(trained.path)


def test_weights_of_another_model_are_refused(trained: Checkpoint) -> None:
    def widen(document: dict[str, object]) -> None:
        run = document["run"]
        assert isinstance(run, dict)
        run["model"]["hidden"] = [16, 9]

    edit(trained, widen)
    with pytest.raises(
        BundleError,
        match=r"its parameters do not fit model 'mlp': size mismatch for trunk.3.weight: .*Use the code",
    ):
        Checkpoint.load(trained.path).build_model()


class Crash(BaseException):
    """Stands for a kill between two system calls."""


def crash_at(call: int, patch: pytest.MonkeyPatch) -> Iterator[int]:
    """Make the ``call``-th system call that changes the disk raise instead; yields nothing, counts calls."""
    count = 0

    def guarded(real: Callable[..., object]) -> Callable[..., object]:
        def replacement(*args: object, **kwargs: object) -> object:
            nonlocal count
            count += 1
            if count >= call:  # a killed process does not clean up either: every later call fails too
                raise Crash
            return real(*args, **kwargs)

        return replacement

    for name in ("fsync", "replace", "rename", "unlink", "open"):
        patch.setattr(os, name, guarded(getattr(os, name)))
    patch.setattr(Path, "replace", guarded(Path.replace))
    patch.setattr(Path, "unlink", guarded(Path.unlink))
    yield count


def write(path: Path, run: Run, data: DataSplits, step: int) -> None:
    tensors = {"w": torch.full((3,), float(step))}
    write_checkpoint(
        path, run=run, input_spec=data.input, preprocessing=data.preprocessing, state=TrainingState(step, 10),
        params=tensors, momentum=tensors,
    )  # fmt: skip


def test_a_crash_at_any_point_of_writing_leaves_the_old_or_the_new_checkpoint(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    run, data = make_run(), make_data()
    seen: list[int] = []
    for call in range(1, 200):
        path = tmp_path / str(call)
        write(path, run, data, step=1)
        crashed = False
        with pytest.MonkeyPatch.context() as patch:
            next(crash_at(call, patch))
            try:
                write(path, run, data, step=2)
            except Crash:
                crashed = True
        loaded = Checkpoint.load(path)
        seen.append(loaded.state.step)
        assert loaded.params()["w"].tolist() == [float(loaded.state.step)] * 3
        write(path, run, data, step=3)  # the next write works, and clears what the crash left
        assert Checkpoint.load(path).state.step == 3
        assert len(list(path.iterdir())) == 3
        shutil.rmtree(path)
        if not crashed:
            break
    assert seen[0] == 1
    assert seen[-1] == 2
    assert seen == sorted(seen)
    assert len(seen) > 10


def test_a_folder_that_cannot_be_written_is_one_clear_error(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match=r"cannot be written: a part of its path is a file"):
        write(tmp_path / "file", make_run(), make_data(), step=1)


def test_other_files_in_the_folder_are_left_alone(
    tmp_path: Path, make_run: MakeRun, make_data: MakeData
) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "params-mine.safetensors").write_bytes(b"mine")
    for step in (1, 2):
        write(tmp_path, make_run(), make_data(), step=step)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert (tmp_path / "params-mine.safetensors").read_bytes() == b"mine"


def test_tied_weights_are_stored(tmp_path: Path, make_run: MakeRun, make_data: MakeData) -> None:
    data, tied = make_data(), torch.arange(3.0)
    checkpoint = write_checkpoint(
        tmp_path, run=make_run(), input_spec=data.input, preprocessing=data.preprocessing,
        state=TrainingState(0, 1), params={"a": tied, "b": tied, "c": tied[1:]}, momentum={},
    )  # fmt: skip
    stored = safetensors.torch.load_file(tmp_path / checkpoint.files["params"])
    assert [stored[name].tolist() for name in "abc"] == [[0, 1, 2], [0, 1, 2], [1, 2]]
