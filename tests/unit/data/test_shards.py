"""Shards: Parquet and tar, cleaned, mapped, shuffled, resumable, in less memory than they have bytes."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import nagedge
from nagedge.data.load import load_data
from nagedge.errors import ConfigurationError, DataError
from nagedge.training.events import CheckpointWritten, Event
from nagedge.training.fit import train
from nagedge.training.run import Run, parse_run

COLUMNS = ["a", "b", "c"]


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def table_of(rows: int, seed: int) -> pa.Table:
    x = np.random.default_rng(seed).standard_normal((rows, 3)) * [1, 5, 10] + [0, 2, -3]
    return pa.table({
        "a": x[:, 0], "b": x[:, 1], "c": x[:, 2], "kind": (x[:, 0] > 0).astype(int), "level": 4 * x[:, 1] + x[:, 2]
    })  # fmt: skip


def write_parquet(folder: Path, shards: int = 3, rows: int = 1500) -> None:
    folder.mkdir()
    for shard in range(shards):
        pq.write_table(table_of(rows, shard), folder / f"part-{shard}.parquet", row_group_size=500)


def run_of(folder: Path, **changes: object) -> Run:
    data = {
        "source": "shards", "path": str(folder), "columns": COLUMNS, "cache": str(folder.parent / "cache"),
        "preprocessing": {"normalise": "train"},
    }  # fmt: skip
    document = {
        "data": {**data, **changes},
        "model": {"trunk": "mlp", "hidden": [8]},
        "tasks": {"kind": {"kind": "classification", "size": 2}, "level": {"kind": "regression"}},
        "schedule": {"epochs": 2},
        "batch_size": 100,
        "checkpoint_steps": 10,
    }
    return parse_run(document, where="test")


def test_processes_share_no_prepared_rows_and_leave_none(tmp_path: Path) -> None:
    write_parquet(tmp_path / "shards", shards=1)
    code = (
        "import sys, json\nfrom pathlib import Path\nsys.path.insert(0, sys.argv[2])\nimport test_shards\n"
        "from nagedge.data.load import load_data\n"
        "run = test_shards.run_of(Path(sys.argv[1]))\n"
        "maps = [load_data(run.data, run.task_specs()).train.inputs['features'].filename for _ in range(2)]\n"
        "print(json.dumps([str(path) for path in maps]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "shards"), str(Path(__file__).parent)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    first, second = (Path(path) for path in json.loads(done.stdout))
    assert first.parent != second.parent
    assert first.is_relative_to(tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_the_splits_are_those_of_a_table_in_memory(tmp_path: Path) -> None:
    """The same rows in each part, the same statistics; only the order within a part is that of the shards."""
    write_parquet(tmp_path / "shards")
    whole = pa.concat_tables([pq.read_table(p) for p in sorted((tmp_path / "shards").glob("*.parquet"))])
    pq.write_table(whole, tmp_path / "all.parquet")
    run = run_of(tmp_path / "shards")
    streamed = load_data(run.data, run.task_specs())
    table = run.data.model_copy(update={"source": "table", "path": tmp_path / "all.parquet", "cache": None})
    memory = load_data(table, run.task_specs())
    assert streamed.preprocessing.steps == memory.preprocessing.steps
    assert streamed.preprocessing.targets == memory.preprocessing.targets
    for part in ("train", "validation", "test"):
        a, b = getattr(streamed, part), getattr(memory, part)
        assert len(a) == len(b)
        order_a, order_b = (np.lexsort(e.inputs["features"].T) for e in (a, b))
        np.testing.assert_array_equal(a.inputs["features"][order_a], b.inputs["features"][order_b])
        for task in ("kind", "level"):
            np.testing.assert_array_equal(a.targets[task][order_a], b.targets[task][order_b])
    assert isinstance(streamed.train.inputs["features"], np.memmap)


def test_a_killed_run_goes_on_in_the_middle_of_an_epoch(tmp_path: Path) -> None:
    write_parquet(tmp_path / "shards")
    run = run_of(tmp_path / "shards")
    whole = train(run, out=tmp_path / "whole")

    def kill(event: Event) -> None:
        if isinstance(event, CheckpointWritten) and event.step == 40:  # 31 steps an epoch
            raise Killed

    with pytest.raises(Killed):
        train(run, out=tmp_path / "killed", progress=kill)
    resumed = train(run, out=tmp_path / "killed", resume=True)
    for name, value in whole.params().items():
        assert torch.equal(value, resumed.params()[name]), name
    assert whole.state.test["level"]["r2"] > 0.9


def test_rows_that_cannot_be_used_are_counted_over_all_shards(tmp_path: Path) -> None:
    write_parquet(tmp_path / "shards", rows=600)
    for shard in (0, 2):
        path = tmp_path / f"shards/part-{shard}.parquet"
        table = pq.read_table(path)
        values = table["a"].to_pylist()
        values[7], values[550] = float("nan"), float("inf")
        pq.write_table(table.set_column(0, "a", pa.array(values)), path)
    with pytest.raises(DataError, match=r"part-0\.parquet, row 551: infinite input value"):
        load_data(run_of(tmp_path / "shards").data, run_of(tmp_path / "shards").task_specs())
    run = run_of(tmp_path / "shards", preprocessing={"missing": "drop", "bad_rows": "drop"})
    report = load_data(run.data, run.task_specs()).report
    assert (report.rows_read, report.rows_kept) == (1800, 1796)
    found = {entry.reason: (entry.count, entry.first_rows) for entry in report.dropped}
    assert found["missing input value"] == (2, ("part-0.parquet row 8", "part-2.parquet row 8"))
    assert found["infinite input value"][0] == 2


def write_tar(path: Path, rows: int, seed: int, *, labels: bool = True) -> None:
    rng = np.random.default_rng(seed)
    with tarfile.open(path, "w") as archive:

        def add(name: str, content: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))

        for row in range(rows):
            image = rng.standard_normal((1, 4, 4)).astype(np.float32)
            buffer = io.BytesIO()
            np.save(buffer, image)
            add(f"{row:06d}.npy", buffer.getvalue())
            if labels:
                add(
                    f"{row:06d}.json",
                    json.dumps({"kind": int(image.mean() > 0), "level": float(image[0, 0, 0])}).encode(),
                )


def tar_run(folder: Path) -> Run:
    run = run_of(folder)
    return run.model_copy(update={"data": run.data.model_copy(update={"columns": []})})


def test_tar_shards_train(tmp_path: Path) -> None:
    (tmp_path / "shards").mkdir()
    for shard in range(2):
        write_tar(tmp_path / f"shards/{shard}.tar", 1100, shard)
    run = tar_run(tmp_path / "shards")
    data = load_data(run.data, run.task_specs())
    assert data.input.shape == ("batch", 1, 4, 4)
    assert data.report.rows_kept == 2200
    assert train(run, out=tmp_path / "c", data=data).state.test["kind"]["accuracy"] > 0.8


@pytest.mark.parametrize("kind", ["parquet", "tar"])
def test_a_truncated_shard_is_named(kind: str, tmp_path: Path) -> None:
    if kind == "parquet":
        write_parquet(tmp_path / "shards")
        run, path = run_of(tmp_path / "shards"), tmp_path / "shards/part-1.parquet"
    else:
        (tmp_path / "shards").mkdir()
        write_tar(tmp_path / "shards/0.tar", 50, 0)
        run, path = tar_run(tmp_path / "shards"), tmp_path / "shards/0.tar"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2 + 100])
    with pytest.raises(DataError, match=rf"{path.name} is truncated or damaged after \d+ rows"):
        load_data(run.data, run.task_specs())


def test_other_folders_are_refused(tmp_path: Path) -> None:
    run = run_of(tmp_path / "shards")
    with pytest.raises(DataError, match="is not a folder"):
        load_data(run.data, run.task_specs())
    (tmp_path / "shards").mkdir()
    with pytest.raises(DataError, match=r"holds no \.parquet and no \.tar file"):
        load_data(run.data, run.task_specs())
    write_tar(tmp_path / "shards/0.tar", 3, 0, labels=False)
    with pytest.raises(DataError, match=r"sample '000000' has no labels \(\.json\)"):
        load_data(tar_run(tmp_path / "shards").data, run.task_specs())
    with pytest.raises(ConfigurationError, match="keeps duplicates"):
        run_of(tmp_path, preprocessing={"duplicates": "drop"})


LIMITED = """
import resource, sys
import numpy as np, pyarrow.parquet, torch
from nagedge.data.load import load_data
from nagedge.training.fit import train
from nagedge.training.run import load_run

torch.set_num_threads(1)
run = load_run(sys.argv[1])
now = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmData"))
allowed = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_DATA, (now + allowed, now + allowed))
try:
    np.ones(2 * allowed, np.uint8)
except MemoryError:
    print("limited")
print(train(run, out=sys.argv[3]).state.test["level"]["r2"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is one of Linux")
def test_data_larger_than_the_memory_allowed(tmp_path: Path) -> None:
    """140 MB of values in 96 MB beyond what the imported packages take, with everything that training needs."""
    (tmp_path / "shards").mkdir()
    names = [f"x{i}" for i in range(100)]
    for shard in range(7):
        x = np.random.default_rng(shard).standard_normal((50_000, 100)).astype(np.float32)
        table = pa.table({name: x[:, i] for i, name in enumerate(names)} | {"level": x[:, 0] - x[:, 1]})
        pq.write_table(table, tmp_path / f"shards/{shard}.parquet", row_group_size=5000, compression="NONE")
    size = sum(path.stat().st_size for path in (tmp_path / "shards").iterdir())
    allowed = 96 * 2**20
    assert size > 1.4 * allowed
    (tmp_path / "run.toml").write_text(
        'batch_size = 1000\n[data]\nsource = "shards"\npath = "shards"\ncache = "cache"\n'
        f"columns = {json.dumps(names)}\n"
        '[data.preprocessing]\nnormalise = "train"\n[model]\ntrunk = "mlp"\nhidden = [8]\n'
        '[tasks.level]\nkind = "regression"\n[schedule]\nepochs = 1\n'
    )
    (tmp_path / "limited.py").write_text(LIMITED)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "limited.py"), str(tmp_path / "run.toml"), str(allowed), str(tmp_path / "c")],
        check=False, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": str(Path(nagedge.__file__).parents[1]), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    limited, r2 = done.stdout.split()
    assert limited == "limited"
    assert float(r2) > 0.9
