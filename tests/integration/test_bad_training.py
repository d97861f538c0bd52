"""Bad input of multi-task training through the real command line: one clear text, nothing written, nothing lost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import nagedge
from nagedge.cli.app import app
from nagedge.training.checkpoint import Checkpoint

RUN = """
output = "checkpoint"
batch_size = 4
checkpoint_steps = 20
[data]
source = "{source}"
path = "{path}"
{data}
[model]
trunk = "mlp"
[tasks.kind]
kind = "classification"
size = 3
[tasks.level]
kind = "regression"
{level}
[schedule]
epochs = {epochs}
{more}
"""
PROGRAM = "from nagedge.cli import main\n\nmain()\n"
Write = Callable[..., None]


def arrays(**changed: object) -> dict[str, object]:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(600, 3)).astype(np.float32)
    return {"input": values, "kind": rng.integers(0, 3, 600), "level": values[:, 0].copy(), **changed}


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write examples and a run file into a folder of the test's own, which is the working directory."""
    monkeypatch.chdir(tmp_path)

    def write_files(
        changed: dict[str, object] | None = None,
        *,
        level: str = "",
        more: str = "",
        data: str = "",
        source: str = "arrays",
        path: str = "examples.npz",
        epochs: int = 1,
    ) -> None:
        np.savez("examples.npz", **arrays(**(changed or {})))
        text = RUN.format(source=source, path=path, data=data, level=level, more=more, epochs=epochs)
        Path("run.toml").write_text(text)

    return write_files  # fmt: skip


def refused() -> str:
    result = CliRunner().invoke(app, ["train", "run.toml"])
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.output
    assert not Path("checkpoint").exists()
    return result.stderr.removeprefix("error: ").strip()


NOTHING = np.full(600, np.nan, np.float32)


def test_a_task_that_never_has_labels(write: Write) -> None:
    write({"level": NOTHING}, level="missing = true")
    assert re.fullmatch(
        r"\S*examples\.npz: task 'level' has no label in any of the 420 training rows, expected at least one\. Label some"
        r" rows, or remove the task\.",
        refused(),
    )
    write({"kind": np.full(600, -100)})
    assert "task 'kind' has no label in any of the 420 training rows" in refused()


def test_targets_that_are_all_nan(write: Write) -> None:
    write({"level": NOTHING})
    assert re.match(
        r"\S*examples\.npz, row 1: target 'level' is missing: got nan.* \(600 such rows\)\. ", refused()
    )
    write({"level": NOTHING}, data='[data.preprocessing]\nbad_rows = "drop"')
    assert re.match(
        r"no usable row is left\. .*600 rows read, 0 kept; 600 dropped: target 'level' is missing", refused()
    )


def test_one_class_only(write: Write) -> None:
    write({"kind": np.full(600, 2)})
    assert re.search(
        r": all 420 training labels of task 'kind' are of class 2, expected at least two classes\. Give rows of other",
        refused(),
    )


def test_a_weight_below_zero(write: Write) -> None:
    write(level="weight = -0.5")
    assert re.fullmatch(
        r"run file 'run\.toml': tasks\.level\.weight is -0\.5: input should be greater than or equal to 0\.",
        refused(),
    )


@pytest.mark.parametrize(
    ("method", "requirement", "licence"),
    [
        ("cagrad", "nagedge[solvers]", "cvxpy and clarabel: Apache-2.0"),
        ("nash_mtl", "torchjd[nash-mtl]", "cvxpy: Apache-2.0, ecos: GPL-3.0"),
        ("fairgrad", "nagedge[solvers]", "scipy: BSD-3-Clause"),
    ],
)
def test_a_solver_that_is_not_installed(
    method: str, requirement: str, licence: str, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torchjd._mixins as mixins

    monkeypatch.setattr(mixins, "find_spec", lambda name: None)  # as on a machine that has none of them
    write(more=f'[balancing]\nmethod = "{method}"')
    assert refused().startswith(
        f"balancing method {method!r} needs a solver that is not installed: pip install '{requirement}' ({licence})."
    )


@pytest.mark.parametrize("kept", [40, 0.7])
def test_a_shard_that_is_truncated(kept: float, write: Write) -> None:
    Path("shards").mkdir()
    for part in range(2):
        columns = {f"x{i}": arrays()["input"][:, i] for i in range(3)}
        labels = {name: arrays()[name] for name in ("kind", "level")}
        pq.write_table(pa.table({**columns, **labels}), f"shards/part-{part}.parquet")
    second = Path("shards/part-1.parquet")
    content = second.read_bytes()
    second.write_bytes(content[: int(kept if kept > 1 else kept * len(content))])
    write(source="shards", path="shards", data='columns = ["x0", "x1", "x2"]')
    assert re.match(
        r"\S*part-1\.parquet is truncated or damaged after 0 rows \(.*\)\. Write this shard again", refused()
    )


def test_a_process_that_is_killed_in_the_middle(write: Write, tmp_path: Path) -> None:
    """The other one of two ends with one clear text, the checkpoint is whole, and the run goes on from it."""
    write(epochs=3)
    Path("program.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": path_of_the_tree(), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "program.py", "train", "run.toml", "--devices", "2", "--strategy", "ddp"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as first:
        try:
            wait_for(lambda: steps_done() >= 40)
            os.kill(child_of(first.pid), signal.SIGKILL)
            _, text = first.communicate(timeout=120)
        finally:
            first.kill()
    assert first.returncode == 2, text
    assert re.search(
        r"error: process 0 of 2 lost another one, which was killed or failed \(.*[Cc]onnection (reset|closed) by peer.*\)\."
        rf" The last checkpoint in '{re.escape(str(tmp_path / 'checkpoint'))}' is whole: .* --resume",
        text,
    )
    assert "Traceback" not in text
    stopped = Checkpoint.load("checkpoint")  # its hashes are checked
    assert 40 <= stopped.state.step < stopped.state.steps == 315
    subprocess.run(
        [*command, "--resume"], env=environment, check=True, timeout=300, stdout=subprocess.DEVNULL
    )
    assert CliRunner().invoke(app, ["train", "run.toml", "--out", "whole"]).exit_code == 0
    whole, resumed = Checkpoint.load("whole"), Checkpoint.load("checkpoint")
    assert resumed.finished
    for name, value in whole.params().items():
        np.testing.assert_allclose(
            resumed.params()[name].numpy(), value.numpy(), rtol=0, atol=1e-3, err_msg=name
        )


def path_of_the_tree() -> str:
    return os.pathsep.join([str(Path(nagedge.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])


def steps_done() -> int:
    try:
        return Checkpoint.load("checkpoint").state.step
    except nagedge.NagEdgeError:
        return 0


def child_of(parent: int) -> int:
    """Return the process that another one started; there is one."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    ).stdout
    pairs = (line.split() for line in listed.splitlines())
    (found,) = [int(pid) for pid, of in pairs if int(of) == parent]
    return found


def wait_for(condition: Callable[[], bool], *, seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "the run did not get that far"
        time.sleep(0.2)
