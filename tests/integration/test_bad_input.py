"""Bad input through the real command line: one clear text, exit code 2, no traceback, nothing written and nothing lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner, Result

from nagedge.cli.app import app
from nagedge.files import sha256_of
from nagedge.targets import available_targets

TARGET = "any-any-onnxruntime-fp32-train"

RUN = """
output = "checkpoint"
batch_size = 16
[data]
source = "arrays"
path = "examples.npz"
[model]
trunk = "mlp"
[tasks.kind]
kind = "classification"
size = 3
[tasks.level]
kind = "regression"
[schedule]
epochs = 1
"""

TABLE_RUN = """
output = "table-checkpoint"
[data]
source = "table"
path = "examples.csv"
columns = ["a", "b"]
[model]
trunk = "mlp"
[tasks.kind]
kind = "classification"
size = 3
[schedule]
epochs = 1
"""

FACTORIES = """
import torch
from torch import nn
import nagedge

TASK = [nagedge.TaskSpec("state", "classification", size=3)]

def raises(): raise RuntimeError("the weights are gone")
def leaves(): raise SystemExit(3)
def number(): return 3
def needs(path): return path
def small(): return nn.Linear(4, 2), TASK, torch.randn(4, 4)
def forward_fails(): return nn.Linear(4, 3), TASK, torch.randn(4, 5)

class Warp(nn.Module):
    def forward(self, x): return torch.erfinv(x)

def unsupported(): return nn.Sequential(nn.Linear(4, 3), Warp()), TASK, torch.randn(4, 4)
"""


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256_of(path) if path.is_file() else "folder"
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts
    }


def refused(folder: Path, *arguments: str | Path) -> str:
    """Return the text of a refusal, after checking that it is one, and that the folder is as it was."""
    before = contents(folder)
    result = command(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit)
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1, "one text on one line"
    assert "Traceback" not in result.output
    assert contents(folder) == before
    return result.stderr.removeprefix("error: ").strip()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs, their checkpoints and bundles, and the examples that fit them; nobody writes to it."""
    folder = tmp_path_factory.mktemp("made")
    np.savez(folder / "examples.npz", **arrays())
    (folder / "examples.csv").write_text(csv())
    (folder / "run.toml").write_text(RUN)
    (folder / "table.toml").write_text(TABLE_RUN)
    (folder / "bad_factories.py").write_text(FACTORIES)
    for run, checkpoint, bundle in (
        ("run", "checkpoint", "bundle"),
        ("table", "table-checkpoint", "table-bundle"),
    ):
        assert command("train", folder / f"{run}.toml", "--out", folder / checkpoint).exit_code == 0
        exported = command("export", folder / checkpoint, "--target", TARGET, "--out", folder / bundle)
        assert exported.exit_code == 0, exported.output
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of ``made`` of one's own, which is the working folder."""
    shutil.copytree(made, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def arrays(**changed: object) -> dict[str, object]:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 3)).astype(np.float32)
    return {"input": values, "kind": rng.integers(0, 3, 60), "level": values[:, 0].copy(), **changed}


def csv(header: str = "a,b,kind", extra: str = "") -> str:
    rng = np.random.default_rng(0)
    rows = [f"{a:.3f},{b:.3f},{i % 3}" for i, (a, b) in enumerate(rng.normal(size=(60, 2)))]
    return "\n".join([header, *rows[:4], *([extra] if extra else []), *rows[4:]]) + "\n"


def at(array: np.ndarray, index: object, value: float) -> np.ndarray:
    changed = array.copy()
    changed[index] = value
    return changed


def npz(path: Path, **changed: object) -> None:
    np.savez(path, **{name: array for name, array in arrays(**changed).items() if array is not None})


def truncated_npz(path: Path) -> None:
    npz(path)
    path.write_bytes(path.read_bytes()[:700])


def parquet(path: Path, *, cut: int = 0, without: str = "") -> None:
    rng = np.random.default_rng(0)
    table = pa.table({"a": rng.normal(size=60), "b": rng.normal(size=60), "kind": np.arange(60) % 3})
    pq.write_table(table.drop([without]) if without else table, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size - cut])


GOOD = arrays()
KIND, LEVEL, INPUT = GOOD["kind"], GOOD["level"], GOOD["input"]

ARRAY_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "text.npz": (
        lambda path: path.write_text("digits"),
        ("text.npz is not a complete .npz archive, expected a file written by numpy.savez. It is truncated or of "
        "another kind: write it again."),
    ),
    "cut.npz": (truncated_npz, "cut.npz is not a complete .npz archive, expected a file written by numpy.savez."),
    "empty.npz": (lambda path: path.touch(), "empty.npz is empty (0 bytes), expected a .npz archive"),
    "absent.npz": (lambda path: None, "absent.npz is not a file, expected a .npz archive of numpy arrays. Check the"),
    "folder.npz": (lambda path: path.mkdir(), "folder.npz is not a file, expected a .npz archive of numpy arrays."),
    "folder": (lambda path: path.mkdir(), "folder is a folder, expected a .npz, .csv or .parquet file."),
    "notes.txt": (
        lambda path: path.touch(), "notes.txt is of kind .txt, expected a .npz, .csv or .parquet file. Convert the data."
    ),
    "a.csv": (
        lambda path: path.write_text("input,kind,level\n1,2,3\n"),
        "a.csv is a table, but the model was not trained on one: its input 'input' has shape [n, 3]. Give a .npz file",
    ),
    "label.npz": (
        partial(npz, kind=at(KIND, 7, 3)),
        "label.npz, row 8: target 'kind' is out of range: got 3, expected a whole number from 0 to 2. Correct or remove",
    ),
    "negative.npz": (partial(npz, kind=at(KIND, 7, -1)), "negative.npz, row 8: target 'kind' is out of range: got -1"),
    "shape.npz": (
        partial(npz, input=np.zeros((60, 4), np.float32)),
        "shape.npz: input 'input' has shape [60, 4], expected [n, 3]. Give data of the shape that the model was trained",
    ),
    "rows.npz": (
        partial(npz, kind=KIND[:50]),
        "rows.npz, array 'kind' has shape [50], expected 60 rows, as many as the input has.",
    ),
    "target.npz": (
        partial(npz, kind=None, knid=KIND),
        "target.npz has no array 'kind' for the target of task 'kind'; it holds input, knid, level. Did you mean 'knid'?",
    ),
    "input.npz": (partial(npz, input=None), "input.npz has no array 'input' for the input; it holds kind, level."),
    "nan.npz": (
        partial(npz, input=at(INPUT, (5, 1), np.nan)),
        "nan.npz, row 6: missing input value: got NaN or nothing at position 1, expected a number. Correct or remove",
    ),
    "infinite.npz": (
        partial(npz, level=at(LEVEL, 3, np.inf)),
        "infinite.npz, row 4: target 'level' is infinite: got inf, expected a finite float32 number.",
    ),
    "pickle.npz": (
        partial(npz, input=np.array([{}] * 60, dtype=object)),
        "pickle.npz, array 'input' holds Python objects, expected numbers; objects are not loaded because a pickle can",
    ),
    "words.npz": (
        partial(npz, kind=np.array(["seven"] * 60)),
        "words.npz, array 'kind': targets of task 'kind' have dtype <U5, expected numbers.",
    ),
    "none.npz": (
        partial(npz, input=INPUT[:0], kind=KIND[:0], level=LEVEL[:0]),
        "none.npz holds no rows, expected at least one.",
    ),
    "one.npz": (
        partial(npz, input=INPUT[:1], kind=KIND[:1], level=LEVEL[:1]),
        "the data has 1 usable example(s), fine-tuning needs 2 or more: one to evaluate on.",
    ),
    "weights.npz": (
        partial(npz, sample_weight=-np.ones(60, np.float32)),
        "weights.npz, row 1: sample weight: got -1, expected a finite number >= 0 (60 such rows).",
    ),
}  # fmt: skip

TABLE_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "empty.csv": (
        lambda path: path.touch(),
        "empty.csv is empty (0 bytes), expected a .csv table. Write it again.",
    ),
    "header.csv": (
        lambda path: path.write_text("a,b,kind\n"),
        "header.csv holds no rows, expected at least one.",
    ),
    "binary.csv": (lambda path: path.write_bytes(b"\xff\xfe\x00\x01"), "binary.csv cannot be read as csv ("),
    "ragged.csv": (
        lambda path: path.write_text(csv(extra="1,2")),
        "ragged.csv, row 5: wrong number of fields: got 2 fields, expected 3. Correct or remove the row.",
    ),
    "column.csv": (
        lambda path: path.write_text(csv("a,c,kind")),
        "column.csv has no column 'b'; it holds a, c, kind. Add the column, or name the right one.",
    ),
    "target.csv": (
        lambda path: path.write_text(csv("a,b,knid")),
        "target.csv has no column 'kind'; it holds a, b, knid. Did you mean 'knid'?",
    ),
    "label.csv": (
        lambda path: path.write_text(csv(extra="1,2,7")),
        "label.csv, row 5: target 'kind' is out of range: got 7, expected a whole number from 0 to 2.",
    ),
    "nan.csv": (
        lambda path: path.write_text(csv(extra="nan,2,1")),
        "nan.csv, row 5: missing input value: got NaN or nothing in column 'a', expected a number.",
    ),
    "words.csv": (
        lambda path: path.write_text(csv(extra="warm,2,1")),
        "words.csv, row 5: column 'a' is not a number: got 'warm', expected a number such as 1.5",
    ),
    "text.parquet": (lambda path: path.write_text("a,b"), "text.parquet cannot be read as parquet ("),
    "cut.parquet": (
        partial(parquet, cut=40),
        "cut.parquet cannot be read as parquet (Parquet magic bytes not found in footer. Either the file is corrupted or",
    ),
    "column.parquet": (
        partial(parquet, without="b"),
        "column.parquet has no column 'b'; it holds a, kind. Add the",
    ),
}


@pytest.mark.parametrize(
    ("bundle", "name", "make", "text"),
    [
        *(pytest.param("bundle", name, *case, id=name) for name, case in ARRAY_FILES.items()),
        *(pytest.param("table-bundle", name, *case, id=name) for name, case in TABLE_FILES.items()),
    ],
)
def test_a_bad_data_file(
    folder: Path, bundle: str, name: str, make: Callable[[Path], object], text: str
) -> None:
    make(Path(name))
    for option in ("--data", "--evaluation"):
        if option == "--evaluation" and name == "one.npz":
            continue  # one example can be evaluated on
        files = {"--data": "examples.npz" if bundle == "bundle" else "examples.csv", option: name}
        options = [part for item in files.items() for part in item]
        got = refused(folder, "finetune", bundle, *options, "--runtime", "onnxruntime", "--out", "tuned")
        assert got.startswith(text)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--lr", "1e6"], r"fine-tuning diverged: the loss of task '\w+' is (nan|inf) at step \d+ with lr 1e\+06\. "),
        (["--lr", "-1"], r"lr is -1\.0, expected a finite number > 0\.$"),
        (["--lr", "nan"], r"lr is nan, expected a finite number > 0\.$"),
        (["--momentum", "1"], r"momentum is 1\.0, expected a number in \[0, 1\)\.$"),
        (["--runtime", "onxruntime"], r"unknown runtime 'onxruntime'; expected one of onnxruntime, ort_training, .*Did you mean"),
        (["--out", "checkpoint"], r"'checkpoint' exists and is not a bundle: nothing was written\. Give another --out"),
        (["--out", "run.toml"], r"'run\.toml' exists and is not a bundle: nothing was written\. Give another --out"),
        (["--out", "run.toml/x"], r"bundle 'run\.toml/x' cannot be written: '\S+run\.toml' is no folder\. Give another"),
    ],
)  # fmt: skip
def test_a_bad_option_of_finetune(folder: Path, options: list[str], text: str) -> None:
    usual = ["--data", "examples.npz", "--runtime", "onnxruntime", "--out", "tuned"]
    assert re.match(text, refused(folder, "finetune", "bundle", *usual, *options))


def test_a_step_that_overflows_last_writes_nothing(folder: Path) -> None:
    """The loss of the last step is finite: only what the step made is not."""
    npz(Path("few.npz"), input=INPUT[:8], kind=KIND[:8], level=LEVEL[:8])
    options = [
        "--data",
        "few.npz",
        "--runtime",
        "onnxruntime",
        "--out",
        "tuned",
        "--epochs",
        "1",
        "--lr",
        "3e38",
    ]
    text = refused(folder, "finetune", "bundle", *options)
    assert re.match(
        r"fine-tuning diverged: (tensor|the output of task) '\S+' is NaN or infinite after the last step with lr 3e\+38",
        text,
    )


def edited(folder: Path, change: Callable[[dict], object]) -> None:
    manifest = json.loads((folder / "manifest.json").read_text())
    change(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def link_away(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "wrong hash": (
        lambda bundle: flip_a_bit(bundle / f"targets/{TARGET}/train_step.onnx"),
        rf"bundle 'bundle': 'targets/{TARGET}/train_step\.onnx' has sha256 \w+…, the manifest says \w+…: it was changed\.",
    ),
    "truncated file": (
        lambda bundle: os.truncate(bundle / "params.safetensors", 99),
        r"bundle 'bundle': 'params\.safetensors' has 99 bytes, the manifest says \d+: it is truncated or was changed\.",
    ),
    "missing file": (
        lambda bundle: (bundle / "momentum.safetensors").unlink(),
        r"bundle 'bundle': 'momentum\.safetensors' is missing\. Export again, or take it from a backup\.",
    ),
    "link": (
        lambda bundle: link_away(bundle / "params.safetensors"),
        r"bundle 'bundle': 'params\.safetensors' is a link\. Copy the real file there\.",
    ),
    "escaping path": (
        lambda bundle: edited(bundle, lambda m: m["files"].update({"../x": {"size_bytes": 1, "sha256": "0" * 64}})),
        r"bundle 'bundle' names the file '\.\./x', which may lead out of the bundle\. It was not written by this program",
    ),
    "absolute path": (
        lambda bundle: edited(bundle, lambda m: m["targets"][TARGET]["artifacts"].update(infer="/etc/passwd")),
        rf"bundle 'bundle': target '{TARGET}' names '/etc/passwd', which the manifest does not list among its files\.",
    ),
    "newer schema": (
        lambda bundle: edited(bundle, lambda m: m.update(schema_version=2)),
        r"bundle 'bundle' has schema version 2, this program reads 1\. Use the version of NagEdge that wrote it, or",
    ),
    "unknown key": (
        lambda bundle: edited(bundle, lambda m: m.update(colour="red")),
        r"bundle 'bundle': manifest\.json is wrong at 'colour': this key is unknown\.",
    ),
    "half a manifest": (
        lambda bundle: os.truncate(bundle / "manifest.json", 200),
        r"bundle 'bundle': manifest\.json is damaged \(",
    ),
    "another program's folder": (
        lambda bundle: (bundle / "manifest.json").write_text("{}"),
        r"'bundle' is no bundle: manifest\.json lacks \"format\": \"nagedge-bundle\"\.",
    ),
    "no bundle": (
        lambda bundle: (bundle / "manifest.json").unlink(),
        r"'bundle' holds no bundle: expected a folder or \.zip with manifest\.json\. Give what `nagedge export --out`",
    ),
    "nothing": (
        shutil.rmtree,
        r"'bundle' does not exist: expected a folder or \.zip with manifest\.json\.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_bad_bundle(folder: Path, damage: str) -> None:
    change, text = DAMAGES[damage]
    change(Path("bundle"))
    for arguments in (
        ["verify", "bundle"],
        ["profile", "bundle"],
        ["finetune", "bundle", "--data", "examples.npz", "--runtime", "onnxruntime", "--out", "tuned"],
    ):
        assert re.match(text, refused(folder, *arguments))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (
            ["--target", f"{TARGET[:-2]}ni"],
            (f"unknown target '{TARGET[:-2]}ni'; `nagedge targets ls` lists the {len(available_targets())} that come with NagEdge, or give the path of a "
            f".toml file. Did you mean '{TARGET}'?"),
        ),
        (["--target", "absent.toml"], "target file absent.toml: cannot be read (No such file or directory); give the"),
        (["--trainable", "nothing_like_it"], "trainable 'nothing_like_it' matches no parameter that the model reads. The"),
        (["--trainable", "("], "trainable '(' is neither all, heads, bias, norm, lora:RANK nor a regular expression: "),
        (["--trainable", "lora:0"], "trainable 'lora:0': expected 'lora:RANK' with a rank >= 1, e.g. 'lora:4'."),
        (["--out", "run.toml"], "'run.toml' exists and is not a bundle: nothing was written. Give another --out."),
        (["--out", "checkpoint"], "'checkpoint' exists and is not a bundle: nothing was written. Give another --out"),
        (["--out", "run.toml/x"], "bundle 'run.toml/x' cannot be written: "),
    ],
)  # fmt: skip
def test_a_bad_option_of_export(folder: Path, options: list[str], text: str) -> None:
    usual = ["--out", "other", *(["--target", TARGET] if "--target" not in options else [])]
    assert refused(folder, "export", "checkpoint", *usual, *options).startswith(text)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("absent", "'absent' is neither a checkpoint folder (no checkpoint.json) nor 'package.module:factory'. Give the"),
        ("bundle", "'bundle' is neither a checkpoint folder (no checkpoint.json) nor 'package.module:factory'."),
        ("absent:make", "source 'absent:make' cannot be used: ModuleNotFoundError: No module named 'absent'. Expected"),
        ("bad_factories:absent", "source 'bad_factories:absent' cannot be used: AttributeError: module 'bad_factories' "),
        ("bad_factories:raises", "source 'bad_factories:raises' cannot be used: RuntimeError: the weights are gone."),
        ("bad_factories:leaves", "source 'bad_factories:leaves' cannot be used: SystemExit: 3. Expected"),
        ("bad_factories:needs", "source 'bad_factories:needs' cannot be used: TypeError: needs() missing 1 required"),
        ("bad_factories:number", "source 'bad_factories:number' returned int, expected (model, tasks, example_input)."),
        (
            "bad_factories:small",
            ("the model's output for task 'state' has shape (batch, 2), but a classification task of size 3 needs "
            "(batch, 3): change the head or the task's size."),
        ),
        (
            "bad_factories:forward_fails",
            ("Linear fails on its example_input: mat1 and mat2 shapes cannot be multiplied (4x5 and 4x3). Give an "
            "example_input that the model's forward accepts."),
        ),
        (
            "bad_factories:unsupported",
            f"backend 'onnxruntime' cannot lower 'aten.erfinv' (module '1') for target '{TARGET}'. Replace it",
        ),
    ],
)  # fmt: skip
def test_a_bad_source(folder: Path, source: str, text: str) -> None:
    assert refused(folder, "export", source, "--target", TARGET, "--out", "other").startswith(text)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (
            lambda path: flip_a_bit(next(path.glob("params-*"))),
            r"checkpoint '\S*checkpoint': params-\w+\.safetensors is damaged: its \d+ bytes are not the \d+ bytes with ",
        ),
        (
            lambda path: next(path.glob("momentum-*")).unlink(),
            r"checkpoint '\S*checkpoint': momentum-\w+\.safetensors cannot be read \(No such file or directory\)\. Take",
        ),
        (
            lambda path: os.truncate(path / "checkpoint.json", 50),
            r"checkpoint '\S*checkpoint': checkpoint\.json is damaged \(",
        ),
    ],
)  # fmt: skip
def test_a_damaged_checkpoint(folder: Path, change: Callable[[Path], object], text: str) -> None:
    change(folder / "checkpoint")
    assert re.match(text, refused(folder, "export", "checkpoint", "--target", TARGET, "--out", "other"))
    assert re.match(text, refused(folder, "train", "run.toml", "--resume"))


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            "batch_size",
            "batchsize",
            "run file 'other.toml': unknown key 'batchsize'. Did you mean 'batch_size'?",
        ),
        (
            "[schedule]",
            "[scheduel]",
            "run file 'other.toml': unknown key 'scheduel'. Did you mean 'schedule'?",
        ),
        ("= 16", '= "many"', "run file 'other.toml': batch_size is 'many': input should be a valid integer"),
        (
            "= 16",
            "= -1",
            "run file 'other.toml': batch_size is -1: input should be greater than or equal to 1.",
        ),
        ("epochs = 1", "epochs = ", "run file 'other.toml' is not valid TOML: "),
        (
            '"arrays"',
            '"array"',
            "run file 'other.toml': data.source is 'array': input should be 'mnist', 'arrays', ",
        ),
        (
            '"mlp"',
            '"mpl"',
            "run file 'other.toml': model: unknown trunk 'mpl', expected cnn, ds_cnn, bc_resnet, mlp, tokens, timm:NAME or ",
        ),
        (
            '"classification"',
            '"clasification"',
            (
                "run file 'other.toml': task 'kind': unknown kind 'clasification'; expected one of classification, binary, "
                "multilabel, regression, ordinal, quantile, mixture, segmentation, tagging, embedding. Did you mean "
                "'classification'?"
            ),
        ),
    ],
)
def test_a_bad_run_file(folder: Path, old: str, new: str, text: str) -> None:
    assert old in RUN
    Path("other.toml").write_text(RUN.replace(old, new))
    assert refused(folder, "train", "other.toml", "--out", "new").startswith(text)


@pytest.mark.parametrize(
    ("old", "new", "text"),
    [
        (
            "examples.npz",
            "absent.npz",
            "absent.npz is not a file, expected a .npz archive of numpy arrays. Check the",
        ),
        (
            "size = 3",
            "size = 2",
            "examples.npz, row 1: target 'kind' is out of range: got 2, expected a whole number",
        ),
        (
            "examples.npz",
            "nan.npz",
            "nan.npz, row 6: missing input value: got NaN or nothing at position 1, expected",
        ),
    ],
)
def test_a_run_whose_data_does_not_fit(folder: Path, old: str, new: str, text: str) -> None:
    npz(Path("nan.npz"), input=at(INPUT, (5, 1), np.nan))
    Path("other.toml").write_text(RUN.replace(old, new))
    got = refused(folder, "train", "other.toml", "--out", "new")
    assert text.removesuffix("row 1: target") in got or re.search(text.replace("row 1", r"row \d+"), got)
    assert got.startswith(str(folder))


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["train", "run.toml"], "already holds a checkpoint. Continue it with --resume, or give another folder with"),
        (["train", "absent.toml"], "run file 'absent.toml' cannot be read: No such file or directory. Write one with: "),
        (["train", "checkpoint"], "run file 'checkpoint' cannot be read: Is a directory. Write one with: "),
        (["train", "run.toml", "--out", "new", "--strategy", "dpp"], "and strategy 'dpp' cannot be used here: You "),
        (["train", "run.toml", "--out", "table.toml"], "cannot be written: a part of its path is a file. The"),
        (["init", "run.toml"], "run.toml exists already and is kept; give another path."),
        (["init", "absent/run.toml"], "absent/run.toml: No such file or directory; check the path, its permissions and"),
        (["verify", "bundle", "--steps", "1", "--json", "run.toml/x"], "run.toml/x: a part of its path is a file; check"),
        (["profile", "bundle", "--device", "adb"], "unknown device 'adb'; expected host, emulated:CORE, adb:SERIAL or ios-simulator, as `nagedge devices ls`"),
        (["profile", "bundle", "--what", "infer,trian"], "cannot profile 'trian'; expected one of infer, train. Did you"),
        (["targets", "cat", "any"], "unknown target 'any'; `nagedge targets ls` lists the "),
        (["demo", "--out", "checkpoint"], "checkpoint holds files already, which are kept; give a new folder with --out"),
    ],
)  # fmt: skip
def test_other_bad_arguments(folder: Path, arguments: list[str], text: str) -> None:
    if "--json" in arguments:  # what was verified before its report could not be written stays verified
        assert command("verify", "bundle", "--steps", "1").exit_code == 0
    assert text in refused(folder, *arguments)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["export", "checkpoint", "--target", TARGET, "--out", "other", "--batch", "0"], "'--batch'"),
        (
            ["export", "checkpoint", "--target", TARGET, "--out", "other", "--batch-norm", "folded"],
            "'freeze'",
        ),
        (["export", "checkpoint", "--out", "other"], "'--target'"),
        (["verify", "bundle", "--steps", "0"], "'--steps'"),
        (["finetune", "bundle", "--data", "examples.npz", "--runtime", "torch"], "'--out'"),
        (["finteune", "bundle"], "finteune"),
    ],
)
def test_a_usage_error_names_the_option(folder: Path, arguments: list[str], text: str) -> None:
    before = contents(folder)
    result = command(*arguments)
    assert result.exit_code == 2
    assert text in result.stderr
    assert "Traceback" not in result.output
    assert contents(folder) == before


def start(*arguments: str, largest_file_bytes: int | None = None) -> subprocess.Popen[str]:
    """Start ``nagedge`` in a process of its own, where no file may grow larger than given: a disk that is full."""
    limit = "" if largest_file_bytes is None else (
        f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file_bytes}, {largest_file_bytes})); "
    )  # fmt: skip
    # Where the tests run in the background, interrupts are ignored, and a child inherits that.
    heard = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = f"{limit}{heard}from nagedge.cli import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_traceback_is_shown_on_demand_only(folder: Path) -> None:
    for options, shown in (([], False), (["--debug"], True)):
        process = start(*options, "verify", "absent")
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 2
        assert ("Traceback" in errors) is shown
        assert errors.splitlines()[-1].startswith(
            "error: 'absent' does not exist: expected a folder or .zip with "
        )


@pytest.mark.skipif(sys.platform == "win32", reason="limits of file sizes are POSIX")
@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["export", "checkpoint", "--target", TARGET, "--out", "bundle"],
            "bundle 'bundle' cannot be written: File too large. What was there is kept; free some space, or give another",
        ),
        (
            ["finetune", "bundle", "--data", "examples.npz", "--runtime", "onnxruntime", "--out", "bundle"],
            "bundle 'bundle' cannot be written: File too large. What was there is kept; free some space, or give another",
        ),
        (["train", "run.toml", "--out", "new"], "cannot be written: File too large. The checkpoint that it held is kept"),
        (["verify", "bundle", "--json", "report.json"], "report.json: File too large; check the path"),
    ],
)  # fmt: skip
def test_a_full_disk_loses_nothing(folder: Path, arguments: list[str], text: str) -> None:
    Path("report.json").write_text("the last report")
    if "--json" in arguments:
        assert command("verify", "bundle").exit_code == 0  # so that its verdict is in the manifest already
    before = contents(folder)
    process = start(*arguments, largest_file_bytes=20_000)
    _, errors = process.communicate(timeout=300)
    assert (process.returncode, text in errors, "Traceback" in errors) == (2, True, False), errors
    Path("new").rmdir() if Path("new").exists() else None
    assert contents(folder) == before


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
def test_ctrl_c_keeps_the_checkpoint_from_which_training_goes_on(folder: Path) -> None:
    Path("long.toml").write_text(RUN.replace("epochs = 1", "epochs = 400"))
    process = start("train", "long.toml", "--out", "long")
    state = Path("long/checkpoint.json")
    deadline = time.monotonic() + 120
    while not state.exists() or json.loads(state.read_text())["state"]["step"] < 6:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130
    assert errors.startswith(
        "error: interrupted. Files that were complete are kept, none is left half written;"
    )
    assert "nagedge train RUN.toml --resume" in errors
    assert "Traceback" not in errors
    assert command("export", "long", "--target", TARGET, "--out", "other").exit_code == 0
    resumed = command("train", "long.toml", "--out", "long", "--resume")
    assert resumed.exit_code == 0, resumed.output
    assert command("train", "long.toml", "--out", "whole").exit_code == 0
    assert {p.name for p in Path("long").iterdir()} == {
        p.name for p in Path("whole").iterdir()
    }  # hashes in the names
