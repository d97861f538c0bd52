"""The runner as its clients see it: a process, lines of JSON, files of arrays."""

from __future__ import annotations

import ast
import gc
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from models_for_tests import CASES, exported, numpy_batch

from nagedge.bundle import Bundle
from nagedge.errors import BundleError
from nagedge.runtimes import open_training, runner
from nagedge.runtimes.state import initial_state
from nagedge.runtimes.worker import RunnerError, Worker

SETTINGS = {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.01}
COMMAND = [sys.executable, "-I", runner.__file__]


@pytest.fixture
def worker() -> Worker:
    return Worker(COMMAND, runtime="here")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported(CASES["conv"](), tmp_path_factory.mktemp("bundle") / "b", batch_norm="train")


def opening(bundle: Bundle) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what opens the stock training step, and the first state by input name."""
    _, entry = bundle.target(None, role="train_step")
    state = initial_state(bundle)
    roles = {"params": state.params, "momentum": state.momentum, "buffers": state.buffers}
    arrays = {f"{role}.{name}": array for role, own in roles.items() for name, array in own.items()}
    keys = {
        "kind": "onnxruntime", "model": str(bundle.file(entry.artifacts["train_step"])), "session": "s",
        "state": "initial.npz", "carry": {f"next.{name}": name for name in arrays},
    }  # fmt: skip
    return keys, arrays


def fed(bundle: Bundle, seed: int) -> dict[str, Any]:
    inputs, targets = numpy_batch(bundle, 4, seed=seed)
    scalars = {key: np.asarray(value, np.float32) for key, value in SETTINGS.items()}
    named = {f"target.{name}": array for name, array in targets.items()}
    return {**inputs, **named, "sample_weight": np.ones(4, np.float32), **scalars}


# --- arrays ---------------------------------------------------------------------------------------------------------


def test_arrays_keep_names_dtypes_and_shapes(tmp_path: Path) -> None:
    arrays = {
        "params.a": np.ones((2, 0, 3), np.float32), "file": np.asarray(3.0), "a/b": np.asarray([True, False]),
        "Änne 1": np.arange(4, dtype=np.int64)[::2], "": np.zeros(1, np.float16),
    }  # fmt: skip
    runner.save_arrays(tmp_path / "x.npz", arrays)
    read = runner.load_arrays(tmp_path / "x.npz")
    assert list(read) == list(arrays)
    for name, array in arrays.items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        assert np.array_equal(read[name], array)


def test_no_pickle_is_written_or_read(tmp_path: Path) -> None:
    objects = np.asarray([{"a": 1}], dtype=object)
    with pytest.raises(ValueError, match=r"allow_pickle|Object arrays"):
        runner.save_arrays(tmp_path / "x.npz", {"x": objects})
    np.savez(tmp_path / "y.npz", x=objects)
    with pytest.raises(ValueError, match="allow_pickle"):
        runner.load_arrays(tmp_path / "y.npz")


# --- the program ----------------------------------------------------------------------------------------------------


def test_it_needs_the_standard_library_and_numpy_only_and_an_old_python() -> None:
    source = Path(runner.__file__).read_text(encoding="utf-8")
    tree = ast.parse(source, feature_version=(3, 9))
    imported = {
        (name.name if isinstance(node, ast.Import) else node.module or "").partition(".")[0]
        for node in tree.body
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in node.names
    }
    assert imported - sys.stdlib_module_names == {"numpy"}
    assert "nagedge" not in {
        alias.name.partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }


def test_a_job_file_is_answered_into_a_file(bundle: Bundle, tmp_path: Path) -> None:
    keys, arrays = opening(bundle)
    runner.save_arrays(tmp_path / "initial.npz", arrays)
    requests: list[dict[str, Any]] = [{"id": "a", "op": "hello"}, {"op": "open", **keys}]
    for i in range(3):
        runner.save_arrays(tmp_path / f"in{i}.npz", fed(bundle, i))
        requests.append({"op": "step", "session": "s", "inputs": f"in{i}.npz", "outputs": f"out{i}.npz"})
    requests += [{"op": "state", "session": "s", "outputs": "state.npz"}, {"op": "close", "session": "s"}]
    job = tmp_path / "job.jsonl"
    job.write_text("\n\n".join(map(json.dumps, requests)), "utf-8")  # blank lines are no requests
    done = subprocess.run(
        [*COMMAND, "--requests", job, "--answers", tmp_path / "answers.jsonl", "--folder", tmp_path],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == ""
    answers = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    assert [reply["ok"] for reply in answers] == [True] * 7
    assert answers[0]["id"] == "a"
    assert answers[1]["runtime"].startswith("onnxruntime ")
    assert set(arrays) < set(answers[1]["inputs"])
    assert all(reply["seconds"] > 0 for reply in answers[2:5])
    # the same steps in this process: the same bits
    reference = open_training(bundle)
    for i in range(3):
        inputs, targets = numpy_batch(bundle, 4, seed=i)
        losses = reference.step(inputs, targets, **SETTINGS)
        got = runner.load_arrays(tmp_path / f"out{i}.npz")
        assert {name: float(value) for name, value in got.items()} == {
            "loss": losses["loss"], "loss.kind": losses["kind"], "loss.level": losses["level"],
        }  # fmt: skip
    state = runner.load_arrays(tmp_path / "state.npz")
    assert state.keys() == arrays.keys()
    for name, array in reference.state().params.items():
        assert np.array_equal(state[f"params.{name}"], array)


def test_predict_leaves_the_state_alone(bundle: Bundle, worker: Worker) -> None:
    keys, arrays = opening(bundle)
    runner.save_arrays(worker.folder / "initial.npz", arrays)
    worker.request("open", about="x", **keys)
    first = worker.run("predict", fed(bundle, 0), about="x", session="s")
    again = worker.run("predict", fed(bundle, 0), about="x", session="s")
    assert first["loss"] == again["loss"]
    assert "next.params.kind.weight" in first  # nothing is carried: everything comes back


def test_what_a_library_prints_does_not_disturb_the_protocol(worker: Worker) -> None:
    reply = worker.request("hello", about="this", module="this")  # a module that prints a poem
    assert reply["numpy"] == np.__version__
    assert "Beautiful is better than ugly." in (worker.folder / "stderr.txt").read_text()


@pytest.mark.parametrize(
    ("request_keys", "kind", "text"),
    [
        ({"op": "fly", "session": "s"}, "ValueError", "no session 's' is open"),
        ({"op": "hello", "module": "no_such_module"}, "ModuleNotFoundError", "no_such_module"),
        ({"op": "open", "session": "s", "kind": "abacus"}, "ValueError", "unknown kind 'abacus'; expected one of"),
        ({"op": "open", "session": "s", "kind": "onnxruntime", "model": "nowhere.onnx"}, "NoSuchFile", "nowhere.onnx"),
        ({"op": "open", "kind": "onnxruntime"}, "KeyError", "session"),
    ],
)  # fmt: skip
def test_a_request_that_fails_is_answered_and_the_next_one_works(
    worker: Worker, request_keys: dict[str, Any], kind: str, text: str
) -> None:
    with pytest.raises(RunnerError) as caught:
        worker.request(request_keys.pop("op"), about="x", **request_keys)
    assert caught.value.kind == kind
    assert text in str(caught.value)
    assert worker.request("hello", about="x")["ok"]


def test_lines_that_are_no_requests_are_answered() -> None:
    done = subprocess.run(
        COMMAND,
        input='nonsense\n[1, 2]\n{"id": 5}\n{"op": "hello"}\n',
        capture_output=True,
        text=True,
        check=True,
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert [reply["ok"] for reply in replies] == [False, False, False, True]
    assert replies[2] == {"id": 5, "ok": False, "type": "KeyError", "error": "'op'"}


# --- the process and its end ----------------------------------------------------------------------------------------


def dying(how: str) -> Worker:
    """Return a worker whose process dies when it is asked something."""
    code = f"import os, signal, sys; sys.stdin.readline(); print('about to go', file=sys.stderr); {how}"
    return Worker([sys.executable, "-c", code], runtime="fragile")


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "runtime 'fragile' was killed by SIGSEGV while it worked on 'm.onnx'"),
        ("os.kill(os.getpid(), signal.SIGFPE)", "was killed by SIGFPE"),
        ("os._exit(128 + signal.SIGABRT)", "was killed by SIGABRT"),  # as an emulator says it
        ("os._exit(3)", "ended with exit code 3"),
    ],
)  # fmt: skip
def test_a_crash_is_one_clear_error(how: str, text: str) -> None:
    with pytest.raises(BundleError) as caught:
        dying(how).request("hello", about="m.onnx")
    assert text in str(caught.value)
    assert "Its last words: about to go" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_worker_that_died_says_so_every_time() -> None:
    worker = dying("os._exit(3)")
    for _ in range(2):
        with pytest.raises(BundleError, match="exit code 3"):
            worker.request("hello", about="m.onnx")


def gone(process: subprocess.Popen[str]) -> bool:
    for _ in range(100):
        if process.poll() is not None:
            return True
        time.sleep(0.05)
    return False


def test_the_process_and_its_folder_go_with_the_object(worker: Worker) -> None:
    other = Worker(COMMAND, runtime="here")
    other.request("hello", about="x")
    process, folder = other._process, other.folder
    assert folder.is_dir()
    del other
    gc.collect()
    assert gone(process)
    assert not folder.exists()
    worker.close()
    assert gone(worker._process)
    assert not worker.folder.exists()
    worker.close()  # twice is fine


def test_the_runner_ends_when_its_client_does() -> None:
    program = (
        "import sys\nfrom nagedge.runtimes.worker import Worker\n"
        f"worker = Worker({COMMAND!r}, runtime='here')\nworker.request('hello', about='x')\n"
        "print(worker._process.pid, flush=True)\nimport os\nos._exit(0)  # no finalizer runs\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    status = Path(f"/proc/{int(done.stdout)}/status")
    for _ in range(100):
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.05)
    raise AssertionError("the runner outlived its client")
